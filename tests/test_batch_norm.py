from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from moco.batch_norm import (
    GroupedBatchNorm,
    SyncedBatchNorm,
    group_batch_norm,
    has_batch_norm,
    sync_batch_norm,
)

CHANNELS = 3


def rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 + 3.0 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def trained(layer: nn.Module, *shape: int) -> nn.Module:
    """Give a batch norm weights and statistics that are not the initial ones."""
    layer = layer.double().train()
    with torch.no_grad():
        layer.weight.copy_(rows(CHANNELS, seed=1))
        layer.bias.copy_(rows(CHANNELS, seed=2))
    layer(rows(*shape, seed=3))
    return layer


LAYERS = [
    pytest.param(lambda: nn.BatchNorm2d(CHANNELS), (12, CHANNELS, 2, 2), id="BatchNorm2d"),
    pytest.param(lambda: nn.BatchNorm1d(CHANNELS), (12, CHANNELS), id="BatchNorm1d"),
    pytest.param(
        lambda: BatchNormAct2d(CHANNELS, act_layer=nn.SiLU), (12, CHANNELS, 2, 2), id="timm"
    ),
]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_each_contiguous_slice_is_normalized_as_if_alone(
    make: type[nn.Module], shape: tuple[int, ...], groups: int
) -> None:
    plain = trained(make(), *shape)
    grouped = GroupedBatchNorm(copy.deepcopy(plain), groups)
    alone = rows(*shape).requires_grad_()
    together = rows(*shape).requires_grad_()
    weight = rows(*shape, seed=4)  # so that the gradient differs from element to element

    expected = torch.cat([copy.deepcopy(plain)(part) for part in alone.chunk(groups)])
    output = grouped(together)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)

    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(together.grad, alone.grad, rtol=0, atol=1e-10)


