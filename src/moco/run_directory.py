"""What a run keeps on disk beside its checkpoints, and whether a directory may be used for it.

runs/NAME/  recipe.yaml    the resolved recipe
            metrics.jsonl  one line a step
            status.json    state, exit code, step, reason
            skipped.jsonl  files that could not be read, with reasons
            checkpoints/  latest
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from moco.checkpoint import Checkpoint, Identity, load_newest
from moco.errors import StorageError, UsageError
from moco.recipe_files import read_recipe, recipe_difference, write_recipe

State = Literal["running", "done", "failed", "interrupted"]
RUN_FILES = (
    "recipe.yaml",
    "metrics.jsonl",
    "status.json",
    "skipped.jsonl",
    "checkpoints",
    "latest",
)


class RunDirectory:
    """A run's files. Nothing is written before `begin`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[str] = []
        """A line for each checkpoint that was passed over."""
        self.skipped: dict[str, str] = {}

    def find_checkpoint(self, identity: Identity, resume: str) -> Checkpoint | None:
        """Return the checkpoint to go on from, None to start from scratch.

        Args:
            identity: of the run about to begin.
            resume: auto takes the newest that verifies; never starts again, and `begin` then puts
                the old run aside.

        Raises:
            UsageError: The directory belongs to something else.
            CheckpointError: It has checkpoints and none can be used.
        """
        if resume == "never" or not self.path.exists():
            return None
        if not self.path.is_dir():
            raise UsageError(f"run directory {self.path} is a file; choose another --run")
        checkpoint = load_newest(self.path, named=self.damaged)
        if checkpoint is not None:
            self._check_identity(checkpoint.identity, identity)
        elif (self.path / "recipe.yaml").exists():
            difference = recipe_difference(read_recipe(self.path / "recipe.yaml"), identity.recipe)
            self._refuse_difference(difference)
        elif any(self.path.iterdir()):
            raise UsageError(
                f"run directory {self.path} holds files of something else; choose another --run"
            )
        return checkpoint

    def _check_identity(self, old: Identity, new: Identity) -> None:
        self._refuse_difference(recipe_difference(old.recipe, new.recipe))
        if old.seed != new.seed:
            self._refuse_difference(f"seed {old.seed} -> {new.seed}")
        if (old.image_count, old.image_fingerprint) != (new.image_count, new.image_fingerprint):
            self._refuse_difference(
                f"other images, {old.image_count} then and {new.image_count} now"
            )

    def _refuse_difference(self, difference: str) -> None:
        if difference:
            raise UsageError(
                f"run directory {self.path} belongs to another run ({difference}); choose another "
                "--run, or start it again with --resume never"
            )

    def begin(self, identity: Identity, checkpoint: Checkpoint | None) -> None:
        """Make the directory, or take it up again where the checkpoint left it.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if checkpoint is None:
                self._put_old_run_aside()
            write_recipe(self.path / "recipe.yaml", identity.recipe)
            self._keep_metrics_below(checkpoint.step if checkpoint else 0)
            self._read_skipped()
        except OSError as error:
            raise StorageError(
                f"cannot write run directory {self.path}: {error.strerror or error}; "
                "choose another --run"
            ) from error

    def append_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Add one line a step to metrics.jsonl."""
        self._append("metrics.jsonl", rows)

    def add_skipped(self, files: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Record files that could not be read; return those not known before."""
        new = [(name, reason) for name, reason in files if name not in self.skipped]
        self.skipped.update(new)
        if new:
            self._append(
                "skipped.jsonl", [{"file": name, "reason": reason} for name, reason in new]
            )
        return new

    def write_status(
        self, state: State, *, step: int, steps: int, code: int = 0, reason: str = ""
    ) -> None:
        """Replace status.json."""
        status = {
            "state": state,
            "code": code,
            "step": step,
            "steps": steps,
            "reason": reason,
            "skipped_files": len(self.skipped),
            "pid": os.getpid(),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        try:
            aside = self.path / ".status.tmp"
            aside.write_text(json.dumps(status, indent=1), encoding="utf-8")
            os.replace(aside, self.path / "status.json")
        except OSError as error:
            raise StorageError(f"cannot write {self.path / 'status.json'}: {error}") from error

    def mark_done(self, steps: int) -> None:
        """Say so in status.json, where a kill came between the last checkpoint and its status."""
        try:
            status = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
            is_told = status["state"] == "done"
        except (OSError, ValueError, KeyError, TypeError):
            is_told = False
        if not is_told:
            self._read_skipped()
            self.write_status("done", step=steps, steps=steps)

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        try:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        except OSError as error:
            raise StorageError(f"cannot write {self.path / name}: {error}") from error

    def _put_old_run_aside(self) -> None:
        old = [self.path / name for name in RUN_FILES if (self.path / name).exists()]
        if not (self.path / "checkpoints").exists():
            return
        number = 1
        while (self.path / f"replaced-{number}").exists():
            number += 1
        aside = self.path / f"replaced-{number}"
        aside.mkdir()
        for path in old:
            path.rename(aside / path.name)

    def _keep_metrics_below(self, step: int) -> None:
        """Drop the lines of steps that the run will take again, and a line cut short by a kill."""
        path = self.path / "metrics.jsonl"
        kept = [line for line in read_lines(path) if line["step"] < step] if path.exists() else []
        aside = self.path / ".metrics.tmp"
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(aside, path)

    def _read_skipped(self) -> None:
        path = self.path / "skipped.jsonl"
        if path.exists():
            self.skipped = {str(line["file"]): str(line["reason"]) for line in read_lines(path)}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a .jsonl file; a last line that a kill cut short is left out."""
    rows = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(text))
        except ValueError:
            continue
    return rows
