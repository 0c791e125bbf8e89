"""The command in forked processes that play a launcher's: real ranks, without each importing torch.

The test holds the store at which they meet, as torchrun does, so any of them may die.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

Fault = tuple[str, int, int]
"""What goes wrong, in which rank (every one: -1), at which step or image."""


def hang_in_python() -> None:
    time.sleep(1000)


def hang_in_a_library() -> None:
    while True:  # a signal wakes it
        ctypes.PyDLL(None).sleep(1000)  # and lets no other thread of Python run


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_an_error() -> None:
    raise KeyError("of a source's own code")


def be_late() -> None:
    time.sleep(1.5)


FAULTS: dict[str, Callable[[], None]] = {
    "hangs": hang_in_python,
    "hangs in a library": hang_in_a_library,
    "is killed": kill_itself,
    "raises": raise_an_error,
    "is late": be_late,
}


def break_step(fault: Fault) -> None:
    """Let a rank go wrong at a step."""
    import moco.pretraining as pretraining

    kind, victim, place = fault
    plain, watch = pretraining.to_device, {"step": -1}

    def broken(batch: Any, *arguments: Any) -> Any:
        watch["step"] = batch.step
        if dist_rank() == victim and batch.step == place:
            FAULTS[kind]()
        return plain(batch, *arguments)

    pretraining.to_device = broken


def break_image(fault: Fault) -> None:
    """Let the loading process of a rank go wrong when it reads an image for the third time."""
    from moco.data.sources.folder import FolderImages

    kind, victim, place = fault
    plain, own_rank, reads = FolderImages.read, int(os.environ.get("RANK", "0")), [0]

    def broken(images: FolderImages, image_id: int) -> Any:
        if image_id == place and own_rank == victim and torch.utils.data.get_worker_info():
            reads[0] += 1
            if reads[0] == 3:
                FAULTS[kind]()
        return plain(images, image_id)

    FolderImages.read = broken  # type: ignore[method-assign]


def dist_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def be_rank(
    environment: dict[str, str],
    words: list[str],
    said: Path,
    breaking: Callable[[Fault], None] | None,
    fault: Fault | None,
) -> None:
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as in a process of its own
    torch.set_num_threads(1)
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from moco.cli.main import main

    if breaking is not None and fault is not None:
        breaking(fault)
    sys.exit(main(words))


@dataclass
class Ranks:
    """Processes that run one command."""

    processes: list[ForkServerProcess]
    said_in: list[Path]
    store: dist.TCPStore | None

    def said(self, rank: int) -> list[str]:
        """Return what a rank said of itself."""
        lines = self.said_in[rank].read_text().splitlines()
        return [line for line in lines if line.startswith("moco:")]

    def pids(self) -> list[int]:
        """Return the ranks and whatever they started."""
        own = [process.pid or 0 for process in self.processes]
        return own + [below for pid in own for below in descendants(pid)]

    def wait(self, seconds: float, *, but: int | None = None) -> list[int | None]:
        """Return exit codes, of all ranks `but` one."""
        until = time.monotonic() + seconds
        for rank, process in enumerate(self.processes):
            if rank != but:
                process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self.processes]


@contextmanager
def started(
    words: list[str],
    folder: Path,
    *,
    count: int = 1,
    breaking: Callable[[Fault], None] | None = None,
    fault: Fault | None = None,
) -> Iterator[Ranks]:
    """Start the command in `count` ranks; end them with the block."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moco.pretraining"])
    folder.mkdir(parents=True, exist_ok=True)
    store = None
    if count > 1:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes, said = [], []
    for rank in range(count):
        environment = {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(count)}
        if store is not None:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        said.append(folder / f"said-{rank}")
        arguments = (environment, words, said[-1], breaking, fault)
        processes.append(context.Process(target=be_rank, args=arguments))
    for process in processes:
        process.start()
    ranks = Ranks(processes, said, store)
    try:
        yield ranks
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def descendants(pid: int) -> list[int]:
    """Return the processes below one, where Linux tells."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(word) for word in children.read_text().split()]
        except OSError:  # it ended meanwhile
            continue
        found += below + [deeper for child in below for deeper in descendants(child)]
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_after(pids: list[int], seconds: float = 10.0) -> list[int]:
    """Return which of the processes still run after so long, at once if none does."""
    until = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def shared_memory_of(pids: list[int]) -> list[str]:
    """Return what these processes left in shared memory: its names hold their numbers."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    own = {str(pid) for pid in pids}
    return [name for name in names if own & set(re.findall(r"\d+", name))]


def status_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "status.json").read_text()))


def last_checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "latest").read_text()


def losses_of(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def assert_bitwise_equal(run: Path, other: Path) -> None:
    """Compare what two finished runs hold: weights, queue, optimizer, random states, losses."""
    from moco.checkpoint import load_checkpoint

    one, two = (load_checkpoint(last_checkpoint(each)) for each in (run, other))
    assert one.step == two.step
    assert_same(one.model, two.model)
    assert_same(one.train_state, two.train_state)
    assert losses_of(run) == losses_of(other)
    assert [step for step, _ in losses_of(run)] == list(range(one.step))
    assert status_of(run)["state"] == "done"


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for item, its_other in zip(one, other, strict=True):
            assert_same(item, its_other)
    elif torch.is_tensor(one):
        assert torch.equal(one, other)
    else:
        assert one == other
