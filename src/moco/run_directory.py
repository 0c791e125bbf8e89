"""What a run keeps on disk beside its checkpoints, and whether a directory may be used for it.

runs/NAME/  recipe.yaml    the resolved recipe
            metrics.jsonl  one line a step
            signals.jsonl  what a few fixed images show, every 50 steps (docs/signals.md)
            status.json    state, exit code, step, reason
            skipped.jsonl  images that could not be used, with reasons
            skipped_steps.jsonl  steps left out for numbers that were not finite
            stacks_rank0.txt  where a process was that hung or lost another; only then
            checkpoints/  latest
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from moco.checkpoint import Checkpoint, Identity, load_newest
from moco.continuation import check_continuation, refuse_difference
from moco.data.batches import Skipped
from moco.data.images import Images, UnreadableImageError
from moco.errors import CheckpointError, StorageError, UsageError, storage_remedy
from moco.plain_files import read_small, write_own
from moco.recipe import Recipe
from moco.recipe_files import read_recipe, recipe_difference, write_recipe
from moco.run_lock import LOCK_NAME, RunLock
from moco.run_records import append_lines, read_lines, replace_lines

State = Literal["running", "done", "failed", "interrupted"]
RUN_FILES = (
    "recipe.yaml",
    "metrics.jsonl",
    "signals.jsonl",
    "start.json",
    "status.json",
    "skipped.jsonl",
    "skipped_steps.jsonl",
    "checkpoints",
    "latest",
    "report.html",
    "tb",
    "wandb",
    "wandb.json",
)

MOST_STATUS_BYTES = 1 << 20


class RunDirectory:
    """A run's files. Nothing is written before `begin`.

    Args:
        writes: false in all processes of a run but the first: they only read.
        about: what status.json says of the run beside its state.
    """

    def __init__(
        self, path: Path, *, writes: bool = True, about: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.writes, self.about = path, writes, dict(about or {})
        self.notes: list[str] = []
        """What the user should know of how the run is taken up, a line each."""
        self.skipped: dict[str, Skipped] = {}
        """Images that could not be used, by name."""
        self._lock, self._is_new = RunLock(path), False

    def find_checkpoint(self, identity: Identity, resume: str) -> Checkpoint | None:
        """Return the checkpoint to go on from, None to start from scratch.

        The directory is this process's until `leave`.

        Args:
            identity: of the run about to begin.
            resume: auto takes the newest that verifies; never starts again, and `begin` then puts
                the old run aside.

        Raises:
            UsageError: The directory belongs to something else, or another run is at work in it.
            CheckpointError: It has checkpoints and none can be used.
        """
        if resume not in ("auto", "never"):
            raise UsageError(f"resume must be auto or never, got {resume!r}")
        self._check_name()
        if self.path.exists():
            if not self.path.is_dir():
                raise UsageError(f"run directory {self.path} is a file; choose another --run")
            self._recipe_of_old_run()  # a directory of something else stays as it is
        self._take()
        if resume == "never":
            return None
        damaged: list[str] = []
        checkpoint = load_newest(self.path, named=damaged)
        self.notes += [f"passed over: {line}" for line in damaged]
        recipe = self._recipe_of_old_run() if checkpoint is None else None
        if checkpoint is not None:
            self.notes += check_continuation(self.path, checkpoint, identity)
        elif recipe is not None:
            refuse_difference(self.path, recipe_difference(recipe, identity.recipe))
        return checkpoint

    def _take(self) -> None:
        if not self.writes:
            return
        self._is_new = not self.path.exists()
        with suppress(OSError):  # `begin` says so
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()

    def leave(self) -> None:
        """Let others have the directory; remove it if nothing was begun in it."""
        if not self.writes:
            return
        self._lock.release()
        with suppress(OSError, ValueError):  # a name that is none was refused before
            if not os.listdir(self.path):
                os.rmdir(self.path)

    def _check_name(self) -> None:
        try:
            str(self.path).encode()
            is_name = "\0" not in str(self.path)
        except UnicodeEncodeError:
            is_name = False
        if not is_name:
            raise UsageError(f"run directory {str(self.path)!r} is no name; choose another --run")

    def _recipe_of_old_run(self) -> Recipe | None:
        """Return the recipe of the run that is there, None when only its checkpoints tell.

        Raises:
            UsageError: There are files, and they are not a run's.
        """
        if not self.path.exists() or any((self.path / "checkpoints").glob("step_*")):
            return None
        try:
            if (self.path / "recipe.yaml").exists():
                return read_recipe(self.path / "recipe.yaml")
            is_empty = all(
                name in (*RUN_FILES, LOCK_NAME)
                or name.endswith(".tmp")
                or name.startswith("stacks_rank")
                for name in os.listdir(self.path)
            )
        except CheckpointError:
            is_empty = False
        if not is_empty:
            raise UsageError(
                f"run directory {self.path} holds files of something else; choose another --run"
            )
        return None

    def begin(self, identity: Identity, checkpoint: Checkpoint | None) -> None:
        """Make the directory, or take it up again where the checkpoint left it.

        Raises:
            StorageError: It cannot be written.
        """
        if not self.writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if checkpoint is None:
                self._put_old_run_aside()
            write_recipe(self.path / "recipe.yaml", identity.recipe)
            for name in ("metrics.jsonl", "signals.jsonl", "skipped_steps.jsonl"):
                self._keep_below(checkpoint.step if checkpoint else 0, name)
            self._read_skipped()
        except OSError as error:
            if self._is_new:
                shutil.rmtree(self.path, ignore_errors=True)
            raise StorageError(
                f"cannot write run directory {self.path}: {error.strerror or error}; "
                "choose another --run"
            ) from error

    def append_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Add one line a step to metrics.jsonl."""
        self._append("metrics.jsonl", rows)

    def append_signals(self, row: dict[str, Any]) -> None:
        """Add a reading to signals.jsonl."""
        self._append("signals.jsonl", [row])

    def sync_metrics(self) -> None:
        """Bring metrics.jsonl to the disk: a checkpoint promises that its steps are in it."""
        try:
            with open(self.path / "metrics.jsonl", "r+b") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise self._not_written("metrics.jsonl", error) from error

    def add_skipped(self, images: list[Skipped]) -> list[Skipped]:
        """Record images that could not be used; return those not known before."""
        new = {image.name: image for image in images if image.name not in self.skipped}
        self.skipped.update(new)
        if new:
            self._append("skipped.jsonl", [_skipped_row(image) for image in new.values()])
        return list(new.values())

    def add_skipped_step(self, row: dict[str, Any]) -> None:
        """Record a step that was left out, with its batch."""
        self._append("skipped_steps.jsonl", [row])

    def forget_mended(self, images: Images) -> None:
        """Drop images from the record that can be read by now, so that they count no more."""
        for name, image in list(self.skipped.items()):
            try:
                images.read(image.image_id)
            except (UnreadableImageError, IndexError):
                continue
            del self.skipped[name]
        if self.writes and (self.path / "skipped.jsonl").exists():
            rows = [_skipped_row(image) for image in self.skipped.values()]
            replace_lines(self.path / "skipped.jsonl", rows)

    def write_status(
        self, state: State, *, step: int, steps: int, code: int = 0, reason: str = ""
    ) -> None:
        """Replace status.json."""
        if not self.writes:
            return
        status = {
            "state": state,
            "code": code,
            "step": step,
            "steps": steps,
            **self.about,
            "reason": reason,
            "skipped_files": len(self.skipped),
            "pid": os.getpid(),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        try:
            aside = self.path / ".status.tmp"
            write_own(aside, json.dumps(status, indent=1))
            os.replace(aside, self.path / "status.json")
        except OSError as error:
            raise self._not_written("status.json", error) from error

    def mark_done(self, steps: int) -> None:
        """Say so in status.json, where a kill came between the last checkpoint and its status."""
        try:
            status = json.loads(read_small(self.path / "status.json", MOST_STATUS_BYTES))
            is_told = status["state"] == "done"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            is_told = False
        if not is_told:
            self._read_skipped()
            self.write_status("done", step=steps, steps=steps)

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        if not self.writes:
            return
        try:
            append_lines(self.path / name, rows)
        except OSError as error:
            raise self._not_written(name, error) from error

    def _not_written(self, name: str, error: OSError) -> StorageError:
        return StorageError(
            f"cannot write {self.path / name}: {error.strerror or error}; "
            f"{storage_remedy(error)}, then the same command goes on from the last checkpoint"
        )

    def _put_old_run_aside(self) -> None:
        old = [self.path / name for name in RUN_FILES if (self.path / name).exists()]
        old += self.path.glob("stacks_rank*.txt")
        if not any((self.path / "checkpoints").glob("step_*")):
            return  # nothing was kept that a new start could lose
        number = 1
        while (self.path / f"replaced-{number}").exists():
            number += 1
        aside = self.path / f"replaced-{number}"
        aside.mkdir()
        for path in old:
            path.rename(aside / path.name)

    def _keep_below(self, step: int, name: str) -> None:
        """Drop the lines of steps that the run will take again, and a line cut short by a kill."""
        path = self.path / name
        if path.exists() or name == "metrics.jsonl":
            rows = [row for row in read_lines(path) if isinstance(row.get("step"), int)]
            replace_lines(path, [row for row in rows if row["step"] < step])

    def _read_skipped(self) -> None:
        for line in read_lines(self.path / "skipped.jsonl"):
            image_id = line.get("image")
            if isinstance(image_id, int):
                name = str(line.get("file"))
                self.skipped[name] = Skipped(image_id, name, str(line.get("reason")))


def _skipped_row(image: Skipped) -> dict[str, Any]:
    return {"image": image.image_id, "file": image.name, "reason": image.reason}
