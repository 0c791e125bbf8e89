"""LARS against the rule written down in plain Python, number by number, in float64."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor, nn

from moco.lars import LARS

STEPS = 20
WEIGHT_DECAY, SGD_MOMENTUM, TRUST = 0.02, 0.8, 0.003
SETTINGS = {"weight_decay": WEIGHT_DECAY, "sgd_momentum": SGD_MOMENTUM, "trust": TRUST}
EXACT = {"rtol": 0, "atol": 1e-12}


class Net(nn.Module):
    """Filters, a matrix, biases, batch norm, a scalar, zeros, a weight with gradient zero."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 4, 3)
        self.batch_norm = nn.BatchNorm2d(4)
        self.matrix = nn.Linear(4, 5)
        self.zeros = nn.Parameter(torch.zeros(5, 5))
        self.zero_gradient = nn.Parameter(torch.randn(2, 3))
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.batch_norm(self.filters(images)).relu()
        features = self.matrix(maps.mean(dim=(2, 3)))
        return self.gain * (features + features @ self.zeros) + 0 * self.zero_gradient.sum()


def made_net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def gradients_at(net: Net, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(6, 3, 7, 7, generator=generator, dtype=torch.float64)
    net.zero_grad()
    net(images).sin().square().mean().backward()


def learning_rate(step: int) -> float:
    return 0.3 * (1 - step / STEPS)


def one_weight(values: Tensor, gradient: Tensor | None) -> nn.Parameter:
    weight = nn.Parameter(values.clone())
    weight.grad = gradient
    return weight


# ---------------------------------------------------------------- the transcription


def length(numbers: list[float]) -> float:
    return math.sqrt(math.fsum(number * number for number in numbers))


class PlainLars:
    """p, g and v of one tensor as lists of numbers, and how many dimensions it has."""

    def __init__(self, weight: Tensor) -> None:
        self.p = weight.flatten().tolist()
        self.v = [0.0] * len(self.p)
        self.dimensions = weight.dim()

    def step(self, g: list[float], rate: float, weight_decay: float) -> None:
        if self.dimensions >= 2:
            g = [gi + weight_decay * pi for gi, pi in zip(g, self.p, strict=True)]
            factor = 1.0
            if length(self.p) != 0 and length(g) != 0:
                factor = TRUST * length(self.p) / length(g)
            g = [gi * factor for gi in g]
        self.v = [SGD_MOMENTUM * vi + gi for vi, gi in zip(self.v, g, strict=True)]
        self.p = [pi - rate * vi for pi, vi in zip(self.p, self.v, strict=True)]


@pytest.mark.parametrize("weight_decay", [0.0, WEIGHT_DECAY])
def test_takes_the_steps_of_the_rule_written_down(weight_decay: float) -> None:
    net = made_net()
    plain = {name: PlainLars(weight) for name, weight in net.named_parameters()}
    settings = {**SETTINGS, "weight_decay": weight_decay}
    optimizer = LARS(net.parameters(), lr=learning_rate(0), **settings)
    for step in range(STEPS):
        gradients_at(net, step)
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        optimizer.step()
        for name, weight in net.named_parameters():
            gradient = weight.grad.flatten().tolist()
            plain[name].step(gradient, learning_rate(step), weight_decay)
            ours = torch.tensor(plain[name].p, dtype=torch.float64)
            torch.testing.assert_close(weight.detach().flatten(), ours, **EXACT, msg=name)
            assert weight.abs().max() < 10, name  # so that 1e-12 is no more than rounding
    assert net.zeros.abs().max() > 1e-3  # what starts at zero has left it
    assert not net.zero_gradient.grad.any()


# ---------------------------------------------------------------- one rule at a time


@pytest.mark.parametrize("shape", [(), (4,)])
def test_biases_and_batch_norm_move_by_their_plain_gradient(shape: tuple[int, ...]) -> None:
    values = torch.full(shape, 3.0, dtype=torch.float64)
    gradient = torch.full(shape, 0.25, dtype=torch.float64)
    weight = one_weight(values, gradient)
    LARS([weight], lr=0.5, **SETTINGS).step()
    torch.testing.assert_close(weight.detach(), values - 0.5 * gradient, **EXACT)


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 2, 2)])
def test_first_step_is_a_share_of_the_weight_whatever_the_scale_of_the_gradient(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    values, gradient = torch.randn(2, *shape, dtype=torch.float64)
    moves = []
    for scale in (1.0, 1e-6, 1e6):
        weight = one_weight(values, gradient * scale)
        LARS([weight], lr=0.5, trust=TRUST).step()
        moves.append(weight.detach() - values)
        torch.testing.assert_close(moves[-1].norm(), 0.5 * TRUST * values.norm(), **EXACT)
    torch.testing.assert_close(moves[1], moves[0], **EXACT)
    torch.testing.assert_close(moves[2], moves[0], **EXACT)


def test_decay_is_added_before_the_gradient_is_scaled() -> None:
    values = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    weight = one_weight(values, torch.zeros_like(values))
    LARS([weight], lr=0.5, **SETTINGS).step()  # the decay alone is scaled: how much is no matter
    torch.testing.assert_close(weight.detach(), values * (1 - 0.5 * TRUST), **EXACT)


def test_a_weight_of_zeros_moves_by_its_gradient_unscaled() -> None:
    gradient = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    weight = one_weight(torch.zeros_like(gradient), gradient)
    LARS([weight], lr=0.5, **SETTINGS).step()
    torch.testing.assert_close(weight.detach(), -0.5 * gradient, **EXACT)


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_a_gradient_of_zeros_moves_no_weight_without_decay(start: float) -> None:
    values = torch.full((2, 2), start)
    weight = one_weight(values, torch.zeros(2, 2))
    LARS([weight], lr=0.5).step()
    assert torch.equal(weight, values)


def test_leaves_the_gradients_as_they_were() -> None:
    net = made_net()
    gradients_at(net, 0)
    before = [weight.grad.clone() for weight in net.parameters()]
    LARS(net.parameters(), lr=0.5, **SETTINGS).step()
    for weight, gradient in zip(net.parameters(), before, strict=True):
        assert torch.equal(weight.grad, gradient)


def test_skips_weights_without_gradient() -> None:
    moved, skipped = (one_weight(torch.ones(2, 2), gradient) for gradient in (torch.eye(2), None))
    optimizer = LARS([skipped, moved], lr=0.5, **SETTINGS)
    optimizer.step()
    assert torch.equal(skipped, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))
    assert list(optimizer.state) == [moved]


