"""The steps of other libraries, from their own parts, where they are installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from moco.benchmark.peers import UnlikeRecipeError
from moco.benchmark.steps.learner import (
    BACKWARD,
    FORWARD_KEY,
    FORWARD_QUERY,
    KEY_UPDATE,
    LOSS,
    OPTIMIZER,
    Parts,
    StepRow,
    untold,
)
from moco.benchmark.steps.residual import plain_encoder
from moco.benchmark.steps.rows import Start
from moco.benchmark.steps.solo_step import SOLO_INCLUDES, SoloStep
from moco.device import fast_precision
from moco.encoders import Encoder

LIGHTLY_INCLUDES = (
    "its documented PyTorch example of MoCo v2: update_momentum of both parts, its query and key "
    "forwards (keys not shuffled), its NTXentLoss with its memory bank, backward, SGD; "
    "torchvision's backbone; SGD's settings, temperature and momentum are the recipe's; float32, "
    "NCHW, one batch norm over the batch"
)


def peer_rows(start: Start) -> tuple[list[StepRow], dict[str, str]]:
    """Return the libraries that can take part, and why others do not."""
    found: list[StepRow] = []
    left_out: dict[str, str] = {}
    in_float32 = fast_precision(start.device) is None
    for name, title, includes, build, exact in (
        ("lightly", "lightly, its MoCo example", LIGHTLY_INCLUDES, LightlyStep, True),
        ("solo_learn", "solo-learn, MoCoV2Plus", SOLO_INCLUDES, SoloStep, in_float32),
    ):
        try:
            learner = build(start)
        except UnlikeRecipeError as error:
            left_out[name] = str(error)
        except ModuleNotFoundError as error:
            left_out[name] = f"not installed ({error.name} is missing)"
        except (ImportError, AttributeError, TypeError, RuntimeError) as error:
            left_out[name] = f"cannot be used: {error}"
        else:
            row = StepRow(
                name,
                title,
                includes,
                start.recipe.batch_size,
                learner,
                start.views,
                start.device,
                exact,
                has_our_queue=name != "solo_learn",
            )
            found.append(row)
    return found, left_out


class LightlyStep:
    """What lightly's documented PyTorch example of MoCo v2 does with a batch, from its parts.

    A linear head, which its projection head cannot be, is torch's.

    Raises:
        ImportError: lightly is not installed.
        UnlikeRecipeError: The recipe is symmetric.
    """

    moves_keys_first = True

    def __init__(self, start: Start) -> None:
        losses, heads, self._tools = (
            import_module(f"lightly.{name}") for name in ("loss", "models.modules", "models.utils")
        )
        recipe = self.recipe = start.recipe
        if recipe.symmetric:
            raise UnlikeRecipeError(
                "its memory bank takes in the keys of one direction before it gives the negatives "
                "of the other: a symmetric loss of its parts is another one"
            )
        plain = plain_encoder(recipe, cast(Encoder, start.contrast.encoder))
        if recipe.encoder.head == "mlp":
            first, _, last = cast(nn.Sequential, plain.head)
            head = heads.MoCoProjectionHead(
                first.in_features, first.out_features, last.out_features
            )
            weights = zip(head.parameters(), plain.head.parameters(), strict=True)
            with torch.no_grad():
                for theirs, ours in weights:
                    theirs.copy_(ours)
            plain.head = head
        self.encoder: nn.Module = plain.to(start.device)
        self.key_encoder = copy.deepcopy(self.encoder)
        self._tools.deactivate_requires_grad(self.key_encoder)
        size, dim = start.queue.shape
        self.criterion: Any = losses.NTXentLoss(
            temperature=recipe.temperature, memory_bank_size=(size, dim)
        ).to(start.device)
        self.criterion.memory_bank.bank.copy_(start.queue)
        spec = recipe.optimizer
        self.optimizer = torch.optim.SGD(
            self.encoder.parameters(),
            lr=spec.learning_rate,
            momentum=spec.sgd_momentum,
            weight_decay=spec.weight_decay,
        )
        self.parts: Parts = untold

    @property
    def queue(self) -> Tensor:
        """The stored keys, [K, C]."""
        return cast(Tensor, self.criterion.memory_bank.bank)

    def tell(self, parts: Parts) -> Callable[[], None]:
        """Tell the parts of each step from now on; return what ends that."""
        self.parts = parts
        return lambda: setattr(self, "parts", untold)

    def step(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Take a step on two views [N, channels, S, S] of each image; return the loss."""
        encoder: Any = self.encoder
        key_encoder: Any = self.key_encoder
        kept = self.recipe.key_momentum
        with self.parts(KEY_UPDATE):
            self._tools.update_momentum(encoder.backbone, key_encoder.backbone, m=kept)
            self._tools.update_momentum(encoder.head, key_encoder.head, m=kept)
        with self.parts(FORWARD_QUERY):
            queries = encoder(view_a)
        with self.parts(FORWARD_KEY):
            keys = key_encoder(view_b).detach()
        with self.parts(LOSS):
            loss: Tensor = self.criterion(queries, keys)
        with self.parts(BACKWARD):
            loss.backward()  # type: ignore[no-untyped-call]
        with self.parts(OPTIMIZER):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss
