"""The rival mechanisms of MoCo v1, section 3.2 and Fig. 2, line by line, against `Contrast`.

End-to-end: keys come from the encoder that the queries come from, with gradient, and the batch is
the dictionary. Memory bank: one stored vector an image is the positive, drawn ones the negatives.
The transcriptions have their own weights, batch norm, bank and optimizer, all in float64. They take
from `moco` only where to start and the permutation that shuffles the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.batch_norm import group_batch_norm
from moco.contrast import Contrast
from moco.dictionaries import InBatch, MemoryBank
from moco.distributed import shuffled_order

STEPS, BATCH, DIM = 20, 16, 6
IMAGES, DRAWN, BANK_MOMENTUM = 40, 30, 0.3
SEED, TEMPERATURE = 11, 0.2
LEARNING_RATE, SGD_MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 1e-4
Weights = dict[str, Tensor]


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, *images.shape, generator=generator, dtype=torch.float64)
    image_ids = torch.randperm(IMAGES, generator=generator)[:BATCH]
    return images + noise[0], images + noise[1], image_ids


# ---------------------------------------------------------------- the transcriptions


def batch_norm(x: Tensor, theta: Weights, statistics: Weights, groups: int) -> Tensor:
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
        gain, shift = theta["bn.weight"], theta["bn.bias"]
        outputs.append(normal * gain[None, :, None, None] + shift[None, :, None, None])
        means.append(mean.detach())
        variances.append(variance.detach() * count / (count - 1))
    for kind, values in (("running_mean", means), ("running_var", variances)):
        old = statistics[f"bn.{kind}"]
        statistics[f"bn.{kind}"] = 0.9 * old + 0.1 * (sum(values) / groups)
    return torch.cat(outputs)


def f(x: Tensor, theta: Weights, statistics: Weights, groups: int) -> Tensor:
    """The encoder; its rows made unit length."""
    x = F.conv2d(x, theta["conv.weight"], stride=2)
    x = batch_norm(x, theta, statistics, groups).clamp(min=0).mean(dim=(2, 3))
    x = x @ theta["head.weight"].T + theta["head.bias"]
    return x / (x**2).sum(dim=1, keepdim=True).sqrt()


def sgd(theta: Weights, gradients: Weights, velocity: Weights) -> None:
    with torch.no_grad():
        for name, gradient in gradients.items():
            decayed = gradient + WEIGHT_DECAY * theta[name]
            velocity[name] = SGD_MOMENTUM * velocity[name] + decayed
            theta[name] = theta[name] - LEARNING_RATE * velocity[name]


def gradients_of(loss: Tensor, theta: Weights) -> Weights:
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))


def end_to_end(
    theta: Weights, statistics: Weights, groups: int, symmetric: bool
) -> Iterator[dict[str, Any]]:
    """Yield what each step did and left."""
    velocity = {name: torch.zeros_like(weight) for name, weight in theta.items()}
    for step in range(STEPS):
        x_1, x_2, _ = batch(step)
        theta = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
        loss = torch.zeros((), dtype=torch.float64)
        for term, (x_q, x_k) in enumerate([(x_1, x_2), (x_2, x_1)][: 1 + symmetric]):
            q = f(x_q, theta, statistics, groups)
            pi = shuffled_order(BATCH, (SEED, step, term))
            shuffled = f(x_k[pi], theta, statistics, groups)
            k = torch.stack([shuffled[pi.tolist().index(row)] for row in range(BATCH)])
            logits = q @ k.T / TEMPERATURE  # [B, B]: its own key, and B - 1 others
            loss = loss - torch.log_softmax(logits, dim=1).diagonal().mean()
        gradients = gradients_of(loss, theta)
        sgd(theta, gradients, velocity)
        yield {
            "loss": loss.detach(),
            "gradients": gradients,
            "theta": {name: weight.detach() for name, weight in theta.items()},
            "statistics": dict(statistics),
            "dictionary": {},
        }


def memory_bank(
    theta: Weights, statistics: Weights, bank: Tensor, groups: int, symmetric: bool
) -> Iterator[dict[str, Any]]:
    """Yield what each step did and left."""
    velocity = {name: torch.zeros_like(weight) for name, weight in theta.items()}
    bank = bank.clone()
    for step in range(STEPS):
        x_1, x_2, image_ids = batch(step)
        theta = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
        loss, encoded = torch.zeros((), dtype=torch.float64), []
        for term, x in enumerate([x_1, x_2][: 1 + symmetric]):
            q = f(x, theta, statistics, groups)
            drawn = np.random.default_rng((SEED, step, term)).integers(IMAGES, size=DRAWN).tolist()
            for row, image in enumerate(image_ids.tolist()):
                logits = [q[row] @ bank[image]]
                logits += [q[row] @ bank[other] for other in drawn if other != image]
                scaled = torch.stack(logits) / TEMPERATURE
                loss = loss - torch.log_softmax(scaled, dim=0)[0] / BATCH
            encoded.append(q.detach())
        gradients = gradients_of(loss, theta)
        sgd(theta, gradients, velocity)
        for q in reversed(encoded):  # view 2 first, as the two key batches of a queue are swapped
            for row, image in enumerate(image_ids.tolist()):
                moved = BANK_MOMENTUM * bank[image] + (1 - BANK_MOMENTUM) * q[row]
                bank[image] = moved / (moved**2).sum().sqrt()
        yield {
            "loss": loss.detach(),
            "gradients": gradients,
            "theta": {name: weight.detach() for name, weight in theta.items()},
            "statistics": dict(statistics),
            "dictionary": {"vectors": bank.clone()},
        }


# ---------------------------------------------------------------- the package


class ToyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, DIM)

    def forward(self, view: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(view)).relu().mean(dim=(2, 3)))


def parameters(module: nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def statistics(module: nn.Module) -> Weights:
    return {name: value.clone() for name, value in module.named_buffers() if "running" in name}


def package(contrast: Contrast) -> Iterator[dict[str, Any]]:
    """Yield the same of `Contrast` trained by PyTorch's SGD, as `pretrain` does it."""
    optimizer = torch.optim.SGD(
        contrast.parameters(), lr=LEARNING_RATE, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    for step in range(STEPS):
        view_a, view_b, image_ids = batch(step)
        contrasted = contrast(view_a, view_b, image_ids, step)
        optimizer.zero_grad()
        contrasted.loss.backward()
        optimizer.step()
        contrast.advance(contrasted.keys, image_ids, 0.999)
        yield {
            "loss": contrasted.loss.detach(),
            "gradients": {n: w.grad.clone() for n, w in contrast.encoder.named_parameters()},
            "theta": parameters(contrast.encoder),
            "statistics": statistics(contrast.encoder),
            "dictionary": {n: v.clone() for n, v in contrast.dictionary.state_dict().items()},
        }


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("mechanism", ["end_to_end", "memory_bank"])
def test_contrast_is_the_rival(mechanism: str, groups: int, symmetric: bool) -> None:
    torch.manual_seed(0)
    encoder = ToyEncoder().double()
    start = parameters(encoder), statistics(encoder)
    if groups > 1:
        group_batch_norm(encoder, groups)
    if mechanism == "end_to_end":
        contrast = Contrast(
            encoder,
            InBatch(),
            keys_from="query_encoder",
            temperature=TEMPERATURE,
            symmetric=symmetric,
            seed=SEED,
        )
        paper = end_to_end(*start, groups, symmetric)
    else:
        bank = MemoryBank(IMAGES, DIM, negatives=DRAWN, bank_momentum=BANK_MOMENTUM).double()
        contrast = Contrast(
            encoder,
            bank,
            keys_from="query_itself",
            temperature=TEMPERATURE,
            symmetric=symmetric,
            seed=SEED,
        )
        paper = memory_bank(*start, bank.vectors, groups, symmetric)
    assert "key_encoder" not in dict(contrast.named_children())
    for step, (theirs, ours) in enumerate(zip(paper, package(contrast.train()), strict=True)):
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=1e-10, msg=lambda text, step=step: f"step {step}: {text}"
        )
