"""The edge of a run in several processes: how they meet, agree, and average their gradients.

torchrun launches the processes and says in the environment who they are. What needs an agreement
travels as a few numbers between processors, never through a GPU, so no GPU waits for it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from moco.distributed import gather_rows, rank, world_size
from moco.errors import FailedElsewhereError, LostProcessError, MocoError, UsageError

Result = TypeVar("Result")
MEETING = timedelta(minutes=5)
"""How long the first to come wait for the others."""
MORE_AT_LEISURE = timedelta(hours=1)
"""How much longer than for a step they wait while the first alone has a monitor's work to do."""
MORE_PREPARING = timedelta(hours=2)
"""How much longer before the first step: sources are listed, checkpoints read, code compiled."""
SIGNS_OF_LOSS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


@contextmanager
def launched_processes(timeout: float = 0.0) -> Iterator[None]:
    """Meet the processes that torchrun launched, as long as the block lasts; alone, do nothing.

    Args:
        timeout: how many seconds they will wait for each other while they train.

    Raises:
        UsageError: The environment names other processes, and not all that is needed to meet them.
        LostProcessError: They did not come.
    """
    if _count("WORLD_SIZE", 1) == 1 or dist.is_initialized():
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set and {', '.join(missing)} not; launch with torchrun, or unset it"
        )
    if _count("RANK", 0) >= _count("WORLD_SIZE", 1):
        raise UsageError(
            f"RANK {os.environ['RANK']} is not below WORLD_SIZE {os.environ['WORLD_SIZE']}; count "
            "from 0"
        )
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(_count("LOCAL_RANK", 0) % torch.cuda.device_count())
    limit = timedelta(seconds=timeout) + MORE_PREPARING
    try:
        store, own, count = next(rendezvous("env://", timeout=MEETING))
        # torchrun keeps the store when it starts all again, with the addresses of those that ended
        store = PrefixStore(f"start/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=store, rank=own, world_size=count, timeout=limit)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).partition("\n")[0]
        raise LostProcessError(
            f"not all {os.environ['WORLD_SIZE']} processes came to {where} ({reason}); start them "
            "all with the same address"
        ) from error
    try:
        with naming_lost_processes():
            yield
    finally:
        dist.destroy_process_group()


def local_processes() -> int:
    """Return how many of the processes share this machine."""
    return _count("LOCAL_WORLD_SIZE", 1) if world_size() > 1 else 1


def _count(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def together(work: Callable[[], Result]) -> Result:
    """Return what `work` returns, once it has succeeded in every process.

    Raises:
        Exception: What it raised here, if no process of lower rank failed.
        FailedElsewhereError: It failed in a process of lower rank, or only in others.
    """
    if world_size() == 1:
        return work()
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001  raised again below, or by the process that is first
        failure = error
    first = -largest([-rank() if failure else -world_size()])[0]
    code = largest([getattr(failure, "exit_code", 1) if first == rank() else 0])[0]
    if failure is not None and first == rank():
        raise failure
    if first < world_size():
        raise FailedElsewhereError(f"process {first} failed and says why", code)
    return result


def check_same(what: str, value: str) -> None:
    """Refuse to go on where a process holds another value than the first has.

    Raises:
        UsageError: In the first process.
        FailedElsewhereError: In the others.
    """
    if world_size() == 1:
        return
    digest = torch.tensor([*hashlib.sha256(value.encode()).digest()], device=_meeting_device())
    digests = gather_rows(digest[None])
    others = [place for place, row in enumerate(digests) if not torch.equal(row, digests[0])]
    if others and rank() > 0:
        raise FailedElsewhereError(f"process {others[0]} has other {what} than process 0", 2)
    if others:
        raise UsageError(
            f"process {others[0]} has other {what} than process 0; start all with the same command "
            "and the same files, the run directory on storage that all of them share"
        )


def largest(values: Sequence[int]) -> list[int]:
    """Return the largest over processes of each value, the same in all of them."""
    if world_size() == 1:
        return list(values)
    everywhere = torch.tensor(values, dtype=torch.int64, device=_meeting_device())
    dist.all_reduce(everywhere, dist.ReduceOp.MAX)
    return [int(value) for value in everywhere]


def gather_lists(values: list[Any]) -> list[Any]:
    """Return the lists of all processes, one after the other in rank order."""
    if world_size() == 1:
        return values
    lists: list[Any] = [None] * world_size()
    dist.all_gather_object(lists, values)
    return [value for one in lists for value in one]


def _meeting_device() -> str:
    """Return where agreements lie: with the processors, unless a user's own group has only GPUs."""
    return "cpu" if "cpu" in str(dist.get_backend_config()) else "cuda"


def averaging_gradients(module: nn.Module) -> nn.Module:
    """Return `module` such that backward leaves the mean of all processes' gradients.

    Buffers are not sent at each forward: every process holds the same queue, and a copy of the
    first's batch-norm statistics would drop what the others saw.
    """
    if world_size() == 1:
        return module
    known = inspect.signature(DistributedDataParallel).parameters
    if "forward_sync_buffers" in known:  # what torch calls it of late
        return DistributedDataParallel(
            module, gradient_as_bucket_view=True, forward_sync_buffers=False
        )
    return DistributedDataParallel(module, gradient_as_bucket_view=True, broadcast_buffers=False)


@contextmanager
def limited_to(seconds: float) -> Iterator[None]:
    """Give another process up that lets this one wait for so long, as long as the block lasts.

    torch's own limits are half an hour or ten minutes, by backend; none is relied on.
    """
    if world_size() == 1:
        yield
        return
    before = _limit()
    _set_limit(timedelta(seconds=seconds))
    try:
        yield
    finally:
        _set_limit(before)


@contextmanager
def unhurried() -> Iterator[None]:
    """Wait longer for each other while the block lasts: only the first process has work in it."""
    if world_size() == 1:
        yield
        return
    with limited_to((_limit() + MORE_AT_LEISURE).total_seconds()):
        yield


def _limit() -> timedelta:
    group = dist.distributed_c10d._get_default_group()
    limit: timedelta = group._get_backend(torch.device(_meeting_device())).options._timeout
    return limit


def _set_limit(limit: timedelta) -> None:
    set_timeout = getattr(dist, "set_timeout", None)  # torch before 2.14 has it under another name
    (set_timeout or dist.distributed_c10d._set_pg_timeout)(limit)


def meeting_store() -> Store | None:
    """Return the store at which the processes met, None for a process that is alone."""
    return None if world_size() == 1 else dist.distributed_c10d._get_default_store()


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Say that another process is gone, where torch says that a connection is.

    Raises:
        LostProcessError: Instead of torch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not is_sign_of_loss(error):
            raise
        raise LostProcessError(
            "another process ended or hangs; mend what it says, then the same command goes on from "
            "the last checkpoint"
        ) from error


def is_sign_of_loss(error: RuntimeError) -> bool:
    """Say whether this is how torch says that another process does not answer."""
    if isinstance(error, MocoError):
        return False
    is_torchs = isinstance(error, dist.DistError)
    return is_torchs or any(sign in str(error) for sign in SIGNS_OF_LOSS)