def test_asks_the_device_for_no_value() -> None:
    weights = [torch.zeros(shape, device="meta") for shape in ((2, 3), (3,))]
    optimizer = LARS([one_weight(weight, weight) for weight in weights], lr=0.5, **SETTINGS)
    for _ in range(2):
        optimizer.step()  # a meta tensor has no values: reading one raises


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_on_a_gpu_are_those_on_the_cpu() -> None:
    nets = [made_net(), made_net().cuda()]
    optimizers = [LARS(net.parameters(), lr=0.5, **SETTINGS) for net in nets]
    for step in range(STEPS):
        gradients_at(nets[0], step)
        for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            theirs.grad = ours.grad.cuda()
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, **EXACT)


# ---------------------------------------------------------------- as torch's optimizers do


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_goes_on_from_a_saved_state_as_if_it_had_never_stopped(dtype: torch.dtype) -> None:
    def run(net: Net, optimizer: LARS, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for weight in net.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator).to(dtype)
            optimizer.step()

    net = made_net().to(dtype)
    optimizer = LARS(net.parameters(), lr=0.5, **SETTINGS)
    run(net, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    run(net, optimizer, range(3, 6))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = made_net().to(dtype)
    resumed.load_state_dict(saved["net"])
    other = LARS(resumed.parameters(), lr=9.0)  # all its settings are the saved ones' after loading
    other.load_state_dict(saved["optimizer"])
    run(resumed, other, range(3, 6))
    assert len(other.state) == len(list(resumed.parameters()))
    assert {state["velocity"].dtype for state in other.state.values()} == {dtype}
    for ours, theirs in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_calls_the_closure_with_gradients_on_and_returns_its_loss() -> None:
    weight = one_weight(torch.ones(3), None)
    optimizer = LARS([weight], lr=0.5)

    def closure() -> Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3
    assert torch.equal(weight, torch.zeros(3))
    assert optimizer.step() is None


def test_a_scheduler_of_torch_sets_its_rate() -> None:
    weight = one_weight(torch.ones(3), torch.ones(3))
    optimizer = LARS([weight], lr=0.5, sgd_momentum=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for left in (0.5, 0.25, 0.125):
        optimizer.step()
        scheduler.step()
        assert torch.equal(weight, torch.full((3,), left))


def test_groups_have_their_own_settings() -> None:
    weights = [one_weight(torch.ones(3), torch.ones(3)) for _ in range(2)]
    LARS([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.25}], lr=0.5).step()
    assert [weight[0].item() for weight in weights] == [0.5, 0.75]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("lr", -0.1, "lr must be a finite number from 0, got -0.1; "),
        ("lr", math.nan, "lr must be a finite number from 0, got nan; "),
        ("lr", math.inf, "lr must be a finite number from 0, got inf; "),
        ("weight_decay", -1e-6, "weight_decay must be a finite number from 0, got -1e-06; "),
        ("weight_decay", math.nan, "weight_decay must be a finite number from 0, got nan; "),
        ("sgd_momentum", -0.1, "sgd_momentum must be from 0 to below 1, got -0.1; "),
        ("sgd_momentum", 1.0, "sgd_momentum must be from 0 to below 1, got 1.0; "),
        ("trust", 0.0, "trust must be a finite number above 0, got 0.0; "),
        ("trust", math.nan, "trust must be a finite number above 0, got nan; "),
    ],
)
def test_refuses_settings_out_of_range(setting: str, value: float, message: str) -> None:
    weights = [one_weight(torch.ones(2, 2), None)]
    with pytest.raises(ValueError, match=message):
        LARS(weights, **{"lr": 0.5, setting: value})
    with pytest.raises(ValueError, match=message):
        LARS([{"params": weights, setting: value}], lr=0.5)


def test_takes_a_rate_of_zero() -> None:
    weight = one_weight(torch.ones(2, 2), torch.ones(2, 2))
    LARS([weight], lr=0.0).step()  # where a warm-up starts
    assert torch.equal(weight, torch.ones(2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_refuses_weights_in_half_precision(dtype: torch.dtype) -> None:
    weights = [one_weight(torch.ones(2), None), one_weight(torch.ones(2, dtype=dtype), None)]
    with pytest.raises(ValueError, match=f"got {dtype}; keep the weights in float32"):
        LARS(weights, lr=0.5)


def test_refuses_to_have_no_weights() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        LARS([], lr=0.5)
