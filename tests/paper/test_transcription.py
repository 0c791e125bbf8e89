"""Algorithm 1 of the paper, written down line by line, against `Contrast`.

The transcription keeps the official code's order (key weights move at the start of a step, keys are
stored after the logits), its own weights, queue, batch norm and optimizer, all in float64. It takes
from `moco` only where to start (weights and queue) and the permutation that shuffles the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.batch_norm import group_batch_norm
from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.distributed import shuffled_order

STEPS, BATCH, SIZE, DIM = 20, 16, 50, 6
SEED, TEMPERATURE = 11, 0.2
LEARNING_RATE, SGD_MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 1e-4


@dataclass(frozen=True)
class Setting:
    head: str
    groups: int
    symmetric: bool
    key_momentum: float


def views(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, *images.shape, generator=generator, dtype=torch.float64)
    return images + noise[0], images + noise[1]


# ---------------------------------------------------------------- the transcription


def batch_norm(
    x: Tensor, theta: dict[str, Tensor], statistics: dict[str, Tensor], name: str, groups: int
) -> Tensor:
    """Normalize each contiguous group of rows by its own mean and variance."""
    outputs, means, variances = [], [], []
    rows = len(x) // groups
    for first in range(0, len(x), rows):
        group = x[first : first + rows]
        count = group.numel() // group.shape[1]
        mean = group.sum(dim=(0, 2, 3)) / count
        centered = group - mean[None, :, None, None]
        variance = (centered**2).sum(dim=(0, 2, 3)) / count
        normal = centered / (variance + 1e-5).sqrt()[None, :, None, None]
        gain, shift = theta[f"{name}.weight"], theta[f"{name}.bias"]
        outputs.append(normal * gain[None, :, None, None] + shift[None, :, None, None])
        means.append(mean.detach())
        variances.append(variance.detach() * count / (count - 1))
    for kind, values in (("running_mean", means), ("running_var", variances)):
        old = statistics[f"{name}.{kind}"]
        statistics[f"{name}.{kind}"] = 0.9 * old + 0.1 * (sum(values) / groups)
    return torch.cat(outputs)


def f(
    x: Tensor, theta: dict[str, Tensor], statistics: dict[str, Tensor], setting: Setting
) -> Tensor:
    """The encoder: two convolutions, pooling, the head; its rows made unit length."""
    x = F.conv2d(x, theta["backbone.conv1.weight"], padding=1)
    x = batch_norm(x, theta, statistics, "backbone.bn1", setting.groups).clamp(min=0)
    x = F.conv2d(x, theta["backbone.conv2.weight"], stride=2)
    x = batch_norm(x, theta, statistics, "backbone.bn2", setting.groups).clamp(min=0)
    x = x.mean(dim=(2, 3))
    if setting.head == "mlp":
        x = (x @ theta["head.0.weight"].T + theta["head.0.bias"]).clamp(min=0)
        x = x @ theta["head.2.weight"].T + theta["head.2.bias"]
    else:
        x = x @ theta["head.weight"].T + theta["head.bias"]
    return x / (x**2).sum(dim=1, keepdim=True).sqrt()


def algorithm_1(
    theta_q: dict[str, Tensor],
    statistics: dict[str, Tensor],
    queue: Tensor,
    setting: Setting,
) -> Iterator[dict[str, Any]]:
    """Yield what each step did and left; the paper's letters: q, k, theta, m, tau, K."""
    theta_k = dict(theta_q)
    statistics_q, statistics_k = dict(statistics), dict(statistics)
    velocity = {name: torch.zeros_like(weight) for name, weight in theta_q.items()}
    queue, pointer = queue.clone(), 0
    m = setting.key_momentum

    def loss_and_keys(x_q: Tensor, x_k: Tensor, pi: Tensor) -> tuple[Tensor, Tensor]:
        q = f(x_q, theta_q, statistics_q, setting)
        shuffled = f(x_k[pi], theta_k, statistics_k, setting).detach()
        k = torch.empty_like(shuffled)
        for place, row in enumerate(pi.tolist()):  # place i held row pi[i]
            k[row] = shuffled[place]
        l_pos = (q * k).sum(dim=1, keepdim=True)
        logits = torch.cat([l_pos, q @ queue.T], dim=1) / TEMPERATURE
        return -torch.log_softmax(logits, dim=1)[:, 0].mean(), k

    for step in range(STEPS):
        x_1, x_2 = views(step)
        theta_q = {name: weight.detach().requires_grad_() for name, weight in theta_q.items()}
        theta_k = {n: m * theta_k[n] + (1 - m) * theta_q[n].detach() for n in theta_k}

        loss, k = loss_and_keys(x_1, x_2, shuffled_order(BATCH, (SEED, step, 0)))
        if setting.symmetric:
            other, k_1 = loss_and_keys(x_2, x_1, shuffled_order(BATCH, (SEED, step, 1)))
            loss, k = loss + other, torch.cat([k_1, k])

        queue = queue.clone()
        for row in k:
            queue[pointer] = row
            pointer = pointer + 1 if pointer + 1 < SIZE else 0

        gradients = dict(
            zip(theta_q, torch.autograd.grad(loss, list(theta_q.values())), strict=True)
        )
        with torch.no_grad():
            for name, gradient in gradients.items():
                decayed = gradient + WEIGHT_DECAY * theta_q[name]
                velocity[name] = SGD_MOMENTUM * velocity[name] + decayed
                theta_q[name] = theta_q[name] - LEARNING_RATE * velocity[name]

        yield {
            "theta_k in use": theta_k,
            "loss": loss.detach(),
            "gradients": gradients,
            "theta_q": theta_q,
            "statistics_q": dict(statistics_q),
            "statistics_k": dict(statistics_k),
            "queue": queue,
            "pointer": pointer,
        }


