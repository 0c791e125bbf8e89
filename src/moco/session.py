"""A run in progress: what the loop moves, and what it leaves on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from moco.build import take_up_optimizer
from moco.checkpoint import Checkpoint, Identity
from moco.contrast import Contrast
from moco.data.batches import Skipped
from moco.distributed import mean_over_processes, rank
from moco.encoders import Encoder
from moco.errors import CheckpointError, DataError, DivergedError, FailedElsewhereError
from moco.health import HealthWatch
from moco.nonfinite import MOST_IN_A_ROW, LeftOut
from moco.plan import Plan
from moco.processes import gather_lists, largest, together, unhurried
from moco.progress import Report
from moco.run_directory import RunDirectory, State
from moco.run_records import each_line
from moco.saving import Saver, own_random_state, random_states
from moco.step_figures import Unread
from moco.trackers import Tracking

SAVE_EVERY_SECONDS = 600.0
FIRST_NAMES = 20  # of unusable images, where there are too many
SAVING_SHARE = 0.05
"""Epoch ends are saved too, as long as saving takes no more than this share of the time."""

Monitor = Callable[[Encoder], Mapping[str, float]]


@dataclass
class Session:
    """A run in progress: what the loop moves, and what it leaves on disk."""

    plan: Plan
    identity: Identity
    contrast: Contrast
    optimizer: Optimizer
    directory: RunDirectory
    report: Report
    monitor: Monitor | None
    step: int = 0
    """Steps done."""
    unread: list[Unread] = field(default_factory=list)
    read_at: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int = -1
    left_out: LeftOut = field(default_factory=LeftOut)
    tracking: Tracking = field(default_factory=Tracking)
    saver: Saver = field(init=False)
    health: HealthWatch = field(init=False)

    def __post_init__(self) -> None:
        self.saver = Saver(self.plan.run)
        self.health = HealthWatch(self.plan.recipe, len(self.plan.images))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint: weights, keys, optimizer, random state, step.

        Raises:
            CheckpointError: It does not fit the recipe that it names.
        """
        try:
            self._take_up(checkpoint)
        except Exception as error:  # whatever a file holds, it is the file that is wrong
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.step} does not fit its own recipe: {reason}"
            ) from error
        self.health.remember(each_line(self.plan.run / "signals.jsonl"))

    def _take_up(self, checkpoint: Checkpoint) -> None:
        self.contrast.load_state_dict(checkpoint.model)
        take_up_optimizer(self.optimizer, checkpoint.train_state["optimizer"])
        if (state := own_random_state(checkpoint.train_state, "cpu")) is not None:
            torch.set_rng_state(state)
        state = own_random_state(checkpoint.train_state, "cuda")
        if self.plan.device.type == "cuda" and state is not None:
            torch.cuda.set_rng_state(state, self.plan.device)
        if "left_out" in checkpoint.train_state:
            self.left_out = LeftOut.from_state(checkpoint.train_state["left_out"])
        self.step = self.saved_step = checkpoint.step

    def save(self) -> None:
        """Begin to write a checkpoint of this step; training goes on beside it."""
        self.read_figures()
        if self.saved_step == self.step:
            return
        self.check_weights()
        began = time.monotonic()
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "cpu_random_state": random_states(torch.get_rng_state()),
            "left_out": self.left_out.state(),
        }
        if self.plan.device.type == "cuda":
            state["cuda_random_state"] = random_states(torch.cuda.get_rng_state(self.plan.device))
        together(lambda: self.begin_writing(state))
        self.saved_at, self.saved_step = time.monotonic(), self.step
        self.read_at += self.saved_at - began  # training's rate is without it

    def begin_writing(self, train_state: dict[str, Any]) -> None:
        """Begin to write it, in the first process."""
        if self.directory.writes:
            self.directory.sync_metrics()
            model = self.contrast.state_dict()
            self.saver.begin(Checkpoint(self.step, model, train_state, self.identity))

    @unhurried()
    def finish_saving(self) -> None:
        """Return once the checkpoint is on the disk.

        Raises:
            StorageError: It could not be written.
        """
        together(self.saver.wait)

    def check_weights(self) -> None:
        """Refuse weights that a last bad gradient broke: their loss would only show it next step.

        Raises:
            DivergedError: A weight is not a finite number.
        """
        finite = [weight.isfinite().all() for weight in self.contrast.parameters()]
        if not torch.stack(finite).all():
            raise DivergedError(
                f"weights are not finite after step {self.step - 1}; lower "
                "optimizer.learning_rate; checkpoints before it are kept"
            )

    def is_save_due(self) -> bool:
        """Say whether this step's state is worth writing now; the first process decides."""
        if self.step == self.plan.steps:
            return True
        if not self.directory.writes or self.saver.is_busy():
            return False
        since = time.monotonic() - self.saved_at
        if self.at_epoch_end() and since * SAVING_SHARE >= self.saver.seconds:
            return True
        return since >= SAVE_EVERY_SECONDS

    def agree(
        self, code: int | None, skipped: list[Skipped]
    ) -> tuple[int | None, bool, list[Skipped]]:
        """Return what all processes do after this step, from what each of them would do alone.

        Args:
            code: an exit code to stop with, None to go on.
            skipped: images of this batch that could not be used.

        Returns:
            The same, and between them whether to save.

        Raises:
            StorageError: The last checkpoint could not be written.
        """
        failed = self.saver.has_failed()
        wishes = [code or 0, int(self.is_save_due()), len(skipped), int(failed)]
        agreed_code, save, most_skipped, failed_anywhere = largest(wishes)
        if failed_anywhere:
            self.finish_saving()
        return agreed_code or None, bool(save), gather_lists(skipped) if most_skipped else []

    def count_skipped(self, skipped: list[Skipped]) -> None:
        """Tell and record images that could not be used.

        Raises:
            DataError: They are more than the plan allows; the state is saved first.
            FailedElsewhereError: The same in the other processes; one of them says it for all.
        """
        for image in self.directory.add_skipped(skipped):
            self.report.note(f"skipped {image.name}: {image.reason}")
        (bad,) = largest([len(self.directory.skipped)])
        if bad <= self.plan.most_bad:
            return
        self.save()
        self.finish_saving()
        if rank() > 0:
            raise FailedElsewhereError("process 0 names the bad images", DataError.exit_code)
        names = [shortened(name) for name in list(self.directory.skipped)[:FIRST_NAMES]]
        total = len(self.plan.images)
        raise DataError(
            f"{bad} of {total} images cannot be used, more than the limit of "
            f"{100 * self.plan.bad_limit:g} %: {', '.join(names)}; reasons are in "
            f"{self.plan.run / 'skipped.jsonl'}; mend or remove them, or raise --bad-limit; "
            "the same command then goes on"
        )

    def leave_out(self, step: int, image_ids: Tensor) -> None:
        """Tell and record a step that was not taken, with the images of all its processes."""
        ids = gather_lists(image_ids.tolist())
        names = [self.plan.images.name(image_id) for image_id in ids]
        epoch = step // self.plan.steps_per_epoch
        self.directory.add_skipped_step(
            {"step": step, "epoch": epoch, "images": ids, "files": names}
        )
        self.report.note(
            f"step {step} left out: its loss or a gradient is not a finite number; its images are "
            f"in {self.plan.run / 'skipped_steps.jsonl'}"
        )

    def at_epoch_end(self) -> bool:
        """Say whether the step just done was its epoch's last."""
        return self.step % self.plan.steps_per_epoch == 0

    def read_figures(self, extra: Mapping[str, float] | None = None) -> None:
        """Bring the figures of the steps since the last reading to metrics.jsonl.

        Those of a step that was left out are null where they are no finite numbers.

        Raises:
            DivergedError: Three steps in a row were left out.
        """
        if not self.unread:
            return
        steps, self.unread = self.unread, []
        figures = mean_over_processes(torch.stack([step.figures for step in steps]))
        values = figures.tolist()  # waits for the device
        diverged = self.count_left_out(steps, [taken > 0 for *_, taken in values])
        now = time.monotonic()
        rate = len(steps) * self.plan.recipe.batch_size / max(now - self.read_at, 1e-9)
        rows = [step.as_row(figures, rate) for step, figures in zip(steps, values, strict=True)]
        self.read_at = now
        rows[-1].update(extra or {})
        self.directory.append_metrics(rows)
        self.tracking.take(rows)
        self.status("running")
        self.report.stepped(rows[-1], self.plan)
        stored = self.plan.recipe.keys_stored(self.step - self.left_out.total)
        for line in self.health.look(rows, self.contrast.dictionary, stored):
            self.report.note(line)
        if self.health.diagnosis is not None:
            self.report.examined(self.health.diagnosis)
        if diverged is not None:
            raise DivergedError(
                f"the loss or a gradient was not a finite number in {MOST_IN_A_ROW} steps in a "
                f"row, {diverged - MOST_IN_A_ROW + 1} to {diverged}; lower "
                "optimizer.learning_rate; checkpoints before it are kept"
            )

    def tell_signals(self, row: Mapping[str, Any] | None) -> None:
        """Bring a reading of the signals, where there is one, to signals.jsonl."""
        if row is not None:
            self.directory.append_signals(dict(row))
            self.tracking.take([row])
            self.health.hear(row)

    def count_left_out(self, steps: Sequence[Unread], taken: Sequence[bool]) -> int | None:
        """Count, tell and record the steps that were not taken; return the third in a row."""
        diverged = None
        for step, is_taken in zip(steps, taken, strict=True):
            self.left_out.count(is_finite=is_taken)
            if not is_taken:
                self.leave_out(step.step, step.image_ids)
            if self.left_out.in_a_row == MOST_IN_A_ROW:
                diverged = step.step
        return diverged

    @unhurried()
    def watch(self, monitor: Monitor) -> None:
        """Score the encoder as it is; training goes on if the monitor's images cannot be used.

        The first process does, the others wait for it.
        """
        self.finish_saving()  # the monitor may start processes, and a thread does not go with them
        began, scores = time.monotonic(), {}
        try:
            if self.directory.writes:
                scores = dict(monitor(self.contrast.encoder))  # type: ignore[arg-type]
        except DataError as error:
            self.report.note(f"not monitored: {error}")
        self.contrast.train()
        self.read_at += time.monotonic() - began  # training's rate is without it
        self.read_figures(scores)

    def tell_delay(self, text: str, seconds: float) -> None:
        """Tell of what took so long between steps; training's rate is without it."""
        self.report.note(text)
        self.read_at += seconds

    def status(self, state: State, code: int = 0, reason: str = "") -> None:
        """Say in status.json how the run stands."""
        self.directory.write_status(
            state, step=self.step, steps=self.plan.steps, code=code, reason=reason
        )


def shortened(name: str) -> str:
    """Return a name of at most 80 characters, its end kept."""
    return name if len(name) <= 80 else f"...{name[-77:]}"
