"""The loss's kernels against the plain definition in float64: on a GPU, else in the interpreter.

`conftest.py` asks for Triton's interpreter.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

from moco.info_nce import NO_IMAGE, NO_KEY, PretextScores, info_nce, pretext_scores

pytest.importorskip("triton")
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
SIZES = [
    pytest.param(5, 150, 20, id="one block of queries"),
    pytest.param(40, 50, 130, id="three blocks, the last of few queries, and wide"),
    pytest.param(64, 128, 64, id="whole blocks"),
    pytest.param(33, 1, 3, id="one negative"),
    pytest.param(1, 70, 1, id="one query, one column"),
]
BF16_BOUND = 2.0**-16
"""Of a cosine: what is left of float32 in two bfloat16, cut off as the interpreter does."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module, with few programs: parts of several tiles, and several parts."""
    import moco.info_nce_gpu as found

    monkeypatch.setattr(found, "PROGRAMS", 6)
    monkeypatch.setitem(found.LARGEST_TILE, torch.bfloat16, 32)
    return found


class Inputs(NamedTuple):
    queries: Tensor
    positives: Tensor
    negatives: Tensor
    query_ids: Tensor
    negative_ids: Tensor


def made(rows: int, keys: int, columns: int, *, peaked: bool = True) -> Inputs:
    """Return unit rows; a few negatives are queries, if peaked, and ids are of all kinds."""
    draw = torch.Generator().manual_seed(rows + keys)
    queries = F.normalize(torch.randn(rows, columns, generator=draw), dim=1)
    drawn = torch.randn(rows, columns, generator=draw)
    positives = F.normalize(2 * queries + drawn / columns**0.5, dim=1)
    negatives = F.normalize(torch.randn(keys, columns, generator=draw), dim=1)
    if peaked and rows:
        negatives[::20] = queries[torch.arange(len(negatives[::20])) % rows]
    query_ids = torch.arange(rows)
    negative_ids = torch.randint(NO_KEY, max(rows, 1), (keys,), generator=draw)
    parts = queries, positives, negatives, query_ids, negative_ids
    return Inputs(*(part.to(DEVICE) for part in parts))


def defined(
    inputs: Inputs, temperature: float, *, masked: bool = True
) -> tuple[Tensor, Tensor, PretextScores]:
    """Return the plain definition's loss, gradient and scores in float64."""
    queries, positives, negatives, query_ids, negative_ids = inputs
    exact = queries.detach().double().requires_grad_()
    rows = exact, positives.double(), negatives.double()
    ids = negative_ids if masked else torch.full_like(negative_ids, NO_IMAGE)
    loss = info_nce(*rows, temperature, query_ids=query_ids, negative_ids=ids)
    loss.backward()
    assert exact.grad is not None
    scores = pretext_scores(*rows, query_ids=query_ids, negative_ids=ids)
    return loss.detach(), exact.grad, scores


def found_by(
    gpu: ModuleType, inputs: Inputs, temperature: float, *, masked: bool = True
) -> tuple[Tensor, Tensor, PretextScores]:
    """Return the kernels' loss, gradient and scores."""
    queries = inputs.queries.detach().requires_grad_()
    loss, scores = gpu.score_in_kernels(
        queries,
        *inputs[1:3],
        temperature,
        query_ids=inputs.query_ids,
        negative_ids=inputs.negative_ids if masked else None,
    )
    loss.backward()
    assert queries.grad is not None
    assert queries.grad.dtype == queries.dtype
    return loss.detach(), queries.grad, scores


def check(
    found: tuple[Tensor, Tensor, PretextScores],
    expected: tuple[Tensor, Tensor, PretextScores],
    temperature: float,
    bound: float = 1e-5,
) -> None:
    """Compare; `bound` is of the loss, and of the gradient where 1 / (T N) is 1."""
    torch.testing.assert_close(found[0].double(), expected[0], atol=bound, rtol=bound)
    scale = 1 / (temperature * len(expected[1]))
    torch.testing.assert_close(found[1].double(), expected[1], atol=bound * scale, rtol=0)
    for ours, exact in zip(found[2], expected[2], strict=True):
        assert not ours.requires_grad
        torch.testing.assert_close(ours.double(), exact, atol=max(2e-6, bound / 10), rtol=0)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.2, 1.0])
@pytest.mark.parametrize(("rows", "keys", "columns"), SIZES)
def test_kernels_are_the_plain_definition(
    rows: int, keys: int, columns: int, temperature: float, masked: bool, gpu: ModuleType
) -> None:
    inputs = made(rows, keys, columns)
    found = found_by(gpu, inputs, temperature, masked=masked)
    check(found, defined(inputs, temperature, masked=masked), temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.2])
