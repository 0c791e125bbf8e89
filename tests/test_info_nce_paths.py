"""Every way to the loss against the definition in float64: figures, gradients, scores, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import moco.info_nce_chunks as chunks
import moco.info_nce_paths as paths
from moco.info_nce import NO_IMAGE, NO_KEY, PretextScores
from moco.info_nce_chunks import score_in_chunks
from moco.info_nce_paths import path_for, score, score_by_definition

Scored = tuple[Tensor, PretextScores]
SHAPES = [
    (1, 1, 1),
    (3, 5, 2),
    (7, 301, 17),
    (16, 256, 32),
    (33, 1000, 48),
    (5, 0, 8),
    (64, 257, 3),
]
"""N, M, C: multiples of a chunk, and of nothing."""
TEMPERATURES = [0.01, 0.07, 0.2, 1.0]
KINDS = ["spread", "peaked", "one cluster"]
MASKS = ["none", "other images", "same images", "half filled", "empty"]


@dataclass
class Case:
    """What a loss is given, float64."""

    queries: Tensor
    positives: Tensor
    negatives: Tensor
    query_ids: Tensor
    negative_ids: Tensor | None

    def scored_by(
        self, path: Callable[..., Scored], temperature: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, its gradient to the queries, and the three scores."""
        queries = self.queries.to(dtype).requires_grad_()
        loss, scores = path(
            queries,
            self.positives.to(dtype),
            self.negatives.to(dtype),
            temperature,
            query_ids=self.query_ids,
            negative_ids=self.negative_ids,
        )
        assert not any(each.requires_grad for each in scores)
        (gradient,) = torch.autograd.grad(2.0 * loss, queries)
        return loss.detach(), gradient / 2, torch.stack(list(scores))


