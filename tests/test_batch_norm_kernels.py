"""Batch norm's kernels against torch's in float64: on a GPU, else in Triton's interpreter.

`conftest.py` asks for the interpreter.
"""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from moco.batch_norm import GroupedBatchNorm, on_gpu

pytest.importorskip("triton")
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
SHAPES = [
    pytest.param((12, 5, 3, 3), 4, id="few columns"),
    pytest.param((8, 130, 2, 2), 2, id="more columns than a tile"),
    pytest.param((16, 7), 4, id="rows"),
    pytest.param((24, 16, 9, 9), 1, id="one group"),
    pytest.param((20, 3), 2, id="ten rows a group"),
]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    found = on_gpu()
    assert isinstance(found, ModuleType)
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def made(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a batch whose columns lie far from 0 and from each other, and a gradient."""
    draw = torch.Generator().manual_seed(0)
    centres = 100 * torch.randn(1, shape[1], *[1] * (len(shape) - 2), generator=draw)
    batch = (3 * torch.randn(shape, generator=draw) + centres).to(DEVICE, dtype)
    gradient = torch.randn(shape, generator=draw).to(DEVICE, dtype)
    if len(shape) == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    return batch.requires_grad_(), gradient


def layer_of(columns: int, *, affine: bool) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(columns, affine=affine)
    if affine:
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(columns, generator=draw))
            layer.bias.copy_(torch.randn(columns, generator=draw))
    return layer.to(DEVICE)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_kernels_are_batch_norm_of_each_group(
    shape: tuple[int, ...],
    groups: int,
    dtype: torch.dtype,
    affine: bool,
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "TILE", 256)
    monkeypatch.setattr(gpu, "PROGRAMS", 32)
    batch, gradient = made(shape, dtype)
    ours = layer_of(shape[1], affine=affine)
    expected = GroupedBatchNorm(copy.deepcopy(ours).double(), groups).train()
    exact = batch.detach().double().requires_grad_()
    normal = expected(exact)
    normal.backward(gradient.double())
    running = ours.running_mean, ours.running_var
    found = gpu.normalize_groups(
        batch, ours.weight, ours.bias, running, groups=groups, eps=ours.eps, share=ours.momentum
    )
    found.backward(gradient)
    rounding = 5e-6 if dtype == torch.float32 else 5e-3
    assert found.dtype == dtype
    assert found.stride() == batch.stride()
    assert distance(found, normal) < rounding
    assert distance(batch.grad, exact.grad) < rounding
    assert distance(ours.running_mean, expected.running_mean) < 1e-6
    assert distance(ours.running_var, expected.running_var) < 1e-5
    if affine:
        assert distance(ours.weight.grad, expected.weight.grad) < 1e-4
        assert distance(ours.bias.grad, expected.bias.grad) < 1e-5


def test_statistics_that_nobody_keeps_are_not_moved(gpu: ModuleType) -> None:
    batch, _ = made((8, 3), torch.float32)
    found = gpu.normalize_groups(batch, None, None, None, groups=2)
    parts = [nn.functional.batch_norm(part, None, None, training=True) for part in batch.chunk(2)]
    assert distance(found, torch.cat(parts)) < 5e-6


def test_a_batch_that_lies_otherwise_is_left_to_torch(gpu: ModuleType) -> None:
    rows_last = torch.zeros(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    assert not gpu.can_normalize(rows_last)  # not on a GPU
    if ON_GPU:
        assert gpu.can_normalize(rows_last.cuda())
        assert not gpu.can_normalize(torch.zeros(4, 3, 5, 5).cuda())
        assert not gpu.can_normalize(rows_last.cuda().double())


def test_kernels_that_cannot_be_made_are_told_and_done_without(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(gpu, "normalize_groups", fails)
    gpu.are_usable.cache_clear()
    with pytest.warns(UserWarning, match="runs without its kernels: Failed to find C compiler"):
        assert not gpu.are_usable(torch.device(DEVICE))
    gpu.are_usable.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
def test_a_gpu_takes_the_kernels_and_learns_the_same(gpu: ModuleType) -> None:
    batch, gradient = made((32, 16, 8, 8), torch.float32)
    layers = [GroupedBatchNorm(layer_of(16, affine=True), 8).train() for _ in range(2)]
    layers[1]._fits_kernels = lambda _: False  # type: ignore[method-assign]
    assert layers[0]._fits_kernels(batch)
    outputs = [layer(batch) for layer in layers]
    assert distance(outputs[0], outputs[1]) < 1e-5
    for layer, output in zip(layers, outputs, strict=True):
        output.backward(gradient)
        assert layer.num_batches_tracked == 1
    assert distance(layers[0].weight.grad, layers[1].weight.grad) < 1e-4
    assert distance(layers[0].running_var, layers[1].running_var) < 1e-5