@pytest.mark.parametrize("masked", [True, False])
def test_bfloat16_keys_are_multiplied_as_they_are(
    masked: bool, temperature: float, gpu: ModuleType
) -> None:
    inputs = made(40, 150, 40)
    inputs = inputs._replace(negatives=inputs.negatives.bfloat16())
    found = found_by(gpu, inputs, temperature, masked=masked)
    check(found, defined(inputs, temperature, masked=masked), temperature, BF16_BOUND / temperature)
    inputs = inputs._replace(positives=inputs.positives.bfloat16())
    found = found_by(gpu, inputs, temperature, masked=masked)
    check(found, defined(inputs, temperature, masked=masked), temperature, BF16_BOUND / temperature)


def test_bfloat16_queries_are_computed_in_float32(gpu: ModuleType) -> None:
    inputs = made(20, 50, 20)
    inputs = inputs._replace(queries=inputs.queries.bfloat16())
    loss, gradient, _ = found_by(gpu, inputs, 0.07)
    exact_loss, exact_gradient, _ = defined(inputs, 0.07)
    torch.testing.assert_close(loss.double(), exact_loss, atol=1e-5, rtol=0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(gradient, exact_gradient.bfloat16(), atol=1e-5, rtol=2**-7)


@pytest.mark.parametrize(("rows", "keys"), [(5, 0), (0, 7), (0, 0)])
def test_nothing_to_compare_with_and_nothing_to_compare(
    rows: int, keys: int, gpu: ModuleType
) -> None:
    inputs = made(rows, keys, 3)
    for masked in (True, False):
        loss, gradient, scores = found_by(gpu, inputs, 0.2, masked=masked)
        exact = defined(inputs, 0.2, masked=masked)
        torch.testing.assert_close(loss.double(), exact[0], atol=0, rtol=0, equal_nan=True)
        assert torch.equal(gradient, torch.zeros(rows, 3, device=DEVICE))
        for ours, plain in zip(scores, exact[2], strict=True):
            torch.testing.assert_close(ours.double(), plain, atol=1e-6, rtol=0, equal_nan=True)


def test_rows_without_negatives_have_no_loss_and_count_as_found(gpu: ModuleType) -> None:
    inputs = made(20, 70, 20)
    empty = inputs._replace(negative_ids=torch.full_like(inputs.negative_ids, NO_KEY))
    loss, gradient, scores = found_by(gpu, empty, 0.01)
    assert loss == 0
    assert not gradient.any()
    assert scores.negative_similarity == 0
    assert scores.pretext_top1 == 1
    own = inputs._replace(negative_ids=torch.full_like(inputs.negative_ids, 7))
    found = found_by(gpu, own, 0.07)
    assert not found[1][7].any()
    assert found[1].any(dim=1).sum() == 19
    check(found, defined(own, 0.07), 0.07)


@pytest.mark.parametrize("temperature", [0.01, 0.05])
def test_a_small_gradient_keeps_its_digits(temperature: float, gpu: ModuleType) -> None:
    """Float32's 1 - p is 0 where p, of a positive that stands out, is nearly 1."""
    inputs = made(20, 40, 64, peaked=False)
    inputs = inputs._replace(positives=inputs.queries.clone())
    loss, gradient, _ = found_by(gpu, inputs, temperature, masked=False)
    exact = inputs.queries.double().requires_grad_()
    to_positive = (exact * inputs.positives.double()).sum(dim=1, keepdim=True)
    to_negatives = exact @ inputs.negatives.double().T
    terms = ((to_negatives - to_positive) / temperature).exp()
    exact_loss = terms.sum(dim=1).log1p().mean()
    exact_loss.backward()
    assert exact_loss < 1e-4
    # a cosine's last digit is 6e-8, and is divided by the temperature
    torch.testing.assert_close(loss.double(), exact_loss, atol=0, rtol=2e-7 / temperature)
    errors = (gradient.double() - exact.grad).norm(dim=1)
    assert (errors <= 2e-7 / temperature * exact.grad.norm(dim=1)).all()


@pytest.mark.parametrize("place", [0, 70, 149])
def test_a_peak_anywhere_is_the_one_that_counts(place: int, gpu: ModuleType) -> None:
    """Measured from another part's largest cosine, its weight is e ** 100 or more: infinite."""
    inputs = made(5, 150, 64, peaked=False)
    opposite = F.normalize(inputs.negatives / 4 - inputs.queries[2], dim=1)
    opposite[place] = inputs.queries[2]
    inputs = inputs._replace(positives=-inputs.queries, negatives=opposite)
    assert gpu._cut(5, inputs.negatives).parts == 5
    found = found_by(gpu, inputs, 0.01, masked=False)
    check(found, defined(inputs, 0.01, masked=False), 0.01)


def test_how_work_is_cut_changes_only_rounding(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = made(40, 200, 20)
    few = found_by(gpu, inputs, 0.07)
    monkeypatch.setattr(gpu, "PROGRAMS", 1)
    whole = found_by(gpu, inputs, 0.07)
    monkeypatch.setattr(gpu, "PROGRAMS", 1000)
    most = found_by(gpu, inputs, 0.07)
    for other in (whole, most):
        torch.testing.assert_close(other[0], few[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(other[1], few[1], atol=1e-6, rtol=0)


def test_the_same_inputs_give_the_same_bits(gpu: ModuleType) -> None:
    inputs = made(40, 150, 20)
    first, second = found_by(gpu, inputs, 0.07), found_by(gpu, inputs, 0.07)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    for ours, again in zip(first[2], second[2], strict=True):
        assert torch.equal(ours, again)


def test_a_negative_that_is_the_positive_is_a_tie_and_not_found(gpu: ModuleType) -> None:
    inputs = made(40, 100, 50, peaked=False)
    assert found_by(gpu, inputs, 0.07, masked=False)[2].pretext_top1 == 1
    copies = torch.cat([inputs.negatives[:30], inputs.positives])
    tied = inputs._replace(negatives=copies)
    assert found_by(gpu, tied, 0.07, masked=False)[2].pretext_top1 == 0
    own = torch.full((70,), NO_IMAGE, device=DEVICE)
    own[30:50] = inputs.query_ids[:20]
    half = tied._replace(negative_ids=own)
    assert found_by(gpu, half, 0.07)[2].pretext_top1 == 0.5


def test_the_gradient_follows_what_the_loss_is_multiplied_by(gpu: ModuleType) -> None:
    inputs = made(20, 50, 20)
    gradient = found_by(gpu, inputs, 0.07)[1]
    queries = inputs.queries.clone().requires_grad_()
    loss, _ = gpu.score_in_kernels(
        queries, *inputs[1:3], 0.07, query_ids=inputs.query_ids, negative_ids=inputs.negative_ids
    )
    (3 * loss).backward()
    torch.testing.assert_close(queries.grad, 3 * gradient)


def test_rows_that_lie_otherwise_are_read_right(gpu: ModuleType) -> None:
    inputs = made(20, 50, 20)
    turned = inputs._replace(
        queries=inputs.queries.T.contiguous().T, positives=inputs.positives.T.contiguous().T
    )
    assert not turned.queries.is_contiguous()
    check(found_by(gpu, turned, 0.07), defined(inputs, 0.07), 0.07)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("part", ["queries", "positives", "negatives"])
def test_what_is_no_number_reaches_the_loss(part: str, gpu: ModuleType) -> None:
    inputs = made(20, 50, 20)
    rows = getattr(inputs, part).clone()
    rows[3, 2] = float("nan")
    loss, gradient, _ = found_by(gpu, inputs._replace(**{part: rows}), 0.07, masked=False)
    assert loss.isnan()
    assert gradient[3].isnan().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positives": torch.zeros(4, 3)}, r"must both be \[N, C\], got \[5, 3\] and \[4, 3\]"),
        ({"negatives": torch.zeros(7, 2)}, r"negatives must be \[M, 3\], got \[7, 2\]"),
        ({"query_ids": torch.zeros(4, dtype=torch.long)}, r"one per row, got \[4\] for 5 queries"),
        ({"negative_ids": torch.zeros(6, dtype=torch.long)}, r"and \[6\] for 7 negatives"),
        ({"negative_ids": torch.zeros(7, dtype=torch.int32)}, "must be int64, got torch.int64 and"),
    ],
)
def test_rows_that_do_not_match_are_told(
    changed: dict[str, Tensor], message: str, gpu: ModuleType
) -> None:
    given = made(5, 7, 3)._asdict() | changed
    with pytest.raises(ValueError, match=message):
        gpu.score_in_kernels(**given, temperature=0.2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_is_above_0(temperature: float, gpu: ModuleType) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        gpu.score_in_kernels(**made(5, 7, 3)._asdict(), temperature=temperature)


# ---------------------------------------------------------------- what fits


def test_says_what_it_takes(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "are_usable", lambda *_, **__: True)
    assert not gpu.fits(*(torch.zeros(2, 4) for _ in range(3)), None)  # not on a GPU
    with FakeTensorMode():  # as if there were one
        rows, keys = torch.empty(2, 4, device="cuda"), torch.empty(9, 4, device="cuda")
        assert gpu.fits(rows, rows, keys, None)
        assert gpu.fits(rows.bfloat16(), rows, keys.bfloat16(), torch.empty(9, device="cuda"))
        assert gpu.fits(rows, rows, keys[:0], None)
        assert not gpu.fits(rows, rows, keys.half(), None)
        assert not gpu.fits(rows.double(), rows, keys, None)
        assert not gpu.fits(rows, rows.cpu(), keys, None)
        assert not gpu.fits(rows, rows, keys[:, ::2], None)
        assert not gpu.fits(rows, rows, keys.new_empty(9, 513), None)
        assert gpu.fits(rows, rows, keys.new_empty(9, 512), None)
        assert gpu.fits(rows.requires_grad_(), rows.detach(), keys, None)
        assert not gpu.fits(rows, rows, keys, None)  # end-to-end: keys want their gradient
        with torch.no_grad():
            assert gpu.fits(rows, rows, keys, None)
        assert not gpu.fits(rows, rows.detach(), keys.requires_grad_(), None)


def test_kernels_that_cannot_be_made_are_told_and_done_without(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = torch.device(DEVICE), 32, (torch.float32,) * 3
    gpu.are_usable.cache_clear()
    assert gpu.are_usable(*kind, has_ids=True)

    def fails(*arguments: object, **options: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(gpu, "score_in_kernels", fails)
    gpu.are_usable.cache_clear()
    with pytest.warns(UserWarning, match="runs without its kernels: Failed to find C compiler"):
        assert not gpu.are_usable(*kind, has_ids=True)
    gpu.are_usable.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, 100, 128, 256, 512])
@pytest.mark.parametrize("rows", [0, 1, 256, 4096])
def test_sums_of_parts_stay_small(
    rows: int, columns: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    import moco.info_nce_gpu as whole

    for keys in (0, 1, 65_536, 1_048_577, 2**30):
        negatives = torch.empty(1, columns, dtype=dtype).expand(keys, columns)
        shape = whole._cut(rows, negatives)
        assert shape.parts >= 1
        assert shape.part_keys % shape.tile == 0
        assert 0 <= shape.parts * shape.part_keys - keys < max(shape.part_keys, 1) + (keys == 0)
        assert shape.parts == 1 or shape.parts * rows * columns * 4 < 10e6
        if keys > 60_000 and rows == 256:
            assert shape.parts * shape.row_blocks > 200  # fills the device


# ---------------------------------------------------------------- on a GPU, large dictionaries


@pytest.fixture
def whole() -> ModuleType:
    """Return the module as it is."""
    import moco.info_nce_gpu as found

    return found


def plain(inputs: Inputs, temperature: float) -> tuple[Tensor, Tensor, PretextScores]:
    """Return the plain definition's loss, gradient and scores as a step would compute them."""
    queries = inputs.queries.detach().requires_grad_()
    rows = queries, inputs.positives, inputs.negatives
    ids = {"query_ids": inputs.query_ids, "negative_ids": inputs.negative_ids}
    loss = info_nce(*rows, temperature, **ids)
    loss.backward()
    assert queries.grad is not None
    return loss.detach(), queries.grad, pretext_scores(*rows, **ids)


def cost_of(work: Callable[[], object]) -> tuple[float, int]:
    """Return the median seconds of five calls and the most bytes one takes."""
    seconds = []
    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() - before


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("keys", [65_536, 1_048_576])
def test_a_large_dictionary_is_exact(
    keys: int, masked: bool, dtype: torch.dtype, whole: ModuleType
) -> None:
    inputs = made(256, keys, 128)
    inputs = inputs._replace(negatives=inputs.negatives.to(dtype))
    assert whole.fits(*inputs[:3], inputs.negative_ids if masked else None)
    for temperature in (0.01, 0.07, 0.2):
        bound = max(1e-5, (6e-7 if dtype == torch.float32 else BF16_BOUND) / temperature)
        found = found_by(whole, inputs, temperature, masked=masked)
        check(found, defined(inputs, temperature, masked=masked), temperature, bound)
        again = found_by(whole, inputs, temperature, masked=masked)
        assert torch.equal(found[0], again[0])
        assert torch.equal(found[1], again[1])


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [64, 256, 512])
def test_wide_rows_are_exact(columns: int, dtype: torch.dtype, whole: ModuleType) -> None:
    inputs = made(300, 5000, columns)
    inputs = inputs._replace(negatives=inputs.negatives.to(dtype))
    assert whole.fits(*inputs[:3], inputs.negative_ids)
    bound = 1e-5 if dtype == torch.float32 else BF16_BOUND / 0.07
    check(found_by(whole, inputs, 0.07), defined(inputs, 0.07), 0.07, bound)


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("keys", [65_536, 1_048_576])
def test_a_large_dictionary_takes_a_tenth_of_the_memory_and_no_more_time(
    keys: int, whole: ModuleType
) -> None:
    inputs = made(256, keys, 128)
    plain_seconds, plain_bytes = cost_of(lambda: plain(inputs, 0.07))
    seconds, most_bytes = cost_of(lambda: found_by(whole, inputs, 0.07))
    assert most_bytes <= plain_bytes / 10
    assert seconds <= plain_seconds
