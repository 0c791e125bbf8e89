"""Pre-training: the loop of Algorithm 1 and what surrounds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from moco.build import build_contrast, build_optimizer
from moco.contrast import Contrast
from moco.data.batches import Batch, to_device
from moco.data.images import Images
from moco.data.workers import LOADER_TIMEOUT_SECONDS
from moco.device import shared_cpu
from moco.distributed import rank
from moco.errors import InterruptedRunError, MocoError, StorageError
from moco.evaluation.monitor import knn_monitor
from moco.plan import Plan, make_plan
from moco.plan_batches import load_plan, watch_over
from moco.plan_steps import set_learning_rate, training_step
from moco.processes import together
from moco.progress import Report, SilentReport
from moco.queue_filling import fill_queue
from moco.recipe import Recipe
from moco.run_directory import RunDirectory, State
from moco.session import Monitor, Session
from moco.session_start import begin_from, find_start
from moco.signals import SignalReader
from moco.specs import BAD_LIMIT, SIGNALS_EVERY_STEPS
from moco.start.asked import start_asked
from moco.step_figures import Unread
from moco.trackers import Tracker, Tracking
from moco.watchdog import Watch

READ_EVERY_STEPS = 20
"""Figures stay on the device and are read together, so that a step does not wait for them."""


def pretrain(  # noqa: PLR0913  one for each option of the command
    images: str | Path | Images,
    *,
    recipe: str | Path | Recipe = "small",
    settings: Sequence[str] = (),
    epochs: int | None = None,
    run: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    precision: str = "auto",
    bad_limit: float = BAD_LIMIT,
    timeout: float = LOADER_TIMEOUT_SECONDS,
    resident: bool = False,
    accumulate: int = 1,
    signals_every: int = SIGNALS_EVERY_STEPS,
    compile_networks: bool = False,
    cuda_graphs: bool = False,
    start_from: str | Path | None = None,
    start_as: str = "auto",
    start_channels: str | None = None,
    resume: str = "auto",
    monitor_train: str | Path | None = None,
    monitor_test: str | Path | None = None,
    report: Report | None = None,
    trackers: Sequence[Tracker] = (),
) -> Path:
    """Pre-train on unlabelled images and return the run directory; what `moco pretrain` calls.

    A run that was stopped goes on where it was; one that is done returns at once.

    Args:
        images: a folder, searched recursively, another source (docs/sources.md), or an `Images`
            object.
        recipe: "small", another recipe's name, a recipe file, a run directory, or a `Recipe`.
        settings: "field=value" changes to the recipe.
        epochs: passes over the images, in place of the recipe's.
        run: the run directory; runs/RECIPE-FOLDER by default.
        device: auto, cpu, cuda or mps.
        seed: decides weights, order and views.
        workers: loading processes; None picks by device.
        precision: auto, float32 or bfloat16: what networks compute in.
        bad_limit: share of the images, 0 to 1, that may turn out unusable before the run ends.
        timeout: seconds that a loading process, or another process of the run, may let it wait
            before it is given up.
        resident: keep all images, of one size and 8 bits, on the device; no loading processes then.
        accumulate: take each batch in so many parts: the same step in less memory.
        signals_every: steps between readings of the signals (docs/signals.md); 0 for none.
        compile_networks: compile the encoders' passes, where that works (docs/speed.md).
        cuda_graphs: replay them as CUDA graphs instead, where that works (docs/speed.md).
        start_from: what weights begin with, as `moco pretrain --from` takes it, None for chance;
            `start_as` and `start_channels` are --from-as and --from-channels (docs/start_from.md).
        resume: "auto", or "never" to put an earlier run in this directory aside.
        monitor_train: labelled class folders that vote in a kNN test as training goes on.
        monitor_test: labelled class folders that are voted on.
        report: who is told how it goes.
        trackers: who is given the figures too, by the first process (docs/display.md).

    Raises:
        MocoError: The cause and the remedy in one line; nothing was written when it is about
            the input.
    """
    plan = together(
        lambda: make_plan(
            images,
            recipe=recipe,
            settings=settings,
            epochs=epochs,
            run=run,
            device=device,
            seed=seed,
            workers=workers,
            precision=precision,
            bad_limit=bad_limit,
            timeout=timeout,
            resident=resident,
            accumulate=accumulate,
            signals_every=signals_every,
            compile_networks=compile_networks,
            cuda_graphs=cuda_graphs,
            start=start_asked(start_from, start_as, start_channels),
            resume=resume,
        )
    )
    monitor = together(
        lambda: knn_monitor(
            monitor_train, monitor_test, plan.recipe.views, plan.device, workers=plan.workers
        )
    )
    return train(plan, resume=resume, monitor=monitor, report=report, trackers=trackers)


def train(
    plan: Plan,
    *,
    resume: str = "auto",
    monitor: Monitor | None = None,
    report: Report | None = None,
    trackers: Sequence[Tracker] = (),
    stop: Callable[[], int | None] = lambda: None,
) -> Path:
    """Carry out a plan: build, take up a checkpoint if there is one, train, keep what was learnt.

    In a process group (`torchrun`), all processes call it alike; the first writes and reports.

    Args:
        stop: asked after each step; an exit code ends the run there, saved.

    Raises:
        InterruptedRunError: `stop` said so, in any process.
        LostProcessError: Another process ended.
        MocoError: As `pretrain`.
    """
    report = report if report is not None and rank() == 0 else SilentReport()
    directory = RunDirectory(plan.run, writes=rank() == 0, about=plan.about())
    try:
        checkpoint = find_start(plan, directory, resume, report)
        if checkpoint is not None and checkpoint.step >= plan.steps:
            report.note(f"{plan.run} is done: {checkpoint.step} of {plan.steps} steps")
            directory.mark_done(checkpoint.step)
            return plan.run
        contrast = together(lambda: build_plan(plan))
        optimizer = build_optimizer(plan.recipe.optimizer, contrast)
        together(lambda: directory.begin(plan.identity(), checkpoint))
        session = Session(plan, plan.identity(), contrast, optimizer, directory, report, monitor)
        session.tracking = Tracking(trackers if rank() == 0 else (), report.note)
        with telling_how_it_ended(session):
            if checkpoint is not None:
                session.restore(checkpoint)
                directory.forget_mended(plan.images)
                report.note(f"going on from step {checkpoint.step} of {plan.steps}")
            else:
                begin_from(plan, session)
            report.planned(plan, contrast)
            session.tracking.begin(plan.run, plan.recipe, session.step)
            with shared_cpu(plan.device, plan.workers), watch_over(plan, plan.run) as watch:
                fill_queue(session, stop, watch)
                run_steps(session, stop, watch)
    finally:
        directory.leave()
    return plan.run


@contextmanager
def telling_how_it_ended(session: Session) -> Iterator[None]:
    """Leave in status.json how the block ended; a checkpoint that is being written gets there.

    What is told is why the block ended, even where the disk takes no word of it.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, InterruptedRunError | KeyboardInterrupt)
        code = error.exit_code if isinstance(error, MocoError) else 130 if stopped else 1
        state: State = "interrupted" if stopped else "failed"
        session.directory.writes |= getattr(error, "reports", False)  # the first process is lost
        with suppress(MocoError):
            if not isinstance(error, KeyboardInterrupt):  # a second one waits for nothing
                session.saver.wait()
        with suppress(StorageError):
            session.status(state, code, str(error) or type(error).__name__)
        raise
    finally:
        session.tracking.end()
        session.report.ended()
    session.status("done")


