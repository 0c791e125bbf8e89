"""`moco pretrain`."""

from __future__ import annotations

import argparse
import os
import time

from moco.cli.dry_run import show_plan
from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import say
from moco.cli.signals import StopSignals
from moco.cli.start_options import start_words
from moco.cli.terminal import TerminalReport
from moco.device import default_workers, pick_device
from moco.distributed import rank
from moco.evaluation.monitor import knn_monitor
from moco.plan import Plan, make_plan
from moco.pretraining import train
from moco.processes import launched_processes, together
from moco.run_records import read_lines
from moco.session import Monitor
from moco.start.asked import start_asked
from moco.trackers import Tracker, tracker_named


def run(arguments: argparse.Namespace) -> int:
    """Pre-train, or show what would be done; in each of the processes that torchrun launched."""
    with launched_processes(arguments.timeout):
        figures = run_in_process(arguments)
        if rank() == 0:
            write_json(arguments.json, figures)
    return 0


def run_in_process(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the figures of the run, or of what it would be."""
    plan, monitor, trackers = together(lambda: prepare(arguments))
    if arguments.dry_run:
        return show_plan(plan, monitored=monitor is not None)
    began = time.monotonic()
    with StopSignals() as signals:
        train(
            plan,
            resume=resume_word(arguments),
            monitor=monitor,
            report=TerminalReport(),
            trackers=trackers,
            stop=signals.asked,
        )
    if rank() > 0:
        return {}
    say(f"done: {plan.run}; moco.load('{plan.run}') gives the backbone")
    return final_figures(plan, time.monotonic() - began)


def is_restarted() -> bool:
    """Say whether torchrun started this run again after a failure: then it always goes on."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def resume_word(arguments: argparse.Namespace) -> str:
    """Return whether checkpoints that are there count."""
    return "auto" if is_restarted() else str(arguments.resume)


def prepare(arguments: argparse.Namespace) -> tuple[Plan, Monitor | None, list[Tracker]]:
    """Return what is to be done, all input checked, nothing written."""
    check_json_path(arguments.json)
    trackers = [tracker_named(name) for name in dict.fromkeys(arguments.track)]
    plan = make_plan(
        arguments.images,
        recipe=arguments.recipe,
        settings=arguments.settings,
        epochs=arguments.epochs,
        run=arguments.run,
        device=arguments.device,
        seed=arguments.seed,
        workers=arguments.workers
        if arguments.resident
        else command_workers(arguments.workers, arguments.device),
        precision=arguments.precision,
        bad_limit=arguments.bad_limit,
        timeout=arguments.timeout,
        resident=arguments.resident,
        accumulate=arguments.accumulate,
        signals_every=arguments.signals_every,
        compile_networks=arguments.compile,
        cuda_graphs=arguments.cuda_graphs,
        start=start_asked(*start_words(arguments)),
        resume=resume_word(arguments),
    )
    monitor = knn_monitor(
        arguments.monitor_train,
        arguments.monitor_test,
        plan.recipe.views,
        plan.device,
        workers=plan.workers,
    )
    return plan, monitor, trackers


def command_workers(asked: int | None, device: str) -> int:
    """Return how many loading processes: as asked, or as many as suit the device."""
    return default_workers(pick_device(device), importable=True) if asked is None else asked


def final_figures(plan: Plan, seconds: float) -> dict[str, object]:
    """Return the last step's figures, as `--json` has them."""
    rows = read_lines(plan.run / "metrics.jsonl")
    last = rows[-1] if rows else {}
    begun = {"start": plan.start.in_short()} if plan.start else {}
    return {
        **last,
        **begun,
        "steps": plan.steps,
        "seconds": round(seconds, 1),
        "run": str(plan.run),
    }
