"""Runs killed at random moments, taken up again, and compared with one that never was."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from killed_runs import Job, log_of, train_job

from moco.checkpoint import Checkpoint, load_newest

PATIENCE_SECONDS = 60.0
"""More than any of these runs needs to its end."""
WORKERS_END_SECONDS = 10.0
Reader = Callable[[Path], Checkpoint | None]


@dataclass(frozen=True)
class Unbroken:
    """A run that nobody disturbed, and how fast this machine is."""

    run: Path
    checkpoint: Checkpoint
    first_save_seconds: float
    step_seconds: float


@dataclass
class Proof:
    """What came of killing."""

    kills: int = 0
    inside_save: int = 0
    finished: int = 0
    """Runs that came to their end."""
    refusals: list[str] = field(default_factory=list)
    """Starts that failed."""
    lost_checkpoints: int = 0
    """Kills that left an older checkpoint than was there before."""
    differing_bytes: int = 0
    differing_rows: int = 0
    orphans: int = 0
    shared_memory: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.inside_save} inside a save, {len(self.refusals)} failed "
            f"resumes, {self.finished} runs finished, {self.differing_bytes} differing bytes, "
            f"{self.differing_rows} differing rows, {self.orphans} orphans, "
            f"{self.shared_memory} leaked, {self.seconds:.1f} s"
        )

    def check(self) -> None:
        """Raise an AssertionError unless nothing was lost and nothing differs."""
        assert not self.refusals, self.refusals
        assert self.finished
        found = (self.lost_checkpoints, self.differing_bytes, self.differing_rows)
        assert found == (0, 0, 0), str(self)
        assert (self.orphans, self.shared_memory) == (0, 0), str(self)


def tell(line: str) -> None:
    """Show a test's figures, where pytest is run with -s."""
    print(f"\n{line}")  # noqa: T201


