"""MoCo v3's Algorithm 1 (arXiv:2104.02057), written down line by line, against `Contrast`.

The transcription keeps the official code's order (both query forwards, key weights, both key
forwards, loss, update), its own weights, batch norm, schedules and optimizers, all in float64. It
takes from `moco` only where to start. Running statistics of the key encoder are not compared: the
official code encodes the keys of view 1 first, ours those of view 2 (docs/deviations.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from moco.batch_norm import sync_batch_norm
from moco.build import build_optimizer
from moco.contrast import Contrast
from moco.dictionaries import InBatch
from moco.distributed import rank, world_size
from moco.encoders import batch_norm_mlp
from moco.recipe import Recipe
from moco.recipes import MOCO_V3_RESNET50
from moco.specs import OptimizerSpec

STEPS, STEPS_PER_EPOCH, EPOCHS, WARMUP = 20, 5, 4, 1
BATCH, DIM, HIDDEN = 16, 6, 12
TAU, M_0 = 0.2, 0.9
RATES = {"sgd": 0.05, "adamw": 1e-3, "lars": 4.0}
WEIGHT_DECAY, SGD_MOMENTUM = 0.01, 0.9


def views(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, *images.shape, generator=generator, dtype=torch.float64)
    return images + noise[0], images + noise[1]


# ---------------------------------------------------------------- the transcription


def batch_norm(x: Tensor, statistics: dict[str, Tensor], name: str) -> Tensor:
    """Normalize by the mean and variance of the whole batch, without gain and shift."""
    axes = [0, 2, 3] if x.ndim == 4 else [0]
    shape = [1, -1, 1, 1] if x.ndim == 4 else [1, -1]
    count = x.numel() // x.shape[1]
    mean = x.sum(dim=axes) / count
    centered = x - mean.reshape(shape)
    variance = (centered**2).sum(dim=axes) / count
    old_mean, old_variance = statistics[f"{name}.running_mean"], statistics[f"{name}.running_var"]
    statistics[f"{name}.running_mean"] = 0.9 * old_mean + 0.1 * mean.detach()
    unbiased = variance.detach() * count / (count - 1)
    statistics[f"{name}.running_var"] = 0.9 * old_variance + 0.1 * unbiased
    return centered / (variance + 1e-5).sqrt().reshape(shape)


def f(x: Tensor, theta: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
    """The backbone, and the projector of three layers without bias, a plain batch norm last."""
    x = F.conv2d(x, theta["backbone.conv.weight"], stride=2)
    x = batch_norm(x, statistics, "backbone.bn")
    x = x * theta["backbone.bn.weight"][:, None, None] + theta["backbone.bn.bias"][:, None, None]
    x = x.clamp(min=0).mean(dim=(2, 3))
    x = batch_norm(x @ theta["head.0.weight"].T, statistics, "head.1")
    x = (x * theta["head.1.weight"] + theta["head.1.bias"]).clamp(min=0)
    x = batch_norm(x @ theta["head.3.weight"].T, statistics, "head.4")
    x = (x * theta["head.4.weight"] + theta["head.4.bias"]).clamp(min=0)
    return batch_norm(x @ theta["head.6.weight"].T, statistics, "head.7")


def predict(
    x: Tensor, theta: dict[str, Tensor], statistics: dict[str, Tensor], predictor: str
) -> Tensor:
    """The predictor of two layers; a ViT's ends in a plain batch norm, a ResNet's does not."""
    x = batch_norm(x @ theta["0.weight"].T, statistics, "1")
    x = (x * theta["1.weight"] + theta["1.bias"]).clamp(min=0)
    x = x @ theta["3.weight"].T
    return batch_norm(x, statistics, "4") if predictor == "mlp_bn" else x


def ctr(q: Tensor, k: Tensor) -> Tensor:
    q = q / (q**2).sum(dim=1, keepdim=True).sqrt()
    k = k / (k**2).sum(dim=1, keepdim=True).sqrt()
    logits = q @ k.T / TAU
    return 2 * TAU * -torch.log_softmax(logits, dim=1).diagonal().mean()


def update(
    weight: Tensor, gradient: Tensor, memory: dict[str, Any], algorithm: str, rate: float
) -> Tensor:
    if algorithm == "adamw":
        memory["t"] = memory.get("t", 0) + 1
        memory["first"] = 0.9 * memory.get("first", 0) + 0.1 * gradient
        memory["second"] = 0.999 * memory.get("second", 0) + 0.001 * gradient**2
        first = memory["first"] / (1 - 0.9 ** memory["t"])
        second = memory["second"] / (1 - 0.999 ** memory["t"])
        decayed = weight - rate * WEIGHT_DECAY * weight
        return decayed - rate * first / (second.sqrt() + 1e-8)
    if algorithm == "sgd" or weight.ndim > 1:
        gradient = gradient + WEIGHT_DECAY * weight
    if algorithm == "lars" and weight.ndim > 1:
        lengths = (weight**2).sum().sqrt(), (gradient**2).sum().sqrt()
        if lengths[0] > 0 and lengths[1] > 0:
            gradient = gradient * (0.001 * lengths[0] / lengths[1])
    memory["v"] = SGD_MOMENTUM * memory.get("v", 0) + gradient
    return weight - rate * memory["v"]


def algorithm_1(
    f_q: nn.Module, predictor_start: nn.Module, predictor: str, algorithm: str
) -> Iterator[dict[str, Any]]:
    """Yield what each step did and left; the paper's letters: q, k, theta, m, tau."""
    theta_q, theta_p = parameters(f_q), parameters(predictor_start)
    theta_k = parameters(f_q)
    statistics_q, statistics_k = statistics(f_q), statistics(f_q)
    statistics_p = statistics(predictor_start)
    memory: dict[str, dict[str, Any]] = {n: {} for n in [*theta_q, *theta_p]}

    for step in range(STEPS):
        t = step / STEPS_PER_EPOCH
        if t < WARMUP:
            rate = RATES[algorithm] * t / WARMUP
        else:
            turn = math.pi * (t - WARMUP) / (EPOCHS - WARMUP)
            rate = RATES[algorithm] * 0.5 * (1 + math.cos(turn))
        m = 1 - 0.5 * (1 + math.cos(math.pi * t / EPOCHS)) * (1 - M_0)

        x_1, x_2 = views(step)
        theta_q = {name: weight.detach().requires_grad_() for name, weight in theta_q.items()}
        theta_p = {name: weight.detach().requires_grad_() for name, weight in theta_p.items()}
        q_1 = predict(f(x_1, theta_q, statistics_q), theta_p, statistics_p, predictor)
        q_2 = predict(f(x_2, theta_q, statistics_q), theta_p, statistics_p, predictor)

        theta_k = {n: m * theta_k[n] + (1 - m) * theta_q[n].detach() for n in theta_k}
        k_1 = f(x_1, theta_k, statistics_k).detach()
        k_2 = f(x_2, theta_k, statistics_k).detach()
        loss = ctr(q_1, k_2) + ctr(q_2, k_1)

        weights = [*theta_q.values(), *theta_p.values()]
        gradients = torch.autograd.grad(loss, weights)
        gradients_q = dict(zip(theta_q, gradients[: len(theta_q)], strict=True))
        gradients_p = dict(zip(theta_p, gradients[len(theta_q) :], strict=True))
        with torch.no_grad():
            for theta, of in ((theta_q, gradients_q), (theta_p, gradients_p)):
                for name in theta:
                    theta[name] = update(theta[name], of[name], memory[name], algorithm, rate)

        yield {
            "theta_k in use": theta_k,
            "loss": loss.detach(),
            "gradients_q": gradients_q,
            "gradients_p": gradients_p,
            "theta_q": {name: weight.detach() for name, weight in theta_q.items()},
            "theta_p": {name: weight.detach() for name, weight in theta_p.items()},
            "statistics_q": dict(statistics_q),
            "statistics_p": dict(statistics_p),
        }