def test_gradients_of_weight_and_bias_are_summed_over_the_slices() -> None:
    shape = (12, CHANNELS, 2, 2)
    plain = trained(nn.BatchNorm2d(CHANNELS), *shape)
    grouped = GroupedBatchNorm(copy.deepcopy(plain), 4)
    for layer_output in (
        grouped(rows(*shape)),
        torch.cat([plain(part) for part in rows(*shape).chunk(4)]),
    ):
        (layer_output * rows(*shape, seed=4)).sum().backward()
    torch.testing.assert_close(grouped.weight.grad, plain.weight.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(grouped.bias.grad, plain.bias.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_move_once_by_the_mean_over_the_slices(momentum: float | None) -> None:
    shape, groups = (12, CHANNELS, 2, 2), 4
    plain = trained(nn.BatchNorm2d(CHANNELS, momentum=momentum), *shape)
    grouped = GroupedBatchNorm(copy.deepcopy(plain), groups)
    parts = rows(*shape).chunk(groups)
    mean = torch.stack([part.mean(dim=(0, 2, 3)) for part in parts]).mean(dim=0)
    unbiased = torch.stack([part.var(dim=(0, 2, 3), correction=1) for part in parts]).mean(dim=0)
    grouped(rows(*shape))
    share = 0.5 if momentum is None else momentum  # None: the average of the two batches so far
    for moved, before, of_batch in (
        (grouped.running_mean, plain.running_mean, mean),
        (grouped.running_var, plain.running_var, unbiased),
    ):
        torch.testing.assert_close(
            moved, (1 - share) * before + share * of_batch, rtol=0, atol=1e-6
        )
    assert int(grouped.num_batches_tracked) == int(plain.num_batches_tracked) + 1


def test_one_group_is_plain_batch_norm() -> None:
    shape = (12, CHANNELS, 2, 2)
    plain = trained(nn.BatchNorm2d(CHANNELS), *shape)
    grouped = GroupedBatchNorm(copy.deepcopy(plain), 1)
    torch.testing.assert_close(grouped(rows(*shape)), plain(rows(*shape)), rtol=0, atol=1e-12)
    torch.testing.assert_close(dict(grouped.state_dict()), dict(plain.state_dict()))


def test_groups_differ_from_plain() -> None:
    shape = (12, CHANNELS, 2, 2)
    plain = trained(nn.BatchNorm2d(CHANNELS), *shape)
    grouped = GroupedBatchNorm(copy.deepcopy(plain), 4)
    assert (grouped(rows(*shape)) - plain(rows(*shape))).abs().max() > 0.1


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_eval_mode_is_plain_batch_norm_for_any_batch(
    make: type[nn.Module], shape: tuple[int, ...]
) -> None:
    plain = trained(make(), *shape).eval()
    grouped = GroupedBatchNorm(copy.deepcopy(plain), 4).eval()
    before = copy.deepcopy(grouped.state_dict())
    seven = rows(7, *shape[1:])
    torch.testing.assert_close(grouped(seven), plain(seven), rtol=0, atol=0)
    torch.testing.assert_close(dict(grouped.state_dict()), dict(before), rtol=0, atol=0)


def test_refuses_a_batch_that_does_not_split() -> None:
    grouped = GroupedBatchNorm(nn.BatchNorm2d(CHANNELS), 4)
    with pytest.raises(ValueError, match="a batch of 10 does not split into 4 batch-norm groups"):
        grouped(torch.zeros(10, CHANNELS, 2, 2))


def test_normalizes_bfloat16_with_float32_statistics() -> None:
    grouped = GroupedBatchNorm(nn.BatchNorm2d(CHANNELS), 2)
    output = grouped(rows(8, CHANNELS, 2, 2).bfloat16())
    assert output.dtype == torch.bfloat16
    assert grouped.running_mean.dtype == torch.float32


def test_without_affine_or_running_statistics() -> None:
    layer = nn.BatchNorm2d(CHANNELS, affine=False, track_running_stats=False).double()
    grouped = GroupedBatchNorm(layer, 3)
    batch = rows(12, CHANNELS, 2, 2)
    expected = torch.cat([layer(part) for part in batch.chunk(3)])
    torch.testing.assert_close(grouped(batch), expected, rtol=0, atol=1e-12)
    assert not grouped.state_dict()


def test_group_batch_norm_replaces_every_layer_and_keeps_weights_and_state() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 1),
        nn.BatchNorm2d(CHANNELS),
        nn.ModuleDict({"inner": nn.Sequential(BatchNormAct2d(CHANNELS), nn.Flatten())}),
        nn.BatchNorm1d(CHANNELS),
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = dict(network.named_parameters())
    group_batch_norm(network, 2)
    kinds = [type(layer) for layer in network.modules() if has_batch_norm(layer)]
    assert kinds.count(GroupedBatchNorm) == 3
    assert not {nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d} & set(kinds)
    assert all(network.get_parameter(name) is weight for name, weight in weights.items())
    assert list(network.state_dict()) == list(before)
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("training", [False, True])
def test_group_batch_norm_leaves_the_mode_as_it_is(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.BatchNorm2d(CHANNELS)).train(training)
    group_batch_norm(network, 2)
    assert {layer.training for layer in network.modules()} == {training}


def test_has_batch_norm_tells_who_leaks() -> None:
    assert has_batch_norm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(2))))
    assert has_batch_norm(GroupedBatchNorm(nn.BatchNorm1d(2), 2))
    assert not has_batch_norm(nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(2)))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_synced_batch_norm_of_one_process_is_plain(
    make: type[nn.Module], shape: tuple[int, ...], momentum: float | None
) -> None:
    plain = trained(make(), *shape)
    plain.momentum = momentum
    synced = SyncedBatchNorm(copy.deepcopy(plain))
    inputs = [rows(*shape).requires_grad_() for _ in range(2)]
    for layer, batch in zip((plain, synced), inputs, strict=True):
        (layer(batch) * rows(*shape, seed=4)).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(synced.weight.grad, plain.weight.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(synced.bias.grad, plain.bias.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(dict(synced.state_dict()), dict(plain.state_dict()))
    torch.testing.assert_close(synced(rows(*shape)), plain(rows(*shape)), rtol=0, atol=1e-12)
    seven = rows(7, *shape[1:])
    torch.testing.assert_close(synced.eval()(seven), plain.eval()(seven))


def test_synced_batch_norm_without_affine_and_in_bfloat16() -> None:
    plain = nn.BatchNorm1d(CHANNELS, affine=False)
    synced = SyncedBatchNorm(copy.deepcopy(plain))
    torch.testing.assert_close(
        synced(rows(12, CHANNELS).float()), plain(rows(12, CHANNELS).float())
    )
    output = synced(rows(12, CHANNELS).bfloat16())
    assert output.dtype == torch.bfloat16
    assert synced.running_mean.dtype == torch.float32


def test_sync_batch_norm_replaces_every_layer_and_keeps_weights_and_names() -> None:
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.Sequential(nn.BatchNorm2d(CHANNELS)))
    before, weights = list(network.state_dict()), dict(network.named_parameters())
    sync_batch_norm(network)
    assert isinstance(network[1][0], SyncedBatchNorm)
    assert list(network.state_dict()) == before
    assert all(network.get_parameter(name) is weight for name, weight in weights.items())
