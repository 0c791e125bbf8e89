"""A run's start, decided with its plan: what is asked for, what the run remembers, the fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch

from moco.checkpoint import Identity
from moco.data.images import Images
from moco.fitted_recipe import fitted_recipe
from moco.found_recipe import FoundRecipe
from moco.recipe import Recipe
from moco.recipe_files import change_fields
from moco.small import Choice
from moco.specs import Stem
from moco.start.asked import StartAsked
from moco.start.begun import Start, recalled_start
from moco.start.continuing import continued
from moco.start.fitting import (
    check_network,
    fitted_backbone,
    network_fields,
    normalization_notes,
    warmed,
)
from moco.start.origin import Hints, Origin, find_origin

PLAIN_STEM = "imagenet"
"""Which a file shows by itself."""
WARM_UP = "start."
"""The recipe's fields that are set whatever the recipe."""


@dataclass(frozen=True)
class FoundStart:
    """Where a run begins, before its recipe is settled."""

    asked: StartAsked | None
    origin: Origin | None
    """What lies there; None where the run's own checkpoints count, or it begins at random."""
    recalled: Start | None
    """How the run began that is in its directory already."""
    set: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe that it decided, once there is one."""

    def recipe_for(
        self, images: Images, found: FoundRecipe, changes: Mapping[str, Any], device: torch.device
    ) -> tuple[Recipe, list[Choice]]:
        """Return the recipe for the images and the start, and what was derived, why.

        A recipe that is made for the images has the file's network; a recipe with a name of its own
        is not rewritten, but for the warm-up.

        Args:
            changes: that the command makes, by full field name.

        Raises:
            MocoError: As `fitted_recipe`; or the recipe is of another network than the file.
        """
        given = {*changes, *(found.file.fields if found.file else ())}
        network = self._network() if found.recipe is None else {}
        network = {name: value for name, value in network.items() if name not in given}
        recipe, choices = fitted_recipe(images, found, {**network, **changes}, device)
        recipe, warm_up = self._warmed(recipe, given)
        self.set.update(network, **{choice.field: choice.value for choice in warm_up})
        reason = f"as {self._word()} has it"
        as_there = [Choice(name, value, reason) for name, value in network.items()]
        return recipe, [*choices, *as_there, *warm_up]

    def _network(self) -> dict[str, Any]:
        if self.origin is not None:
            return network_fields(self.origin)
        fields = self.recalled.fields if self.recalled else {}
        return {name: of for name, of in fields.items() if not name.startswith(WARM_UP)}

    def _warmed(self, recipe: Recipe, given: Collection[str]) -> tuple[Recipe, list[Choice]]:
        if self.origin is not None:
            check_network(self.origin, recipe)
            return warmed(recipe, self.origin, given)
        if self.recalled is None:
            return recipe, []
        changes = {
            name: value
            for name, value in self.recalled.fields.items()
            if name.startswith(WARM_UP) and name not in given
        }
        reason = f"as it began from {self.recalled.word}"
        choices = [Choice(name, value, reason) for name, value in changes.items()]
        return change_fields(recipe, changes), choices

    def _word(self) -> str:
        return self.origin.word if self.origin else self.recalled.word if self.recalled else ""

    def lines(self) -> tuple[str, ...]:
        """Return what the user should know where the run's own checkpoints count."""
        lines = (
            [f"began from {self.recalled.word} ({self.recalled.about})"] if self.recalled else []
        )
        if self.asked is not None and self.origin is None:
            lines.append(
                f"--from {self.asked.word} is not read: the run has checkpoints and goes on from "
                "them; --resume never begins again"
            )
        return tuple(lines)

    def start(self, identity: Identity, steps_per_epoch: int) -> Start | None:
        """Return the start, everything about it checked; after `recipe_for`.

        Raises:
            MocoError: As `continued` and `fitted_backbone`.
        """
        origin = self.origin
        if origin is None or self.asked is None:
            return self.recalled and replace(self.recalled, lines=self.lines())
        checkpoint, backbone, step = None, None, 0
        if origin.kind == "continue":
            checkpoint, lines = continued(origin, identity, steps_per_epoch)
            step = checkpoint.step
        else:
            backbone = fitted_backbone(origin, identity.recipe, self.asked)
            lines = [
                f"taken: the backbone's {len(backbone)} tensors, in both encoders alike; new: "
                "heads, queue, optimizer and step"
            ]
        first = f"begins from {origin.word} as {origin.kind}: {origin.about}"
        return Start(
            origin.word,
            origin.kind,
            origin.about,
            origin.sha256,
            step,
            dict(self.set),
            (
                f"{first}, sha256 {origin.sha256[:12]}",
                *lines,
                *origin.notes,
                *normalization_notes(origin, identity.recipe),
            ),
            checkpoint,
            backbone,
        )


def find_start(
    asked: StartAsked | None,
    run: Path,
    found: FoundRecipe,
    changes: Mapping[str, Any],
    *,
    resume: str,
) -> FoundStart:
    """Return where a run begins; the checkpoints that it has already come first.

    Args:
        found: the recipe that was asked for.
        changes: that the command makes in it, by full field name.

    Raises:
        MocoError: As `find_origin` and `recalled_start`.
    """
    if resume != "never" and any((run / "checkpoints").glob("step_*")):
        return FoundStart(asked, None, recalled_start(run))
    return FoundStart(asked, find_origin(asked, _hints(found, changes)) if asked else None, None)


def _hints(found: FoundRecipe, changes: Mapping[str, Any]) -> Hints:
    """Return what the user says of the network; nothing of a recipe made for the images counts."""
    fields = {**(found.file.fields if found.file else {}), **changes}
    spec = found.recipe.encoder if found.recipe else None
    backbone = fields.get("encoder.backbone", spec.backbone if spec else None)
    stem = fields.get("encoder.stem", spec.stem if spec else None)
    return Hints(
        backbone if isinstance(backbone, str) else None,
        next((known for known in get_args(Stem) if known == stem != PLAIN_STEM), None),
    )
