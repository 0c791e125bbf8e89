"""A batch taken in parts, for less memory: the same loss, gradients, keys and running statistics.

What a query is compared with does not depend on how many queries are computed at a time. So the
keys of the whole batch come first, without what their gradient would need, then the loss of each
part of the queries. Where gradients reach the keys (end-to-end) they are gathered at the keys, and
each part of them is encoded once more to take its own: gradient caching (arXiv:2101.06983). Batch
norm works on whole groups, of which a part holds some.

Letters: N images of this process's batch, C embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.contrast import Contrast, Contrasted, Seed
from moco.distributed import deal_rows, mean_over_processes, shuffled_order, world_size
from moco.info_nce import PretextScores
from moco.info_nce_paths import score
from moco.nonfinite import KeptBuffers


def backward_in_parts(
    contrast: Contrast,
    views: tuple[Tensor, Tensor],
    image_ids: Tensor,
    step: int,
    *,
    parts: int,
    loss_scale: float,
    buffers: KeptBuffers,
) -> Contrasted:
    """Return what `contrast(*views, image_ids, step)` does, its gradients left at the weights.

    Args:
        views: both [N, channels, S, S].
        image_ids: [N].
        parts: a divisor of N and of this process's batch-norm groups.
        loss_scale: what the loss is multiplied with.
        buffers: those that forward passes of `contrast` move.

    Returns:
        The scaled loss without gradient, the keys, and the scores.
    """
    found = []
    for term in range(2 if contrast.symmetric else 1):
        seed = (contrast.seed, step, term)
        direction = Direction(contrast, image_ids, seed, parts, buffers)
        found.append(direction.match(views[term], views[1 - term], loss_scale))
    average_gradients(contrast)
    keys = torch.cat([each.keys for each in reversed(found)])  # as `Contrast.forward` has them
    scores = [torch.stack(each).mean() for each in zip(*(one.scores for one in found), strict=True)]
    return Contrasted(torch.stack([one.loss for one in found]).sum(), keys, PretextScores(*scores))


def average_gradients(module: nn.Module) -> None:
    """Leave the mean of all processes' gradients, as `averaging_gradients` does in one go."""
    if world_size() == 1:
        return
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    mean = mean_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(mean, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@dataclass(frozen=True)
class Direction:
    """Queries of one view told from keys of the other, a part at a time."""

    contrast: Contrast
    image_ids: Tensor
    seed: Seed
    parts: int
    buffers: KeptBuffers

    def match(self, query_view: Tensor, key_view: Tensor, loss_scale: float) -> Contrasted:
        """Return what `Contrast.match` does, its gradient left at the weights."""
        match self.contrast.keys_from:
            case "momentum_encoder":
                with torch.no_grad():
                    keys = self.keys_of(self.encode(self.contrast.key_encoder, key_view))
                return self.match_queries(query_view, keys, loss_scale)
            case "query_encoder":
                return self.match_through_keys(query_view, key_view, loss_scale)
            case "query_itself":  # a memory bank looks up by image alone
                return self.match_queries(query_view, None, loss_scale)

    def encode(self, encoder: nn.Module, key_view: Tensor) -> Tensor:
        """Return embeddings [N, C] of a view, shuffled as batch norm is to see them."""
        parts = self.shuffled(key_view).chunk(self.parts)
        return torch.cat([encoder(part) for part in self.buffers.at_mean_over(parts)])

    def shuffled(self, rows: Tensor) -> Tensor:
        """Return the rows beside those of other images, as `Contrast.encode_shuffled` puts them."""
        return deal_rows(rows, self.order()) if self.contrast.shuffle_keys else rows

    def keys_of(self, embeddings: Tensor) -> Tensor:
        """Return unit keys in the order of the images."""
        if self.contrast.shuffle_keys:
            embeddings = deal_rows(embeddings, self.order().argsort())
        return F.normalize(embeddings, dim=1)

    def order(self) -> Tensor:
        """Return the permutation of the batch of all processes."""
        return shuffled_order(len(self.image_ids) * world_size(), self.seed)

    def match_through_keys(
        self, query_view: Tensor, key_view: Tensor, loss_scale: float
    ) -> Contrasted:
        """Match queries with keys of the same encoder, which gets the gradients of both."""
        encoder, device = self.contrast.encoder, key_view.device
        drawn_from, moved_from = random_state(device), self.buffers.copies()
        with torch.no_grad():
            embeddings = self.encode(encoder, key_view)
        self.buffers.put(moved_from)  # they move when the keys are encoded again
        embeddings.requires_grad_()
        result = self.match_queries(query_view, self.keys_of(embeddings), loss_scale)
        if embeddings.grad is None:
            raise ValueError("no gradient reaches the keys")
        gradients, drawn_to = embeddings.grad.chunk(self.parts), random_state(device)
        set_random_state(drawn_from, device)  # what the network drew, it draws again
        parts = list(zip(self.shuffled(key_view).chunk(self.parts), gradients, strict=True))
        for part, gradient in self.buffers.at_mean_over(parts):
            encoder(part).backward(gradient)
        set_random_state(drawn_to, device)
        return result

    def match_queries(
        self, query_view: Tensor, keys: Tensor | None, loss_scale: float
    ) -> Contrasted:
        """Match a view's queries with keys [N, C]; None: each query is its own key.

        Gradients are left at the encoder's weights, and where `keys` come from if they carry any.
        """
        contrast, rows = self.contrast, len(self.image_ids)
        known = query_view.new_empty(rows, 0) if keys is None else keys
        found = contrast.dictionary.look_up(known, self.image_ids, self.seed)
        # gradients that reach the keys are added up there, and go on once
        leaves = [each.detach().requires_grad_(each.requires_grad) for each in found[:2]]
        losses, scores, queried = [], [], []
        for part in self.buffers.at_mean_over(torch.arange(rows).chunk(self.parts)):
            of_part = slice(int(part[0]), int(part[-1]) + 1)
            queries = contrast.predictor(contrast.encoder(query_view[of_part]))
            queries = F.normalize(queries, dim=1)
            loss, scores_of_part = score(
                queries,
                leaves[0][of_part],
                leaves[1],
                contrast.temperature,
                query_ids=self.image_ids[of_part],
                negative_ids=found.negative_ids,
            )
            loss = loss_scale * loss / self.parts
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            scores.append(scores_of_part)
            queried.append(queries.detach())
        pairs = [(each, leaf.grad) for each, leaf in zip(found[:2], leaves, strict=True)]
        carrying = [(each, gradient) for each, gradient in pairs if each.requires_grad]
        if carrying:
            torch.autograd.backward(*zip(*carrying, strict=True))  # type: ignore[arg-type]
        means = [torch.stack(each).mean() for each in zip(*scores, strict=True)]
        new_keys = torch.cat(queried) if keys is None else keys.detach()
        return Contrasted(torch.stack(losses).sum(), new_keys, PretextScores(*means))


RandomState = tuple[Tensor, Tensor | None]


def random_state(device: torch.device) -> RandomState:
    """Return what is drawn from next, on the CPU and on a GPU."""
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_gpu


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Draw from there again."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
