"""The step of the papers' own MoCo v1 and v2 code, written from what it does.

Letters: N images, C embedding size, K queue size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.benchmark.steps.learner import (
    BACKWARD,
    FORWARD_KEY,
    FORWARD_QUERY,
    KEY_UPDATE,
    LOSS,
    OPTIMIZER,
    STORE,
    Parts,
    untold,
)
from moco.benchmark.steps.residual import PlainEncoder
from moco.recipe import Recipe


class Meter:
    """The last figure and the mean of all."""

    def __init__(self) -> None:
        self.last: float | Tensor = 0.0
        self.total: float | Tensor = 0.0
        self.count = 0

    def update(self, value: float | Tensor, images: int) -> None:
        """Take a batch's figure in."""
        self.last, self.total, self.count = value, self.total + value * images, self.count + images


class OfficialStep:
    """Queue and key encoder move within the forward pass; the loss is over all [N, 1+K] logits.

    Args:
        encoder: with its weights, which the key encoder starts from.
        queue: [K, C] the keys that the queue starts with.
        precision: what autocast runs the forward pass and the loss in; None runs them as they are.
        layout: how weights and views lie in memory.
        orders: draws the permutation of N key images.
    """

    moves_keys_first = True

    def __init__(
        self,
        recipe: Recipe,
        encoder: PlainEncoder,
        queue: Tensor,
        device: torch.device,
        *,
        precision: torch.dtype | None = None,
        layout: torch.memory_format = torch.contiguous_format,
        orders: Callable[[int], Tensor] = torch.randperm,
    ) -> None:
        self.encoder: nn.Module = encoder.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.queue = queue.T.contiguous().to(device)  # [C, K]
        self.next_column = torch.zeros(1, dtype=torch.long, device=device)
        spec = recipe.optimizer
        self.optimizer = torch.optim.SGD(
            self.encoder.parameters(),
            spec.learning_rate,
            momentum=spec.sgd_momentum,
            weight_decay=spec.weight_decay,
        )
        self.recipe, self.device, self.orders = recipe, device, orders
        self.precision, self.layout = precision, layout
        self.criterion = nn.CrossEntropyLoss()
        self.meters = {name: Meter() for name in ("loss", "top1", "top5")}
        self.parts: Parts = untold

    def tell(self, parts: Parts) -> Callable[[], None]:
        """Tell the parts of each step from now on; return what ends that."""
        self.parts = parts
        return lambda: setattr(self, "parts", untold)

    def step(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Take a step on two views [N, channels, S, S] of each image; return the loss."""
        view_a, view_b = (view.contiguous(memory_format=self.layout) for view in (view_a, view_b))
        with self._tried_convolutions():
            return self._step(view_a, view_b)

    def _step(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        loss_of = self._symmetric_loss if self.recipe.symmetric else self._loss
        with self._autocast():
            loss = loss_of(view_a, view_b)
        with self.parts(OPTIMIZER):
            self.optimizer.zero_grad()
        with self.parts(BACKWARD):
            loss.backward()  # type: ignore[no-untyped-call]
        with self.parts(OPTIMIZER):
            self.optimizer.step()
        return loss

    def _loss(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the loss of one direction; keep its meters as the script does."""
        logits, labels, keys = self._logits(view_a, view_b, moves=True)
        with self.parts(STORE):
            self._store(keys)
        with self.parts(LOSS):
            loss: Tensor = self.criterion(logits, labels)
            top1, top5 = top_shares(logits, labels)
            self.meters["loss"].update(loss.item(), len(labels))
            self.meters["top1"].update(top1, len(labels))
            self.meters["top5"].update(top5, len(labels))
        return loss

    def _symmetric_loss(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Return the sum over both directions, as the CIFAR-10 notebook has it."""
        logits_a, labels, keys_b = self._logits(view_a, view_b, moves=True)
        logits_b, _, keys_a = self._logits(view_b, view_a, moves=False)
        with self.parts(LOSS):
            loss: Tensor = self.criterion(logits_a, labels) + self.criterion(logits_b, labels)
            self.meters["loss"].update(loss.item(), len(labels))
        with self.parts(STORE):
            self._store(torch.cat([keys_a, keys_b]))
        return loss

    def _logits(
        self, query_view: Tensor, key_view: Tensor, *, moves: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [N, 1+K], labels [N] and keys [N, C]."""
        with self.parts(FORWARD_QUERY):
            queries = F.normalize(self.encoder(query_view), dim=1)
        with torch.no_grad():
            if moves:
                with self.parts(KEY_UPDATE):
                    self._move_key_encoder()
            with self.parts(FORWARD_KEY):
                order = self.orders(len(key_view)).to(self.device)
                keys = F.normalize(self.key_encoder(key_view[order]), dim=1)
                keys = keys[torch.argsort(order)]
        with self.parts(LOSS):
            to_positive = torch.einsum("nc,nc->n", [queries, keys]).unsqueeze(-1)
            to_negatives = torch.einsum("nc,ck->nk", [queries, self.queue.clone().detach()])
            logits = torch.cat([to_positive, to_negatives], dim=1) / self.recipe.temperature
            labels = torch.zeros(len(logits), dtype=torch.long, device=self.device)
        return logits, labels, keys

    def _move_key_encoder(self) -> None:
        kept = self.recipe.key_momentum
        pairs = zip(self.encoder.parameters(), self.key_encoder.parameters(), strict=True)
        for weight, key_weight in pairs:
            key_weight.data = key_weight.data * kept + weight.data * (1.0 - kept)

    @torch.no_grad()
    def _store(self, keys: Tensor) -> None:
        """Write the keys into the next columns; the queue's size is a multiple of theirs."""
        begin = int(self.next_column)
        self.queue[:, begin : begin + len(keys)] = keys.T
        self.next_column[0] = (begin + len(keys)) % self.queue.shape[1]

    def _tried_convolutions(self) -> AbstractContextManager[None]:
        """Let cuDNN try its algorithms on each shape and keep the fastest, as the script does."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True)

    def _autocast(self) -> AbstractContextManager[None]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)


@torch.no_grad()
def top_shares(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the percentages of rows whose label is the first, and among the first five."""
    _, ranked = logits.topk(min(5, logits.shape[1]), dim=1)
    found = ranked.T.eq(labels.view(1, -1))
    shares = [found[:places].reshape(-1).float().sum(0) * (100 / len(labels)) for places in (1, 5)]
    return shares[0], shares[1]
