"""Running a study: every setting with every seed, and what the figures say of the paper's claims.

RUN/cells/             one run directory a setting and seed, shared by studies: see `cells`
RUN/study-NAME.json    what the study compares, then all its figures
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from moco.data.images import Images
from moco.errors import InterruptedRunError, UsageError
from moco.evaluation.labelled import matching_images
from moco.evaluation.paired import Difference, paired_difference
from moco.plain_files import read_small
from moco.plan import CACHE_BYTES, make_plan
from moco.progress import Report
from moco.recipe import Recipe
from moco.recipe_files import recipe_difference, recipe_from_dict, recipe_to_dict
from moco.specs import BAD_LIMIT
from moco.studies.catalogue import STUDIES
from moco.studies.cells import (
    Bench,
    Scores,
    fingerprint,
    read_scores,
    run_cell,
    score_pixels,
    score_untrained,
    write_whole,
)
from moco.studies.spec import Claim, Setting, Study

MOST_FILE_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A study, decided but not begun."""

    study: Study
    bench: Bench
    base: Recipe
    seeds: int
    settings: tuple[Setting, ...]

    @property
    def file(self) -> Path:
        """Where the study's plan and figures are kept."""
        return self.bench.run / f"study-{self.study.name}.json"

    @property
    def runs(self) -> int:
        """How many cells there are."""
        return len(self.settings) * self.seeds

    def identity(self) -> dict[str, Any]:
        """Return what a continuation of this study must have in common with it."""
        plan = self.bench.plan(self.base, 0)
        return {
            "study": self.study.name,
            "recipe": recipe_to_dict(self.base),
            "images": fingerprint(self.bench.train),
            "test": fingerprint(self.bench.test),
            "device": plan.device.type,
            "precision": str(plan.precision or "float32").removeprefix("torch."),
        }


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command was given."""

    study: str
    images: Path
    test: Path
    run: Path
    recipe: str | Recipe = "small"
    settings: Sequence[str] = ()
    seeds: int = 3
    epochs: int | None = None
    budget_seconds: float | None = None
    device: str = "auto"
    workers: int | None = None
    precision: str = "auto"
    bad_limit: float = BAD_LIMIT


@dataclass
class Results:
    """What is known so far."""

    grid: Grid
    cells: dict[tuple[str, int], Scores] = field(default_factory=dict)
    """By setting and seed."""
    untrained: list[Scores] = field(default_factory=list)
    pixels: Scores = field(default_factory=dict)

    def values(self, setting: str, measure: str) -> dict[int, float]:
        """Return the setting's figures by seed, without cells that diverged or are not done."""
        return {
            seed: float(scores[measure])
            for (name, seed), scores in self.cells.items()
            if name == setting and not scores["failed"]
        }

    def diverged(self) -> Counter[str]:
        """Return how many runs of each setting diverged."""
        return Counter(name for (name, _), scores in self.cells.items() if scores["failed"])

    def difference(self, claim: Claim) -> Difference:
        """Return by how much the claim holds, over the seeds that have all its settings."""
        better, worse = (
            [self.values(name, claim.measure) for name in names]
            for names in (claim.better, claim.worse)
        )
        if not better or not worse:
            return paired_difference((), ())
        seeds = [
            seed
            for seed in range(self.grid.seeds)
            if all(seed in values for values in (*better, *worse))
        ]
        return paired_difference(
            *(
                [sum(values[seed] for values in side) / len(side) for seed in seeds]
                for side in (better, worse)
            )
        )


class StudyReport(Protocol):
    """Who is told how a study goes."""

    def begun(self, number: int, setting: Setting, seed: int) -> Report:
        """A cell is about to begin, counted from 1; return who is told of its steps."""

    def scored(self, results: Results, setting: Setting, seed: int) -> None:
        """A cell is done."""


def make_grid(options: Options) -> Grid:
    """Return what a study will compare; writes nothing.

    Raises:
        UsageError: An unknown study or setting, or a run directory of another study.
        DataError: Images that cannot serve.
    """
    if options.seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {options.seeds}")
    study = STUDIES[options.study]
    cache_bytes = CACHE_BYTES // max(1, options.workers or 1)
    train, test = matching_images(options.images, options.test, cache_bytes=cache_bytes)
    bench = Bench(
        train=train,
        test=test,
        run=options.run,
        device=options.device,
        workers=options.workers,
        precision=options.precision,
        bad_limit=options.bad_limit,
        watched=study.figure == "curves",
    )
    stored = _stored_plan(options.run / f"study-{study.name}.json")
    epochs = options.epochs
    if options.budget_seconds is not None and stored:
        epochs = int(stored["recipe"]["epochs"])
    base = resolve_base(options, train, epochs)
    settings = study.settings_of(base, len(train))
    grid = Grid(study=study, bench=bench, base=base, seeds=options.seeds, settings=settings)
    check_directory(grid)
    return grid


