"""`moco bench time-to`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from moco.benchmark.machine import system_load, versions
from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.pretrain import command_workers
from moco.cli.signals import StopSignals
from moco.cli.terminal import describe_plan, print_table
from moco.device import processor
from moco.errors import UsageError
from moco.evaluation.monitor import knn_monitor
from moco.plan import Plan, make_plan
from moco.progress import SilentReport
from moco.session import Monitor
from moco.time_to import Target, Test, TimedRun, directories, spread, time_run

COLUMNS = ["seed", "reached", "seconds", "CPU seconds", "epochs", "images", "best", "tests, s"]


class NotesOnly(SilentReport):
    """Passes on what the user should know of a run, not its steps."""

    def note(self, text: str) -> None:
        if text.startswith(("skipped", "filling", "collapsed", "the queue", "step ")):
            say(printable(f"  {text}"))


def run(arguments: argparse.Namespace) -> int:
    """Train each seed until it reaches the score; print and write how long that took."""
    check_json_path(arguments.json)
    measure = "knn_head_top1" if arguments.head else "knn_top1"
    target = Target(arguments.knn, measure, arguments.every)
    if len(set(arguments.seeds)) != len(arguments.seeds):
        raise UsageError("--seeds names a seed twice; a run is the same again")
    load = system_load()
    with directories(arguments.out) as folder, StopSignals() as signals:
        plans = [plan_of(arguments, folder, seed) for seed in arguments.seeds]
        monitor = monitor_of(arguments, plans[0])
        for line in describe_plan(plans[0])[:2]:
            say(line)
        say(f"until {measure} reaches {100 * target.score:g} %, seeds {arguments.seeds}")
        runs = [TimedRun(plan, target, monitor, say) for plan in plans]
        for each in runs:
            time_run(each, stop=signals.asked, report=NotesOnly())
    show(runs)
    figures = {**plain_figures(runs), "load_before": load, "load_after": system_load()}
    write_json(arguments.json, figures)
    return 0


def plan_of(arguments: argparse.Namespace, folder: Path, seed: int) -> Plan:
    """Return the plan of a seed's run."""
    return make_plan(
        arguments.images,
        recipe=arguments.recipe,
        settings=arguments.settings,
        epochs=arguments.epochs,
        run=folder / f"seed-{seed}",
        device=arguments.device,
        seed=seed,
        workers=command_workers(arguments.workers, arguments.device),
        precision=arguments.precision,
        bad_limit=arguments.bad_limit,
    )


def monitor_of(arguments: argparse.Namespace, plan: Plan) -> Monitor:
    """Return the test of all runs."""
    monitor = knn_monitor(
        arguments.monitor_train,
        arguments.monitor_test,
        plan.recipe.views,
        plan.device,
        workers=plan.workers,
    )
    if monitor is None:
        raise UsageError("nothing to test on; give --monitor-train and --monitor-test")
    return monitor


def show(runs: Sequence[TimedRun]) -> None:
    """Print a row for each seed, and what they say together."""
    title = f"Time to {100 * runs[0].target.score:g} % {runs[0].target.measure}"
    print_table(title, COLUMNS, [table_row(each) for each in runs])
    for each in runs:
        if each.failed:
            say(printable(f"seed {each.plan.seed} broke down: {each.failed}"))
    figures = plain_figures(runs)
    count = f"reached by {figures['reached']} of {len(runs)} seeds"
    if not figures["reached"]:
        scores = ", ".join(f"{100 * each.best.score:.1f} %" for each in runs if each.best)
        say(f"{count} within {runs[0].plan.recipe.epochs} epochs; best scores {scores or 'none'}")
        return
    say(f"{count}: {in_words(figures, 'seconds', 's')}, {in_words(figures, 'epochs', 'epochs')}")


def in_words(figures: dict[str, object], name: str, unit: str) -> str:
    """Return a median and its range for people."""
    median, low, high = (figures[f"{name}{end}"] for end in ("", "_low", "_high"))
    shown = "no median, as too many missed" if median is None else f"median {median:,g}"
    return f"{shown} ({low:,g} - {high:,g}) {unit}"


def table_row(run: TimedRun) -> list[str]:
    """Return a seed's row."""
    test, best = run.reached, run.best
    spent = test or (run.tests[-1] if run.tests else None)
    return [
        str(run.plan.seed),
        "yes" if test else "no",
        f"{spent.seconds:,.1f}" if spent else "-",
        f"{spent.processor_seconds:,.1f}" if spent and not run.plan.workers else "-",
        f"{spent.epoch}" if spent else "-",
        f"{run.images_of(spent.epoch):,}" if spent else "-",
        f"{100 * best.score:.1f} %" if best else "-",
        f"{run.monitor_seconds:,.1f}",
    ]


def plain_figures(runs: Sequence[TimedRun]) -> dict[str, object]:
    """Return what `--json` has."""
    first = runs[0]
    reached = [run.reached for run in runs]
    figures: dict[str, object] = {
        "recipe": first.plan.recipe.name,
        "measure": first.target.measure,
        "score": first.target.score,
        "every": first.target.every_epochs,
        "planned_epochs": first.plan.recipe.epochs,
        "device": first.plan.device.type,
        "workers": first.plan.workers,
        "processor": processor(),
        "versions": versions(),
        "reached": sum(test is not None for test in reached),
    }
    for name, over in {
        "seconds": spread([round(test.seconds, 2) if test else None for test in reached]),
        "epochs": spread([test.epoch if test else None for test in reached]),
    }.items():
        figures |= {name: over.median, f"{name}_low": over.low, f"{name}_high": over.high}
    return {**figures, "runs": [plain_run(run) for run in runs]}


def plain_run(run: TimedRun) -> dict[str, object]:
    """Return a seed's figures."""
    spent = run.reached or (run.tests[-1] if run.tests else None)
    return {
        "seed": run.plan.seed,
        "reached": run.reached is not None,
        "seconds": round(spent.seconds, 2) if spent else None,
        "processor_seconds": own_seconds(run, spent) if spent else None,
        "monitor_seconds": round(run.monitor_seconds, 2),
        "epochs": spent.epoch if spent else 0,
        "images": run.images_of(spent.epoch) if spent else 0,
        "filling_images": run.filling_images,
        "best": run.best.score if run.best else None,
        "best_epoch": run.best.epoch if run.best else None,
        "failed": run.failed,
        "tests": [
            [test.epoch, test.score, round(test.seconds, 2), own_seconds(run, test)]
            for test in run.tests
        ],
    }


def own_seconds(run: TimedRun, test: Test) -> float | None:
    """Return the processor's seconds up to a test; None where loading processes did part of it."""
    return None if run.plan.workers else round(test.processor_seconds, 2)
