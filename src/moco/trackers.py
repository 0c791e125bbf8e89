"""Where a run's figures go beside its own files: TensorBoard, Weights & Biases, or one's own.

A tracker gets what metrics.jsonl and signals.jsonl get, by the same names. It never ends a run:
one that fails is told once and left out from then on.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from moco.errors import UsageError
from moco.plain_files import read_small, write_own
from moco.recipe import Recipe
from moco.recipe_files import recipe_yaml

TrackerName = Literal["tensorboard", "wandb"]
TRACKERS: tuple[TrackerName, ...] = ("tensorboard", "wandb")
MOST_STATE_BYTES = 1 << 20
UPLOAD_SECONDS = 60.0
"""How long the start waits for Weights & Biases, and the end for what is not sent yet."""


class Tracker(Protocol):
    """Who is given a run's figures; anything with these methods is one."""

    def begin(self, run: Path, recipe: Recipe, step: int) -> str:
        """Open what is written to, and return a line that says where the figures go.

        Args:
            run: the run directory.
            step: the first that figures will come of, 0 unless a stopped run goes on. Figures of
                this step and later ones that were given before the stop come again.
        """

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Take the finite figures of a step, by their names in metrics.jsonl and signals.jsonl.

        Those of the two files come apart, and a signal may come before earlier steps' metrics.
        """

    def flush(self) -> None:
        """Bring what was given to where a kill does not undo it; called after each reading."""

    def end(self) -> None:
        """No more figures follow, whether the run is done or not."""


class Tracking:
    """All trackers of a run; keeps their failures from it.

    Args:
        note: is told a line where a tracker begins or fails.
    """

    def __init__(
        self, trackers: Sequence[Tracker] = (), note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._trackers, self._note = list(trackers), note

    def begin(self, run: Path, recipe: Recipe, step: int) -> None:
        """Begin all; see `Tracker.begin`."""
        self._each(lambda tracker: self._note(tracker.begin(run, recipe, step)))

    def take(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Give them rows of metrics.jsonl or signals.jsonl."""
        if not self._trackers:
            return
        given = [(row["step"], plain_figures(row)) for row in rows]

        def give(tracker: Tracker) -> None:
            for step, values in given:
                tracker.figures(step, values)
            tracker.flush()

        self._each(give)

    def end(self) -> None:
        """End all."""
        self._each(lambda tracker: tracker.end())
        self._trackers = []

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                work(tracker)
            except Exception as error:  # noqa: BLE001  whatever others' code raises
                self._trackers.remove(tracker)
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                self._note(f"{type(tracker).__name__} failed, the run goes on without it: {reason}")
                with suppress(Exception):
                    tracker.end()


def tracker_named(name: str) -> Tracker:
    """Return the tracker that `--track` names.

    Raises:
        UsageError: There is none, or its package is not installed.
    """
    match name:
        case "tensorboard":
            tracker: Tracker = TensorBoard()
        case "wandb":
            tracker = WeightsAndBiases()
        case _:
            raise UsageError(f"no tracker is named {name!r}; choose {' or '.join(TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise UsageError(f'--track {name} needs a package; pip install "moco-torch[{name}]"')
    return tracker


def plain_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a row by name, without the step; lists are left out."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step"
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


class TensorBoard:
    """Event files in RUN/tb, for `tensorboard --logdir RUN/tb`."""

    def __init__(self) -> None:
        self._writer: Any = None

    def begin(self, run: Path, recipe: Recipe, step: int) -> str:
        """Open a file of events that takes back those of an earlier start from `step` on."""
        from torch.utils.tensorboard import SummaryWriter

        folder = own_folder(run / "tb")
        writer: Any = SummaryWriter(str(folder), purge_step=step)
        self._writer = writer
        writer.add_text("recipe", f"```\n{recipe_yaml(recipe)}\n```", step)
        return f"figures for TensorBoard go to {folder}"

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Add a scalar for each figure."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what was added."""
        self._writer.flush()

    def end(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, by WANDB_MODE, WANDB_PROJECT and what else it reads.

    It gets the figures, the recipe and the run directory's name: not the code, the machine, the
    environment or what is printed. RUN/wandb.json remembers its run and what it was given, so
    that a run that goes on gives nothing twice.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._file = Path()
        self._state: dict[str, Any] = {}

    def begin(self, run: Path, recipe: Recipe, step: int) -> str:
        """Begin a run there, or take up the one before the stop."""
        import wandb

        is_online = os.environ.get("WANDB_MODE", "online") == "online"
        if is_online and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("nobody is logged in; run `wandb login`, or set WANDB_MODE=offline")
        self._file = run / "wandb.json"
        self._state = read_state(self._file) if step else {}
        self._state = self._state or {"id": uuid.uuid4().hex[:12], "last": {}}
        own_folder(run / "wandb")
        write_state(self._file, self._state)
        self._run = wandb.init(
            id=self._state["id"],
            resume="allow" if is_online else None,
            name=run.name,
            project=os.environ.get("WANDB_PROJECT", "moco"),
            dir=str(run),
            config=asdict(recipe),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                host="",
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                init_timeout=UPLOAD_SECONDS,
                finish_timeout=UPLOAD_SECONDS,
            ),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        where = self._run.url if is_online else run / "wandb"
        return f"figures for Weights & Biases go to {where}"

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Log those that it does not have from before a stop."""
        last = self._state["last"]
        new = {name: value for name, value in values.items() if step > last.get(name, -1)}
        if new:
            self._run.log({**new, "step": step})
            last.update(dict.fromkeys(new, step))

    def flush(self) -> None:
        """Remember what was given."""
        write_state(self._file, self._state)

    def end(self) -> None:
        """Let it send the rest, for a minute at most."""
        if self._run is not None:
            self._run.finish()


def own_folder(folder: Path) -> Path:
    """Make a folder of a run; a link there would lead out of the run.

    Raises:
        OSError: It cannot be made, or is a link.
    """
    if folder.is_symlink():
        raise OSError(f"{folder} is a link; remove it")
    folder.mkdir(exist_ok=True)
    return folder


def read_state(path: Path) -> dict[str, Any]:
    """Return what a tracker left, empty where there is nothing that serves."""
    try:
        state = json.loads(read_small(path, MOST_STATE_BYTES))
        last = {str(name): int(step) for name, step in state["last"].items()}
        identity = str(state["id"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {"id": identity, "last": last} if identity.isalnum() and len(identity) < 65 else {}


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace what a tracker left; raises OSError."""
    aside = path.with_name(f".{path.name}.tmp")
    write_own(aside, json.dumps(state))
    os.replace(aside, path)