# ---------------------------------------------------------------- the package


class ToyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module("conv", nn.Conv2d(3, 5, 3, stride=2, bias=False))
        self.backbone.add_module("bn", nn.BatchNorm2d(5))
        self.backbone.add_module("relu", nn.ReLU())
        self.head = batch_norm_mlp([5, HIDDEN, HIDDEN, DIM], last_batch_norm=True)

    def forward(self, view: Tensor) -> Tensor:
        return self.head(self.backbone(view).mean(dim=(2, 3)))


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers() if "running" in name}


def toy_modules(predictor: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    encoder = ToyEncoder().double()
    predicting = batch_norm_mlp([DIM, HIDDEN, DIM], last_batch_norm=predictor == "mlp_bn").double()
    with torch.no_grad():  # gains and shifts that are not the initial ones
        for weight in [*encoder.parameters(), *predicting.parameters()]:
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    return encoder, predicting


def toy_recipe(algorithm: Any) -> Recipe:
    return replace(
        MOCO_V3_RESNET50,
        optimizer=OptimizerSpec(
            algorithm=algorithm,
            learning_rate=RATES[algorithm],
            weight_decay=WEIGHT_DECAY,
            schedule="warmup_cosine",
            warmup_epochs=WARMUP,
        ),
        temperature=TAU,
        loss_scale=2 * TAU,
        key_momentum=M_0,
        epochs=EPOCHS,
        batch_size=BATCH,
    )


def mean_over_processes(value: Tensor) -> Tensor:
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def package(predictor: str, algorithm: str) -> list[dict[str, Any]]:
    """Return the same of `Contrast`, trained as `pretrain` does it, in however many processes."""
    recipe = toy_recipe(algorithm)
    encoder, predicting = toy_modules(predictor)
    if world_size() > 1:
        sync_batch_norm(encoder)
        sync_batch_norm(predicting)
    contrast = Contrast(
        encoder,
        InBatch(),
        keys_from="momentum_encoder",
        temperature=recipe.temperature,
        predictor=predicting,
        symmetric=True,
        shuffle_keys=False,
    ).train()
    optimizer = build_optimizer(recipe.optimizer, contrast)
    left = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate(step, STEPS_PER_EPOCH)
        theta_k = parameters(contrast.key_encoder)  # the last advance moved it, for this step
        image_ids = torch.arange(step * BATCH, (step + 1) * BATCH).chunk(world_size())[rank()]
        view_a, view_b = (view.chunk(world_size())[rank()] for view in views(step))
        contrasted = contrast(view_a, view_b, image_ids, step)
        loss = recipe.loss_scale * contrasted.loss
        optimizer.zero_grad()
        loss.backward()
        for weight in [*encoder.parameters(), *predicting.parameters()]:
            weight.grad = mean_over_processes(weight.grad)
        optimizer.step()
        key_momentum = recipe.key_momentum_at(step + 1, STEPS_PER_EPOCH)
        contrast.advance(contrasted.keys, image_ids, key_momentum)
        left.append(
            {
                "theta_k in use": theta_k,
                "loss": mean_over_processes(loss),
                "gradients_q": {n: w.grad.clone() for n, w in encoder.named_parameters()},
                "gradients_p": {n: w.grad.clone() for n, w in predicting.named_parameters()},
                "theta_q": parameters(encoder),
                "theta_p": parameters(predicting),
                "statistics_q": statistics(encoder),
                "statistics_p": statistics(predicting),
            }
        )
    assert not contrast.dictionary.state_dict()  # the batch is forgotten
    return left


def assert_same_steps(ours: list[dict[str, Any]], predictor: str, algorithm: str) -> None:
    paper = algorithm_1(*toy_modules(predictor), predictor, algorithm)
    for step, (theirs, left) in enumerate(zip(paper, ours, strict=True)):
        torch.testing.assert_close(
            left, theirs, rtol=0, atol=1e-10, msg=lambda text, step=step: f"step {step}: {text}"
        )


@pytest.mark.parametrize("algorithm", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("predictor", ["mlp", "mlp_bn"])
def test_contrast_is_v3s_algorithm_1(predictor: str, algorithm: str) -> None:
    assert_same_steps(package(predictor, algorithm), predictor, algorithm)


def test_two_processes_are_v3s_algorithm_1(run_processes: Callable[..., list[Any]]) -> None:
    for left in run_processes(2, package, "mlp_bn", "sgd"):
        assert_same_steps(left, "mlp_bn", "sgd")