def resolve_base(options: Options, images: Images, epochs: int | None) -> Recipe:
    """Return the base recipe that the options ask for."""
    return make_plan(
        images,
        recipe=options.recipe,
        settings=options.settings,
        epochs=epochs,
        run=options.run,
        device=options.device,
        workers=options.workers,
        precision=options.precision,
        bad_limit=options.bad_limit,
    ).recipe


def check_directory(grid: Grid) -> None:
    """Refuse a directory whose studies are not comparable with this one.

    Raises:
        UsageError: The recipe, the images, the device or the precision is another.
    """
    new = grid.identity()
    for path in sorted(grid.bench.run.glob("study-*.json")):
        old = _stored_plan(path)
        if not old:
            continue
        differences = [
            f"{name} {old[name]} -> {new[name]}"
            for name in ("device", "precision")
            if old[name] != new[name]
        ]
        differences += [
            f"other {name}, {old[name]['count']} then and {new[name]['count']} now"
            for name in ("images", "test")
            if old[name] != new[name]
        ]
        if path == grid.file:
            before = recipe_from_dict(old["recipe"])
            named_alike = replace(before, name=grid.base.name, source=grid.base.source)
            difference = recipe_difference(named_alike, grid.base)
            differences += [difference] if difference else []
        if differences:
            raise UsageError(
                f"{path} belongs to another study ({', '.join(differences)}); choose another --run"
            )


def with_epochs(grid: Grid, options: Options, epochs: int) -> Grid:
    """Return the same study with so many epochs; what a recipe derives from them follows."""
    base = resolve_base(options, grid.bench.train, epochs)
    settings = grid.study.settings_of(base, len(grid.bench.train))
    return replace(grid, base=base, settings=settings)


def is_budget_open(options: Options) -> bool:
    """Say whether the budget is still to choose the epochs; a study begun before has its own."""
    path = options.run / f"study-{options.study}.json"
    return options.budget_seconds is not None and not _stored_plan(path)


def run_study(
    grid: Grid, report: StudyReport, stop: Callable[[], int | None] = lambda: None
) -> Results:
    """Carry out a study: train and score each cell that is not done, seed by seed.

    Raises:
        InterruptedRunError: `stop` said so; the same call goes on from there.
    """
    check_directory(grid)
    if not _stored_plan(grid.file):
        write_whole(grid.file, json.dumps({"plan": plan_of(grid)}, indent=1) + "\n")
    results = Results(grid)
    number = 0
    for seed in range(grid.seeds):
        results.untrained.append(score_untrained(grid.bench, grid.base, seed))
        for setting in grid.settings:
            number += 1
            told = report.begun(number, setting, seed)
            scores = run_cell(grid.bench, setting.recipe, seed, report=told, stop=stop)
            results.cells[setting.name, seed] = scores
            report.scored(results, setting, seed)
            if (code := stop()) is not None and number < grid.runs:
                raise InterruptedRunError(
                    f"stopped after run {number} of {grid.runs}; "
                    "the same command goes on from there",
                    code,
                )
    results.pixels = score_pixels(grid.bench, grid.base)
    return results


def plan_of(grid: Grid) -> dict[str, Any]:
    """Return the study's plan as its file has it."""
    return {**grid.identity(), "seeds": grid.seeds}


def cells_left(grid: Grid) -> list[tuple[Setting, int]]:
    """Return the settings and seeds that have no scores yet, in the order of their runs."""
    return [
        (setting, seed)
        for seed in range(grid.seeds)
        for setting in grid.settings
        if read_scores(grid.bench.directory(setting.recipe, seed)) is None
    ]


def _stored_plan(path: Path) -> dict[str, Any]:
    """Return the plan that a study's file has, empty without one."""
    try:
        plan = json.loads(read_small(path, MOST_FILE_BYTES))["plan"]
        _ = plan["device"], plan["precision"], int(plan["recipe"]["epochs"])
        _ = plan["images"]["count"], plan["test"]["count"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path} is no study's file ({error}); choose another --run or remove it"
        ) from error
    return dict(plan)
