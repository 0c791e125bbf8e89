"""This library's step, as the loop of a run takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from moco.batch_norm import average_statistics
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
from moco.build import build_optimizer
from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.nonfinite import KeptBuffers, is_finite_everywhere, step_if
from moco.recipe import Recipe

READ_EVERY_STEPS = 20
"""As often as a run reads its figures from the device."""


class OurStep:
    """What `moco.pretraining.run_steps` does between a batch on the device and the next.

    tests/benchmark/test_our_step.py holds it to that loop.
    """

    moves_keys_first = False

    def __init__(self, recipe: Recipe, contrast: Contrast) -> None:
        self.recipe, self.contrast = recipe, contrast.train()
        self.optimizer = build_optimizer(recipe.optimizer, contrast)
        self.before = KeptBuffers(contrast, beside=contrast.dictionary)
        self.taken = 0
        self.unread: list[Tensor] = []
        self.parts: Parts = untold
        self.image_ids = torch.empty(0, dtype=torch.long)

    @property
    def encoder(self) -> nn.Module:
        """What encodes queries and learns, its head included."""
        return self.contrast.encoder

    @property
    def key_encoder(self) -> nn.Module:
        """What encodes keys and follows."""
        return self.contrast.key_encoder

    @property
    def queue(self) -> Tensor:
        """The stored keys, [K, C]."""
        return cast(Queue, self.contrast.dictionary).keys

    def step(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Take a step on two views [N, channels, S, S] of each image; return the loss."""
        ids = self._ids(view_a)
        self.before.keep()
        with self.parts(LOSS):  # the encoders' passes are told apart within it: see `tell`
            loss, keys, scores = self.contrast(view_a, view_b, ids, self.taken)
            loss = cast(Tensor, self.recipe.loss_scale * loss)
        with self.parts(OPTIMIZER):
            self.optimizer.zero_grad()
        with self.parts(BACKWARD):
            loss.backward()  # type: ignore[no-untyped-call]
        taken = is_finite_everywhere(loss, self.contrast.parameters())
        with self.parts(OPTIMIZER):
            step_if(taken, self.optimizer)
        with self.parts(KEY_UPDATE):
            self.contrast.advance(keys, ids, self.recipe.key_momentum, taken)
        average_statistics(self.contrast)
        self.before.put_back(unless=taken)
        self.taken += 1
        self.unread.append(torch.stack([loss.detach(), *scores, taken.to(loss.dtype)]))
        if len(self.unread) == READ_EVERY_STEPS:
            torch.stack(self.unread).tolist()
            self.unread.clear()
        return loss

    def tell(self, parts: Parts) -> Callable[[], None]:
        """Tell the parts of each step from now on, those within the contrast too."""
        contrast = self.contrast
        store: Any = contrast.dictionary.store

        def told_store(*given: Any) -> None:
            with parts(STORE):
                store(*given)

        hooks = [
            handle
            for encoder, name in (
                (contrast.encoder, FORWARD_QUERY),
                (contrast.key_encoder, FORWARD_KEY),
            )
            for handle in told_forward(encoder, parts, name)
        ]
        self.parts = parts
        dictionary: Any = contrast.dictionary
        dictionary.store = told_store

        def end() -> None:
            self.parts = untold
            del dictionary.store
            for hook in hooks:
                hook.remove()

        return end

    def _ids(self, view: Tensor) -> Tensor:
        """Return a number for each image, on the device as a batch has them."""
        if len(self.image_ids) != len(view):
            self.image_ids = torch.arange(len(view), device=view.device)
        return self.image_ids


def told_forward(module: nn.Module, parts: Parts, name: str) -> list[Any]:
    """Tell when a module computes; return the hooks that do it."""
    entered: list[Any] = []

    def enter(*_: object) -> None:
        entered.append(parts(name))
        entered[-1].__enter__()

    def leave(*_: object) -> None:
        entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
