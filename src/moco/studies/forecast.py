"""How long a study takes, and how many epochs fit a budget: from a few steps and one evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from moco.errors import UsageError
from moco.studies.cells import score_untrained
from moco.studies.grid import Grid, cells_left
from moco.studies.spec import Setting
from moco.time_trial import time_steps


@dataclass(frozen=True)
class Forecast:
    """How long the parts of a study take on this machine."""

    epoch_seconds: dict[str, float]
    """Of each setting."""
    evaluation_seconds: float

    def cell_seconds(self, setting: Setting) -> float:
        """Return how long one seed of the setting takes."""
        return self.epoch_seconds[setting.name] * setting.recipe.epochs + self.evaluation_seconds

    def seconds_left(self, grid: Grid) -> float:
        """Return how long the cells that are not done take."""
        return sum(self.cell_seconds(setting) for setting, _ in cells_left(grid))


def forecast(grid: Grid, *, keep: bool) -> Forecast:
    """Time a few steps of each mechanism, and one evaluation.

    Args:
        keep: write what the evaluation found, the untrained encoder's scores.
    """
    evaluation = score_untrained(grid.bench, grid.base, 0, keep=keep)["seconds"]
    rates: dict[str, float] = {}
    for setting in reversed(grid.settings):  # the last of a mechanism is its costliest
        mechanism = setting.recipe.mechanism
        if mechanism not in rates:
            _, rates[mechanism] = time_steps(grid.bench.plan(setting.recipe, 0))
    images = len(grid.bench.train)
    watching = evaluation if grid.bench.watched else 0.0
    return Forecast(
        {
            setting.name: images / rates[setting.recipe.mechanism] + watching
            for setting in grid.settings
        },
        evaluation,
    )


def epochs_within(grid: Grid, expected: Forecast, budget_seconds: float) -> int:
    """Return the number of epochs, equal for all cells, with which the study fits the budget.

    Raises:
        UsageError: Not even one epoch fits.
    """
    an_epoch = grid.seeds * sum(expected.epoch_seconds.values())
    evaluations = (grid.runs + grid.seeds) * expected.evaluation_seconds
    epochs = int((budget_seconds - evaluations) / an_epoch)
    if epochs < 1:
        least = evaluations + an_epoch
        raise UsageError(
            f"one epoch of {grid.runs} runs takes about {least / 60:.1f} minutes, and --budget "
            f"leaves {max(0.0, budget_seconds) / 60:.1f}; raise it, or lower --seeds"
        )
    return epochs