# ---------------------------------------------------------------- the package


class ToyEncoder(nn.Module):
    def __init__(self, head: str) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module("conv1", nn.Conv2d(3, 4, 3, padding=1, bias=False))
        self.backbone.add_module("bn1", nn.BatchNorm2d(4))
        self.backbone.add_module("relu1", nn.ReLU())
        self.backbone.add_module("conv2", nn.Conv2d(4, 8, 3, stride=2, bias=False))
        self.backbone.add_module("bn2", nn.BatchNorm2d(8))
        self.backbone.add_module("relu2", nn.ReLU())
        self.head: nn.Module = nn.Linear(8, DIM)
        if head == "mlp":
            self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, DIM))

    def forward(self, view: Tensor) -> Tensor:
        return self.head(self.backbone(view).mean(dim=(2, 3)))


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers() if "running" in name}


def package(contrast: Contrast, setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield the same of `Contrast` trained by PyTorch's SGD, as `pretrain` does it."""
    optimizer = torch.optim.SGD(
        [weight for weight in contrast.parameters() if weight.requires_grad],
        lr=LEARNING_RATE,
        momentum=SGD_MOMENTUM,
        weight_decay=WEIGHT_DECAY,
    )
    for step in range(STEPS):
        theta_k = parameters(contrast.key_encoder)  # the last advance moved it, for this step
        image_ids = torch.arange(step * BATCH, (step + 1) * BATCH)
        contrasted = contrast(*views(step), image_ids, step)
        optimizer.zero_grad()
        contrasted.loss.backward()
        optimizer.step()
        contrast.advance(contrasted.keys, image_ids, setting.key_momentum)
        yield {
            "theta_k in use": theta_k,
            "loss": contrasted.loss.detach(),
            "gradients": {n: w.grad.clone() for n, w in contrast.encoder.named_parameters()},
            "theta_q": parameters(contrast.encoder),
            "statistics_q": statistics(contrast.encoder),
            "statistics_k": statistics(contrast.key_encoder),
            "queue": contrast.dictionary.keys.clone(),
            "pointer": int(contrast.dictionary.next_slot),
        }


@pytest.mark.parametrize("key_momentum", [0.9, 0.99])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_contrast_is_algorithm_1(
    head: str, groups: int, symmetric: bool, key_momentum: float
) -> None:
    setting = Setting(head, groups, symmetric, key_momentum)
    torch.manual_seed(0)
    encoder = ToyEncoder(head).double()
    if groups > 1:
        group_batch_norm(encoder, groups)
    queue = Queue(SIZE, DIM).double()
    contrast = Contrast(
        encoder, queue, temperature=TEMPERATURE, symmetric=symmetric, seed=SEED
    ).train()
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(SIZE, dtype=torch.float64))

    paper = algorithm_1(parameters(encoder), statistics(encoder), queue.keys, setting)
    for step, (theirs, ours) in enumerate(zip(paper, package(contrast, setting), strict=True)):
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=1e-10, msg=lambda text, step=step: f"step {step}: {text}"
        )