def case_of(shape: tuple[int, int, int], kind: str, mask: str) -> Case:
    count, others, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def rows(number: int, spread: float = 1.0) -> Tensor:
        centre = torch.ones(dim, dtype=torch.float64)
        drawn = torch.randn(number, dim, generator=generator, dtype=torch.float64)
        return F.normalize(drawn * spread + (centre if spread < 1 else 0.0), dim=1)

    spread = 1e-3 if kind == "one cluster" else 1.0
    queries, positives, negatives = rows(count, spread), rows(count, spread), rows(others, spread)
    if kind == "peaked":  # some queries are found among the negatives, to the last bit
        same = min(count, others) // 2
        negatives[:same] = queries[:same]
        positives[count // 2 :] = queries[count // 2 :]
    query_ids = torch.arange(count)
    ids = torch.randint(0, count, (others,), generator=generator)
    match mask:
        case "none":
            return Case(queries, positives, negatives, query_ids, None)
        case "other images":
            ids = torch.full((others,), NO_IMAGE)
        case "half filled":
            ids = torch.where(torch.arange(others) % 2 == 0, NO_KEY, ids)
        case "empty":
            ids = torch.full((others,), NO_KEY)
    return Case(queries, positives, negatives, query_ids, ids)


@pytest.fixture(params=[7, 256], ids=["chunks of 7 keys", "chunks of 256 keys"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(chunks, "FEWEST_KEYS", request.param)
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 1)
    return int(request.param)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chunks_are_the_definition(
    width: int, dtype: torch.dtype, temperature: float, kind: str, mask: str
) -> None:
    for shape in SHAPES:
        case = case_of(shape, kind, mask)
        exact = case.scored_by(score_by_definition, temperature, torch.float64)
        loss, gradient, scores = case.scored_by(score_in_chunks, temperature, dtype)
        # a cosine is off by a rounding of its sum; the temperature divides it
        unit = torch.finfo(dtype).eps * 8 / temperature
        torch.testing.assert_close(loss.double(), exact[0], rtol=unit, atol=unit)
        scale = 1.0 / (temperature * shape[0])
        torch.testing.assert_close(gradient.double(), exact[1], rtol=0, atol=unit * scale)
        torch.testing.assert_close(scores[:2].double(), exact[2][:2], rtol=0, atol=unit)
        if kind == "spread":  # elsewhere similarities are equal to the last bit
            assert scores[2].item() == pytest.approx(exact[2][2].item(), abs=1e-6)


def test_a_key_equal_to_the_positive_is_never_found_for_sure() -> None:
    """A key that stands among the negatives too is not nearer than itself."""
    axes = torch.eye(4)
    _, scores = score_in_chunks(
        axes, axes, axes[:2], 0.2, query_ids=torch.arange(4), negative_ids=None
    )
    assert scores.pretext_top1.item() == 0.5


def test_keys_of_half_precision_cost_their_own_rounding_alone() -> None:
    case = case_of((33, 1000, 48), "peaked", "same images")
    rounded = case.negatives.bfloat16()
    whole = Case(case.queries, case.positives, rounded.double(), case.query_ids, case.negative_ids)
    exact = whole.scored_by(score_by_definition, 0.07, torch.float64)
    loss, scores = score_in_chunks(
        case.queries.float(),
        case.positives.float(),
        rounded,
        0.07,
        query_ids=case.query_ids,
        negative_ids=case.negative_ids,
    )
    torch.testing.assert_close(loss.double(), exact[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.negative_similarity.double(), exact[2][1], rtol=0, atol=1e-5)
    from_all, own = case.scored_by(score_by_definition, 0.07, torch.float64)[0], loss.double()
    assert 1e-6 < abs(from_all - own) < 0.05  # 8 bits of a cosine


def test_a_number_that_is_none_is_not_lost() -> None:
    for place in range(3):
        rows = [F.normalize(torch.randn(4, 8), dim=1) for _ in range(3)]
        rows[place][1, 2] = float("nan")
        queries = rows[0].requires_grad_()
        loss, _ = score_in_chunks(
            queries, rows[1], rows[2], 0.2, query_ids=torch.arange(4), negative_ids=None
        )
        assert loss.isnan()
        (gradient,) = torch.autograd.grad(loss, queries)
        assert gradient.isnan().any()


@pytest.mark.parametrize("with_gradient", ["positives", "negatives"])
def test_keys_with_a_gradient_get_it(with_gradient: str) -> None:
    """End-to-end: what reaches the keys is the definition's."""
    case = case_of((6, 9, 5), "spread", "same images")
    found = []
    for path in (score_by_definition, score):
        inputs = {
            name: getattr(case, name).clone().requires_grad_(name in ("queries", with_gradient))
            for name in ("queries", "positives", "negatives")
        }
        loss, _ = path(
            *inputs.values(), 0.2, query_ids=case.query_ids, negative_ids=case.negative_ids
        )
        loss.backward()
        found.append([inputs["queries"].grad, inputs[with_gradient].grad])
    for expected, got in zip(*found, strict=True):
        assert got is not None
        assert got.abs().sum() > 0
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_the_inputs_decide_which_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of((6, 9, 5), "spread", "none")
    queries, keys = case.queries.requires_grad_(), case.positives.clone().requires_grad_()
    assert path_for(queries, case.positives, case.negatives, None) is score_in_chunks
    assert path_for(queries, keys, case.negatives, None) is score_by_definition

    class Gpu:
        score_in_kernels = object()

        @staticmethod
        def fits(*inputs: Tensor | None) -> bool:
            return inputs[3] is None

    monkeypatch.setattr(paths, "on_gpu", Gpu)
    on_gpu = SimpleNamespace(requires_grad=True, is_cuda=True)
    plain = SimpleNamespace(requires_grad=False)
    assert path_for(on_gpu, plain, plain, None) is Gpu.score_in_kernels
    assert path_for(on_gpu, plain, plain, torch.arange(9)) is score_in_chunks
    assert path_for(on_gpu, plain, SimpleNamespace(requires_grad=True), None) is score_by_definition
    monkeypatch.setattr(paths, "on_gpu", lambda: None)
    assert path_for(on_gpu, plain, plain, None) is score_in_chunks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_what_a_gpu_takes_is_the_definition(temperature: float, mask: str) -> None:
    for shape in [*SHAPES, (256, 65536, 128)]:
        case = case_of(shape, "spread", mask)
        exact = case.scored_by(score_by_definition, temperature, torch.float64)
        ids = None if case.negative_ids is None else case.negative_ids.cuda()
        on_gpu = Case(
            case.queries.cuda(),
            case.positives.cuda(),
            case.negatives.cuda(),
            case.query_ids.cuda(),
            ids,
        )
        loss, gradient, _ = on_gpu.scored_by(score, temperature, torch.float32)
        unit = max(1e-5, 1e-6 / temperature)
        torch.testing.assert_close(loss.double().cpu(), exact[0], rtol=unit, atol=unit)
        scale = 1.0 / (temperature * shape[0])
        torch.testing.assert_close(gradient.double().cpu(), exact[1], rtol=0, atol=unit * scale)


def test_memory_does_not_grow_with_the_dictionary() -> None:
    """The widest thing made is a chunk; the definition makes several [N, M]."""
    count, others, dim = 64, 65536, 16
    generator = torch.Generator().manual_seed(0)
    queries, positives = (
        F.normalize(torch.randn(count, dim, generator=generator), dim=1) for _ in range(2)
    )
    negatives = F.normalize(torch.randn(others, dim, generator=generator), dim=1)

    def peak(path: Callable[..., Scored]) -> int:
        with torch.profiler.profile(profile_memory=True) as profile:
            leaf = queries.clone().requires_grad_()
            loss, _ = path(
                leaf, positives, negatives, 0.2, query_ids=torch.arange(count), negative_ids=None
            )
            loss.backward()
        held = most = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    assert peak(score_by_definition) > 2 * count * others * 4
    assert peak(score_in_chunks) < 3 * chunks.CHUNK_ENTRIES * 4
