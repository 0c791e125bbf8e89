from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.info_nce import NO_IMAGE, NO_KEY, info_nce, pretext_scores


def unit_rows(rows: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def from_no_image(rows: int) -> Tensor:
    return torch.full((rows,), NO_IMAGE)


def loss_of(
    queries: Tensor, positives: Tensor, negatives: Tensor, temperature: float = 0.2
) -> Tensor:
    """Return the loss where every negative counts for every query."""
    return info_nce(
        queries,
        positives,
        negatives,
        temperature,
        query_ids=torch.arange(len(queries)),
        negative_ids=from_no_image(len(negatives)),
    )


def test_equals_a_case_computed_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    positives = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    negatives = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    first = math.log(math.exp(2.0) + math.exp(0.0) + math.exp(-2.0) + math.exp(1.6)) - 2.0
    second = math.log(math.exp(1.6) + math.exp(2.0) + math.exp(0.0) + math.exp(1.2)) - 1.6
    loss = loss_of(queries, positives, negatives, temperature=0.5)
    assert loss.shape == ()
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("negatives", [0, 1, 33])
def test_equals_cross_entropy_with_the_positive_as_class_0(
    temperature: float, negatives: int
) -> None:
    queries, positives = unit_rows(6, 5, 0), unit_rows(6, 5, 1)
    others = unit_rows(negatives, 5, 2)
    logits = torch.stack(
        [torch.cat([k[None], others]) @ q for q, k in zip(queries, positives, strict=True)]
    )
    expected = F.cross_entropy(logits / temperature, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(
        loss_of(queries, positives, others, temperature), expected, rtol=0, atol=1e-12
    )


def test_gradient_to_the_queries_is_the_closed_form() -> None:
    temperature, count = 0.2, 6
    queries = unit_rows(count, 5, 0).requires_grad_()
    positives, negatives = unit_rows(count, 5, 1), unit_rows(20, 5, 2)
    loss_of(queries, positives, negatives, temperature).backward()
    with torch.no_grad():
        own = (queries * positives).sum(dim=1, keepdim=True)
        chosen = (torch.cat([own, queries @ negatives.T], dim=1) / temperature).softmax(dim=1)
        pulled = (chosen[:, :1] - 1.0) * positives + chosen[:, 1:] @ negatives
        expected = pulled / (count * temperature)
    torch.testing.assert_close(queries.grad, expected, rtol=0, atol=1e-12)


def test_gradients_are_right_for_all_inputs_masked_rows_too() -> None:
    inputs = tuple(unit_rows(rows, 3, seed).requires_grad_() for seed, rows in enumerate((4, 4, 6)))
    query_ids = torch.tensor([5, 6, 7, 8])
    negative_ids = torch.tensor([NO_IMAGE, 6, 9, 8, 8, NO_IMAGE])

    def loss(queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        return info_nce(
            queries, positives, negatives, 0.5, query_ids=query_ids, negative_ids=negative_ids
        )

    assert torch.autograd.gradcheck(loss, inputs)


def test_a_key_of_the_same_image_counts_as_if_it_were_not_there() -> None:
    queries, positives, negatives = unit_rows(1, 5, 0), unit_rows(1, 5, 1), unit_rows(7, 5, 2)
    negative_ids = torch.tensor([3, 4, 9, 9, 5, NO_IMAGE, 9])
    kept = negative_ids != 9
    loss = info_nce(
        queries,
        positives,
        negatives,
        0.2,
        query_ids=torch.tensor([9]),
        negative_ids=negative_ids,
    )
    torch.testing.assert_close(
        loss, loss_of(queries, positives, negatives[kept]), rtol=0, atol=1e-12
    )
    assert abs(loss - loss_of(queries, positives, negatives)) > 1e-3


def test_a_row_without_a_key_counts_for_no_query() -> None:
    queries, positives, negatives = unit_rows(3, 5, 0), unit_rows(3, 5, 1), unit_rows(6, 5, 2)
    negative_ids = torch.tensor([NO_IMAGE, NO_KEY, 7, NO_KEY, NO_KEY, 8])
    loss = info_nce(
        queries,
        positives,
        negatives,
        0.2,
        query_ids=torch.arange(3),
        negative_ids=negative_ids,
    )
    filled = negatives[negative_ids != NO_KEY]
    torch.testing.assert_close(loss, loss_of(queries, positives, filled), rtol=0, atol=1e-12)


def test_a_key_is_left_out_for_its_own_image_only() -> None:
    queries, positives, negatives = unit_rows(2, 5, 0), unit_rows(2, 5, 1), unit_rows(3, 5, 2)
    loss = info_nce(
        queries,
        positives,
        negatives,
        0.2,
        query_ids=torch.tensor([0, 1]),
        negative_ids=torch.tensor([0, 1, 2]),
    )
    first = loss_of(queries[:1], positives[:1], negatives[[1, 2]])
    second = loss_of(queries[1:], positives[1:], negatives[[0, 2]])
    torch.testing.assert_close(loss, (first + second) / 2, rtol=0, atol=1e-12)


def test_a_key_from_no_image_is_a_negative_for_all() -> None:
    queries, positives, negatives = unit_rows(4, 5, 0), unit_rows(4, 5, 1), unit_rows(9, 5, 2)
    unknown = info_nce(
        queries,
        positives,
        negatives,
        0.2,
        query_ids=torch.arange(4),
        negative_ids=torch.arange(100, 109),
    )
    torch.testing.assert_close(loss_of(queries, positives, negatives), unknown, rtol=0, atol=0)


def test_is_near_zero_when_keys_are_found_among_orthogonal_ones() -> None:
    axes = torch.eye(8, dtype=torch.float64)
    queries, negatives = axes[:3], axes[3:]
    loss = loss_of(queries, queries.clone(), negatives, temperature=0.05)
    # the floor would be ln 2 = 0.693 were the positive among the negatives too
    assert loss.item() == pytest.approx(math.log1p(5 * math.exp(-20.0)), abs=1e-12)


def test_is_zero_with_a_zero_gradient_when_there_is_no_negative() -> None:
    queries, positives = unit_rows(3, 4, 0).requires_grad_(), unit_rows(3, 4, 1)
    for negatives, ids in (
        (torch.empty(0, 4, dtype=torch.float64), [0, 1, 2]),
        (unit_rows(2, 4, 2), [7, 7, 7]),
    ):
        loss = info_nce(
            queries,
            positives,
            negatives,
            0.2,
            query_ids=torch.tensor(ids),
            negative_ids=torch.full((len(negatives),), 7),
        )
        (gradient,) = torch.autograd.grad(loss, queries)
        assert loss.item() == 0.0
        assert torch.equal(gradient, torch.zeros_like(queries))


def test_does_not_overflow_at_a_tiny_temperature() -> None:
    queries, positives, negatives = (unit_rows(9, 5, seed).float() for seed in range(3))
    loss = loss_of(queries, positives, negatives, temperature=1e-3)
    assert loss.dtype == torch.float32
    assert 0 < loss.item() < math.inf


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_refuses_a_temperature_that_is_not_above_0(temperature: float) -> None:
    rows = unit_rows(2, 3, 0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        loss_of(rows, rows, rows, temperature)


@pytest.mark.parametrize(
    ("queries", "positives", "negatives", "query_ids", "negative_ids", "message"),
    [
        ((4, 3), (5, 3), (6, 3), 4, 6, r"queries and positives .* \[4, 3\] and \[5, 3\]"),
        ((4, 3), (4, 2), (6, 3), 4, 6, r"queries and positives"),
        ((4, 3, 1), (4, 3, 1), (6, 3), 4, 6, r"queries and positives"),
        ((4, 3), (4, 3), (3, 6), 4, 6, r"negatives must be \[M, 3\], got \[3, 6\]"),
        ((4, 3), (4, 3), (3,), 4, 3, r"negatives must be"),
        ((4, 3), (4, 3), (6, 3), 6, 6, r"\[6\] for 4 queries"),
        ((4, 3), (4, 3), (6, 3), 4, 4, r"\[4\] for 6 negatives"),
    ],
)
def test_refuses_shapes_that_do_not_fit(
    queries: tuple[int, ...],
    positives: tuple[int, ...],
    negatives: tuple[int, ...],
    query_ids: int,
    negative_ids: int,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        info_nce(
            torch.zeros(queries),
            torch.zeros(positives),
            torch.zeros(negatives),
            0.2,
            query_ids=torch.arange(query_ids),
            negative_ids=torch.arange(negative_ids),
        )


def test_pretext_scores_of_a_case_computed_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    positives = torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    negatives = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    scores = pretext_scores(
        queries,
        positives,
        negatives,
        query_ids=torch.tensor([0, 1]),
        negative_ids=torch.tensor([NO_IMAGE, 0, 1]),
    )
    # query 0: own 0.8, others 1 and 0 (its own image's -1 left out): not found
    # query 1: own 1.0, others 0 and 0 (its own image's 1 left out): found
    assert scores.positive_similarity.item() == pytest.approx(0.9)
    assert scores.negative_similarity.item() == pytest.approx(0.25)
    assert scores.pretext_top1.item() == pytest.approx(0.5)
    assert not any(score.requires_grad for score in scores)


def test_pretext_scores_without_a_negative() -> None:
    rows = unit_rows(3, 4, 0)
    scores = pretext_scores(
        rows, rows, rows[:0], query_ids=torch.arange(3), negative_ids=torch.arange(0)
    )
    assert [score.item() for score in scores] == pytest.approx([1.0, 0.0, 1.0])
