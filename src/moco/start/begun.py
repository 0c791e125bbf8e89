"""Where a run began, as its plan and its directory have it: `start.json`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.checkpoint import Checkpoint
from moco.errors import CheckpointError, StorageError, storage_remedy
from moco.plain_files import read_small, write_own
from moco.recipe import Recipe
from moco.recipe_files import field_names

NAME = "start.json"
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Start:
    """Where a run begins that does not begin at random."""

    word: str
    """As the user gave it."""
    kind: str
    """continue or backbone."""
    about: str
    sha256: str
    """Of the file of weights."""
    step: int
    """The run's first step."""
    fields: dict[str, Any]
    """Of the recipe, by full name: what was set for it that the recipe did not say."""
    lines: tuple[str, ...] = ()
    """What was taken and what not, for people."""
    checkpoint: Checkpoint | None = field(default=None, compare=False)
    """To continue; None for a backbone, and where the run has checkpoints of its own."""
    backbone: dict[str, Tensor] | None = field(default=None, compare=False)
    """To begin with."""

    def in_short(self) -> dict[str, Any]:
        """Return what status.json and `--json` say of it."""
        return {"from": self.word, "as": self.kind, "sha256": self.sha256, "step": self.step}

    def record(self) -> dict[str, Any]:
        """Return what the run directory keeps of it."""
        return {
            **self.in_short(),
            "about": self.about,
            "fields": self.fields,
            "lines": list(self.lines),
        }


def write_start(run: Path, start: Start | None) -> None:
    """Keep where a run began; without one, drop what an earlier try left.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        if start is None:
            (run / NAME).unlink(missing_ok=True)
            return
        aside = run / f".{NAME}.tmp"
        write_own(aside, json.dumps(start.record(), indent=1))
        os.replace(aside, run / NAME)
    except OSError as error:
        raise StorageError(
            f"cannot write {run / NAME}: {error.strerror or error}; {storage_remedy(error)}"
        ) from error


def recalled_start(run: Path) -> Start | None:
    """Return where a run with checkpoints began, None where there are none or it began at random.

    Raises:
        CheckpointError: Its start.json cannot be read.
    """
    if not os.path.lexists(run / NAME) or not any((run / "checkpoints").glob("step_*")):
        return None
    try:
        record = json.loads(read_small(run / NAME, MOST_BYTES))
        word, kind, about, sha256 = (record[name] for name in ("from", "as", "about", "sha256"))
        step, fields = record["step"], record["fields"]
        texts = [word, kind, about, sha256]
        if not all(isinstance(text, str) for text in texts) or not isinstance(fields, dict):
            raise ValueError("values of other types than a run writes")
        if unknown := [name for name in fields if name not in set(field_names(Recipe))]:
            raise ValueError(f"a recipe has no field {unknown[0]:.80}")
        return Start(word, kind, about, sha256, int(step), fields)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{run / NAME} cannot be read ({error!s:.200}); restore it from a copy, or start again "
            "with --resume never"
        ) from error
