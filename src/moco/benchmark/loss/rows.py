"""The losses that are timed, each from embeddings to the gradient of the queries'.

Letters: N queries, K keys in the queue, C embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.info_nce import info_nce

NEAR = 0.5
"""Of noise beside an embedding makes its key: a loss neither solved nor hopeless."""


@dataclass(frozen=True)
class LossShape:
    """What is computed."""

    batch: int
    """N."""
    queue: int
    """K."""
    dim: int
    """C."""
    temperature: float


@dataclass(frozen=True)
class LossInputs:
    """What all losses are given."""

    shape: LossShape
    embeddings: Tensor
    """[N, C] of the queries, not normalized; the gradient goes there."""
    keys: Tensor
    """[N, C] unit length."""
    queue: Tensor
    """[K, C] unit length."""

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.queue.device


def made_inputs(shape: LossShape, device: torch.device) -> LossInputs:
    """Return random inputs, always the same for a shape and kind of device."""
    draw = torch.Generator(device).manual_seed(0)
    embeddings = torch.randn(shape.batch, shape.dim, generator=draw, device=device)
    noise = torch.randn(shape.batch, shape.dim, generator=draw, device=device)
    keys = F.normalize(embeddings + NEAR * noise, dim=1)
    queue = F.normalize(torch.randn(shape.queue, shape.dim, generator=draw, device=device), dim=1)
    return LossInputs(shape, embeddings.requires_grad_(), keys, queue)


@dataclass(frozen=True)
class LossRow:
    """A row of the comparison."""

    name: str
    """What it is called in the JSON file."""
    title: str
    includes: str
    images: int
    """N."""
    device: torch.device
    embeddings: Tensor
    loss: Callable[[], Tensor]

    @property
    def is_per_core(self) -> bool:
        """Say whether its time is one of a processor core, or of a whole device."""
        return self.device.type == "cpu"

    def run(self, _number: int = 0) -> Tensor:
        """Compute the loss and its gradient; return the loss."""
        self.embeddings.grad = None
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def gradient(self) -> Tensor:
        """Return the embeddings' gradient [N, C] of the last run."""
        if self.embeddings.grad is None:
            raise ValueError(f"{self.title} gives no gradient")
        return self.embeddings.grad.clone()


def ours_in_the_step(inputs: LossInputs) -> Callable[[], Tensor]:
    """Return the loss as a training step computes it: by `Contrast`, with encoders that do nothing.

    So it is what `Contrast` takes for this device and size, with the figures that a run reports.
    """
    shape = inputs.shape
    queue = Queue(shape.queue, shape.dim).to(inputs.device)
    queue.keys.copy_(inputs.queue)
    contrast = Contrast(nn.Identity(), queue, temperature=shape.temperature, shuffle_keys=False)
    image_ids = torch.arange(shape.batch, device=inputs.device)

    def loss() -> Tensor:
        return contrast(inputs.embeddings, inputs.keys, image_ids, 0).loss  # type: ignore[no-any-return]

    return loss


def ours_as_defined(inputs: LossInputs) -> Callable[[], Tensor]:
    """Return the plain definition."""
    shape = inputs.shape
    query_ids = torch.arange(shape.batch, device=inputs.device)
    negative_ids = torch.full((shape.queue,), -1, device=inputs.device)

    def loss() -> Tensor:
        return info_nce(
            F.normalize(inputs.embeddings, dim=1),
            inputs.keys,
            inputs.queue,
            shape.temperature,
            query_ids=query_ids,
            negative_ids=negative_ids,
        )

    return loss


def official_loss(inputs: LossInputs) -> Callable[[], Tensor]:
    """Return what the papers' code does: all logits in one matrix, then cross entropy."""
    columns = inputs.queue.T.contiguous()  # [C, K]
    criterion = nn.CrossEntropyLoss()

    def loss() -> Tensor:
        queries = F.normalize(inputs.embeddings, dim=1)
        to_positive = torch.einsum("nc,nc->n", [queries, inputs.keys]).unsqueeze(-1)
        to_negatives = torch.einsum("nc,ck->nk", [queries, columns.clone().detach()])
        logits = torch.cat([to_positive, to_negatives], dim=1) / inputs.shape.temperature
        labels = torch.zeros(len(logits), dtype=torch.long, device=inputs.device)
        found: Tensor = criterion(logits, labels)
        return found

    return loss


BUILDERS: dict[str, tuple[str, str, Callable[[LossInputs], Callable[[], Tensor]]]] = {
    "ours": (
        "moco, as its step computes it",
        "what Contrast computes, with the similarities and the share found that a run reports",
        ours_in_the_step,
    ),
    "ours_plain": (
        "moco, the plain definition",
        "info_nce of moco/info_nce.py, without the figures of a run",
        ours_as_defined,
    ),
    "official": (
        "official",
        "einsum over a clone of the [C, K] queue, cat, cross entropy; no accuracy",
        official_loss,
    ),
}


def loss_row(name: str, inputs: LossInputs) -> LossRow:
    """Return a row by its name in the JSON file."""
    title, includes, build = BUILDERS[name]
    return LossRow(
        name,
        title,
        f"normalize queries; {includes}; backward to the embeddings",
        inputs.shape.batch,
        inputs.device,
        inputs.embeddings,
        build(inputs),
    )