def start_process(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start `work` in a process forked from one that has imported torch and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moco.pretraining"])
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def kill_group(process: ForkServerProcess) -> None:
    """Kill the process and those that it started, or leave it if it has ended."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # it has none of its own yet
            os.killpg(process.pid, signal.SIGKILL)
    process.join()


def run_unbroken(job: Job, read: Reader = load_newest) -> Unbroken:
    """Run the job to its end; every process of it is gone afterwards."""
    began = time.monotonic()
    process = start_process(train_job, job)
    try:
        while not (job.run / "latest").exists() and process.is_alive():
            time.sleep(0.002)
        first = time.monotonic() - began
        process.join(PATIENCE_SECONDS)
        assert process.exitcode == 0, log_of(job).read_text()
        in_all = time.monotonic() - began
    finally:
        kill_group(process)
    checkpoint = read(job.run)
    assert checkpoint is not None
    return Unbroken(job.run, checkpoint, first, (in_all - first) / checkpoint.step)


def prove_by_killing(
    job: Job,
    unbroken: Unbroken,
    *,
    kills: int,
    seed: int,
    inside_save: int = 0,
    steps: tuple[int, int] = (0, 4),
    read: Reader = load_newest,
) -> Proof:
    """Kill runs of the job at so many random moments, each resumed, each brought to its end.

    Every fifth start has two loading processes. A start that fails ends it.

    Args:
        job: its run's name is the beginning of the names of all runs that this takes.
        unbroken: what each of them must equal.
        seed: of the moments, which are in proportion to the unbroken run's.
        inside_save: how many kills have to meet a save; up to twice as many are made for that.
        steps: how many a start may take before it is killed; from 0, it may have taken up nothing.
        read: how a run's state is read back.
    """
    proof, draw, began, groups = Proof(), random.Random(seed), time.monotonic(), []
    number = 0

    def goes_on() -> bool:
        return proof.kills < kills or (proof.inside_save < inside_save and proof.kills < 2 * kills)

    while not proof.refusals and (goes_on() or not proof.finished):
        own = replace(job, run=job.run.with_name(f"{job.run.name}-{number}"))
        number += 1
        while True:
            moment = _moment(draw, unbroken, steps) if goes_on() else PATIENCE_SECONDS
            if not _is_killed(proof, own, read, groups, moment):
                break
            own = replace(own, workers=2 if proof.kills % 5 == 4 else 0)
        if not proof.refusals:
            proof.finished += 1
            compare(proof, own.run, unbroken, read)
    proof.orphans = sum(len(living(group)) for group in groups)
    proof.shared_memory = len(shared_memory_of(groups))
    proof.seconds = time.monotonic() - began
    return proof


def _moment(draw: random.Random, unbroken: Unbroken, steps: tuple[int, int]) -> float:
    fewest, most = steps
    first, step = unbroken.first_save_seconds, unbroken.step_seconds
    return draw.uniform(first + fewest * step if fewest else first / 2, first + most * step)


def _is_killed(proof: Proof, job: Job, read: Reader, groups: list[int], moment: float) -> bool:
    """Start the job, kill it at the moment, and say whether it was killed."""
    before, step_before = save_marks(job.run), _newest_step(job.run, read)
    process = start_process(train_job, job)
    groups.append(int(process.pid or 0))
    process.join(moment)
    kill_group(process)
    if process.exitcode == 0:
        return False
    if process.exitcode != -signal.SIGKILL or moment == PATIENCE_SECONDS:
        proof.refusals.append(log_of(job).read_text().strip().rpartition("\n")[2])
        return False
    proof.kills += 1
    marks = save_marks(job.run)
    proof.inside_save += marks != before and bool(marks)
    proof.lost_checkpoints += _newest_step(job.run, read) < step_before
    return True


def save_marks(run: Path) -> set[str]:
    """Return what shows that a save was under way: a temporary, a pointer behind, too many kept."""
    folder = run / "checkpoints"
    marks = {path.name for path in (*folder.glob(".tmp-*"), *run.glob(".latest.tmp"))}
    names = sorted(path.name for path in folder.glob("step_*"))
    latest = (run / "latest").read_text() if (run / "latest").exists() else ""
    if names and names[-1] != latest:
        marks.add(f"{latest} behind {names[-1]}")
    return marks


def _newest_step(run: Path, read: Reader) -> int:
    try:
        checkpoint = read(run)
    except Exception:  # noqa: BLE001  the next start says so
        return -1
    return checkpoint.step if checkpoint is not None else -1


def compare(proof: Proof, run: Path, unbroken: Unbroken, read: Reader = load_newest) -> None:
    """Count what differs from the unbroken run."""
    checkpoint = read(run)
    assert checkpoint is not None
    assert checkpoint.step == unbroken.checkpoint.step
    proof.differing_bytes += differing_bytes(checkpoint, unbroken.checkpoint)
    rows, expected = metrics_of(run), metrics_of(unbroken.run)
    assert [row["step"] for row in expected] == list(range(unbroken.checkpoint.step))
    proof.differing_rows += abs(len(rows) - len(expected))
    proof.differing_rows += sum(row != other for row, other in zip(rows, expected, strict=False))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without the one figure that a clock decides."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def differing_bytes(one: Checkpoint, other: Checkpoint) -> int:
    """Return in how many bytes two states differ; what only one of them has counts whole."""
    ours, theirs = state_bytes(one), state_bytes(other)
    return sum(
        _differing(ours.get(name, b""), theirs.get(name, b"")) for name in ours.keys() | theirs
    )


def _differing(one: bytes, other: bytes) -> int:
    same = one == other
    return (
        0
        if same
        else sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
    )


def state_bytes(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return every value of a checkpoint by the path that leads to it."""
    state = {"model": checkpoint.model, "train_state": checkpoint.train_state}
    return dict(_leaves("", {**state, "identity": repr(checkpoint.identity)}))


def _leaves(place: str, value: Any) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(f"{place}/{key}", part)
    elif isinstance(value, list | tuple):
        for key, part in enumerate(value):
            yield from _leaves(f"{place}/{key}", part)
    elif isinstance(value, torch.Tensor):
        header = f"{value.dtype} {tuple(value.shape)} ".encode()
        yield place, header + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        yield place, repr(value).encode()


def living(group: int, patience: float = WORKERS_END_SECONDS) -> list[int]:
    """Return the processes of a group that are still there after the time a worker may take."""
    until = time.monotonic() + patience
    while (found := members(group)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def members(group: int) -> list[int]:
    """Return the processes of a group, those left out that have ended and wait to be asked why."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def shared_memory_of(processes: list[int]) -> list[str]:
    """Return the blocks in /dev/shm that bear the number of one of the processes."""
    folder = Path("/dev/shm")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    numbers = {str(number) for number in processes}
    return [name for name in names if numbers & set(name.replace(".", "_").split("_"))]