def build_plan(plan: Plan) -> Contrast:
    """Return the plan's untrained contrast on its device, the same in all processes."""
    contrast = build_contrast(
        plan.recipe,
        images=len(plan.images),
        seed=plan.seed,
        device=plan.device,
        precision=plan.precision,
        accumulate=plan.accumulate,
    )
    if rank() > 0:  # what is drawn from here on, dropout, is each process's own
        torch.manual_seed(plan.seed ^ rank())
    return contrast


def run_steps(session: Session, stop: Callable[[], int | None], watch: Watch) -> None:
    """Take every step that is left: the loop of Algorithm 1; its inside is `TrainingStep.take`."""
    plan, recipe = session.plan, session.plan.recipe
    contrast, optimizer = session.contrast.train(), session.optimizer
    training = training_step(plan, contrast, optimizer, session.tell_delay)
    signals = SignalReader(plan, contrast, training.buffers)
    session.status("running")
    batches = load_plan(plan, start=session.step, stop=plan.steps, notes=watch.notes)
    for batch in signals.waited.over(batches):
        watch.note(batch.step)
        learning_rate = recipe.learning_rate(batch.step, plan.steps_per_epoch)
        set_learning_rate(optimizer, learning_rate)
        contrast.temperature = recipe.temperature_at(batch.step, plan.steps_per_epoch)
        view_a, view_b, image_ids = to_device(batch, plan.recipe.views, plan.device)

        # of the next step: the official code moves the key encoder at that step's start
        key_momentum = recipe.key_momentum_at(batch.step + 1, plan.steps_per_epoch)
        training.holds_backbone = recipe.start.holds_backbone(batch.step, plan.steps_per_epoch)
        figures = training.take(view_a, view_b, image_ids, batch.step, key_momentum)

        session.step = batch.step + 1
        session.unread.append(
            Unread(
                batch.step,
                batch.step // plan.steps_per_epoch,
                learning_rate,
                key_momentum,
                figures,
                batch.image_ids,
            )
        )
        session.tell_signals(signals.after_step(batch.step, view_a, view_b, image_ids))
        after_step(session, batch, stop)


def after_step(session: Session, batch: Batch, stop: Callable[[], int | None]) -> None:
    """Say, watch, save and stop where it is time to.

    Raises:
        InterruptedRunError: `stop` said so; this step's state is saved.
        DataError: Too many images cannot be used; so is it then.
    """
    code, save, skipped = session.agree(stop(), batch.skipped)
    if skipped:
        session.count_skipped(skipped)
    if session.at_epoch_end() and session.monitor is not None:
        session.watch(session.monitor)
    elif len(session.unread) == READ_EVERY_STEPS or session.at_epoch_end():
        session.read_figures()
    stopped = code is not None and session.step < session.plan.steps
    if save or stopped:
        session.save()
    if stopped or session.step == session.plan.steps:
        session.finish_saving()
    if code is not None and stopped:
        raise InterruptedRunError(
            f"stopped and saved after step {session.step} of {session.plan.steps}; "
            "the same command goes on from there",
            code,
        )
