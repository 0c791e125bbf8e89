"""One step of Algorithm 1: from two views of a batch to moved weights and stored keys."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.optim import Optimizer

from moco.accumulation import backward_in_parts
from moco.batch_norm import average_statistics
from moco.contrast import Contrast, Contrasted
from moco.fast_encoders import FastEncoders
from moco.nonfinite import KeptBuffers, is_finite_everywhere, step_if
from moco.processes import averaging_gradients


class TrainingStep:
    """Takes steps; all processes of a run call it alike.

    Args:
        loss_scale: what the loss is multiplied with before its gradient is taken.
        accumulate: take each batch in so many parts, for less memory; the step is the same.
        fast: how the encoders run in it; None runs them as they are.
    """

    def __init__(
        self,
        contrast: Contrast,
        optimizer: Optimizer,
        *,
        loss_scale: float,
        accumulate: int = 1,
        fast: FastEncoders | None = None,
    ) -> None:
        self.contrast, self.optimizer, self._fast = contrast, optimizer, fast
        self.loss_scale, self.accumulate = loss_scale, accumulate
        self._match_views = averaging_gradients(contrast) if accumulate == 1 else None
        self.buffers = KeptBuffers(contrast, beside=contrast.dictionary)
        """What forward passes move by themselves."""
        self.holds_backbone = False
        """Whether steps leave the query encoder's backbone as it is, but for running statistics."""

    def take(
        self, view_a: Tensor, view_b: Tensor, image_ids: Tensor, step: int, key_momentum: float
    ) -> Tensor:
        """Take a step on two views [N, channels, S, S] of N images; wait for nothing.

        Args:
            image_ids: [N].
            step: counted from 0.
            key_momentum: m of Eq. 2.

        Returns:
            [5]: the loss, the three pretext scores, and 1 if the step was taken, or 0 where a
            number was not finite: then it is as if it had never been.
        """
        self.buffers.keep()
        with self._fast.in_use() if self._fast else nullcontext():
            loss, keys, scores = self._backward(view_a, view_b, image_ids, step)
        if self.holds_backbone:
            for weight in self.contrast.encoder.backbone.parameters():  # type: ignore[union-attr]
                weight.grad = None  # which every optimizer takes for a weight that stays
        taken = is_finite_everywhere(loss, self.contrast.parameters())
        step_if(taken, self.optimizer)
        self.contrast.advance(keys, image_ids, key_momentum, taken)
        average_statistics(self.contrast)
        self.buffers.put_back(unless=taken)
        return torch.stack([loss.detach(), *scores, taken.to(loss.dtype)])

    def _backward(self, view_a: Tensor, view_b: Tensor, image_ids: Tensor, step: int) -> Contrasted:
        """Match the views and leave the gradients, averaged over processes."""
        self.optimizer.zero_grad()
        if self._match_views is None:
            return backward_in_parts(
                self.contrast,
                (view_a, view_b),
                image_ids,
                step,
                parts=self.accumulate,
                loss_scale=self.loss_scale,
                buffers=self.buffers,
            )
        loss, keys, scores = self._match_views(view_a, view_b, image_ids, step)
        loss = self.loss_scale * loss
        loss.backward()
        return Contrasted(loss, keys, scores)
