"""What a page says of a run, from the files in its directory, whatever those hold."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.checkpoint_reading import read_json
from moco.doctor.signs import is_step
from moco.errors import CheckpointError, UsageError
from moco.recipe import Recipe
from moco.recipe_files import read_recipe
from moco.report.thinned import Thinned, number
from moco.run_records import each_line

POINTS = 150
"""A curve has this many to twice as many; a chart is some 300 pixels wide."""
LAST_ROWS = 20_000
"""Of metrics.jsonl, for the doctor, who looks at the last of them."""
MOST_SIGNALS = 100_000
FIGURES = (
    *("loss", "learning_rate", "key_momentum", "positive_similarity", "negative_similarity"),
    *("pretext_top1", "images_per_second", "knn_top1", "knn_head_top1", "knn_roc_auc"),
)
"""Of metrics.jsonl, that are drawn."""


@dataclass(frozen=True)
class ReportedRun:
    """A run as its files tell it."""

    path: Path
    name: str
    """What it is called on the page, of one run only."""
    recipe: Recipe
    status: Mapping[str, Any]
    """status.json, empty where it cannot be read."""
    identity: Mapping[str, Any]
    """Seed and images of the newest checkpoint's recipe.json, empty without one."""
    metrics: Thinned
    last_rows: Sequence[Mapping[str, Any]]
    signals: Sequence[Mapping[str, Any]]
    """Rows of signals.jsonl in order, each with a step."""
    steps_per_epoch: float | None
    """None where nothing tells it."""

    @property
    def steps_done(self) -> int:
        """How many steps its metrics tell of."""
        return 1 + max(int(row["step"]) for row in self.last_rows)

    @property
    def images(self) -> int | None:
        """How many images it trains on, None where nothing tells it."""
        told = (self.status.get("images"), self.identity.get("image_count"))
        return next((int(known) for each in told if (known := number(each) or 0) >= 1), None)

    @property
    def state(self) -> str:
        """How the run stands: running, done, failed, interrupted, or unknown."""
        state = self.status.get("state")
        return state if state in ("running", "done", "failed", "interrupted") else "unknown"


def read_runs(paths: Sequence[Path]) -> list[ReportedRun]:
    """Return the runs, each once.

    Raises:
        UsageError: One is no run's directory, or has no step to show yet.
        CheckpointError: A file of one cannot be read.
    """
    once = list({os.path.abspath(path): path for path in paths}.values())
    return [read_run(path, name) for path, name in zip(once, short_names(once), strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the directories' own names; where two are alike, as much of the path as tells them."""
    whole = [path.absolute().parts for path in paths]
    length = 1
    while length < max(map(len, whole)) and len({each[-length:] for each in whole}) < len(whole):
        length += 1
    return [os.path.join(*each[-length:]) for each in whole]


def read_run(path: Path, name: str) -> ReportedRun:
    """Return one run.

    Raises:
        UsageError: It is no run's directory, or has no step to show yet.
        CheckpointError: A file of it cannot be read.
    """
    try:
        recipe = _recipe_of(path)
        metrics, last_rows, per_epoch = _read_metrics(path / "metrics.jsonl")
        signals = _read_signals(path / "signals.jsonl")
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read: {error.strerror or error}; see to that file"
        ) from error
    if not last_rows:
        raise UsageError(
            f"{path} has no step in its metrics.jsonl yet; wait for the first, or name another run"
        )
    status = _object(path / "status.json")
    steps = number(status.get("steps")) or 0
    told = number(status.get("steps_per_epoch")) or 0
    return ReportedRun(
        path=path,
        name=name,
        recipe=recipe,
        status=status,
        identity=_newest_identity(path),
        metrics=metrics,
        last_rows=last_rows,
        signals=signals,
        steps_per_epoch=next(
            (each for each in (told, per_epoch, steps / recipe.epochs) if each and each > 0), None
        ),
    )


def _recipe_of(path: Path) -> Recipe:
    if not os.path.isdir(path):
        what = "is a file" if os.path.lexists(path) else "does not exist"
        raise UsageError(f"{path} {what}; name the directory of a run")
    if not os.path.lexists(path / "recipe.yaml"):
        raise UsageError(
            f"{path} is no run: there is no recipe.yaml in it; name a directory that moco pretrain "
            "wrote"
        )
    return read_recipe(path / "recipe.yaml")


def _read_metrics(path: Path) -> tuple[Thinned, list[dict[str, Any]], float | None]:
    """Return the curves, the last rows, and how many steps an epoch has where that shows."""
    curves, last = Thinned(POINTS), deque[dict[str, Any]](maxlen=LAST_ROWS)
    per_epoch = None
    for row in each_line(path):
        step = row.get("step")
        if not is_step(step):
            continue
        values = {name: value for name in FIGURES if (value := number(row.get(name))) is not None}
        curves.add(step, values)
        last.append(row)
        if per_epoch is None and row.get("epoch") == 1:
            per_epoch = float(step)
    return curves, list(last), per_epoch or None


def _read_signals(path: Path) -> list[dict[str, Any]]:
    rows = deque[dict[str, Any]](maxlen=MOST_SIGNALS)
    rows.extend(row for row in each_line(path) if is_step(row.get("step")))
    return list(rows)


def _newest_identity(run: Path) -> dict[str, Any]:
    try:
        folders = sorted((run / "checkpoints").glob("step_*"), reverse=True)
    except OSError:
        return {}
    found = (_object(folder / "recipe.json") for folder in folders)
    return next((each for each in found if each), {})


def _object(path: Path) -> dict[str, Any]:
    """Return a small JSON file's object, empty where it is none: a page can do without it."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
