"""A run under watch: what hangs leaves its stacks, what is lost is named.

The stacks of a process are written by a thread that needs nothing of Python, when no step was begun
for a while: also of one that hangs inside a library. The waiting others give up a little later.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from moco.data.images import Images
from moco.data.workers import ImageNotes, deaths_unannounced, named_loss
from moco.distributed import rank, world_size
from moco.errors import FailedElsewhereError, InterruptedRunError, LostProcessError, MocoError
from moco.processes import is_sign_of_loss, limited_to, meeting_store
from moco.roll_call import RollCall, who_is_lost

GRACE_SECONDS = 1.0
"""Whose own loading process hangs is to say so before the others give it up."""
STACKS_AFTER = 0.9
"""Share of the time limit after which a process writes its stacks."""
ARM_SECONDS = 1.0
_RUNS = itertools.count()
"""Runs of this process; the processes of a group begin them together, so each has one number."""


class Watch:
    """What a run tells of its progress."""

    def __init__(self, notes: ImageNotes, call: RollCall | None, timeout: float) -> None:
        self.notes, self.call, self.timeout = notes, call, timeout
        self.stacks: TextIO | None = None
        self._armed_at = 0.0

    def note(self, step: int) -> None:
        """Say that step `step` begins."""
        if self.call is not None:
            self.call.note(step)
        if time.monotonic() - self._armed_at >= ARM_SECONDS:
            self.arm()

    def arm(self) -> None:
        """Write the stacks unless armed again in time."""
        self._armed_at = time.monotonic()
        if self.stacks is not None:
            faulthandler.dump_traceback_later(self.timeout * STACKS_AFTER, file=self.stacks)


@contextmanager
def watched(
    images: Images, *, workers: int, timeout: float, run: Path | None = None
) -> Iterator[Watch]:
    """Watch over the steps that the block takes.

    Args:
        workers: how many loading processes it will have.
        timeout: seconds that it may wait for a batch, or for another process.
        run: where stacks are written; None writes none.

    Raises:
        DataError: A loading process was killed or hangs.
        LostProcessError: Another process was killed or hangs.
        FailedElsewhereError: Another process failed, or names who is lost.
    """
    path = run / f"stacks_rank{rank()}.txt" if run is not None else None
    store = meeting_store()
    call = RollCall(store, str(next(_RUNS)), rank(), world_size()) if store is not None else None
    watch = Watch(ImageNotes(workers, path), call, timeout)
    with limited_to(timeout + GRACE_SECONDS), _stacks_in(path, watch):
        try:
            yield watch
        except BaseException as error:
            with deaths_unannounced():  # of those that are ended now, too
                named = _named(error, watch, images, run)
            if named is None:
                raise
            raise named from error
        finally:
            if call is not None:
                call.leave_quietly()


def _named(
    error: BaseException, watch: Watch, images: Images, run: Path | None
) -> MocoError | None:
    """Return what is to be raised in place of `error`, None for itself; the others are told."""
    call = watch.call
    if isinstance(error, RuntimeError) and not isinstance(error, MocoError):
        if (loss := named_loss(error, watch.notes, images)) is not None:
            if call is not None:
                call.leave(loss.exit_code, str(loss))
            return loss
        if call is not None and is_sign_of_loss(error):
            if watch.stacks is not None:
                with suppress(OSError):
                    traceback.print_exception(error, file=watch.stacks)
                    watch.stacks.flush()
            return _named_process(call, run)
    if call is not None and not isinstance(error, InterruptedRunError):
        lost = isinstance(error, LostProcessError)
        code = error.exit_code if isinstance(error, MocoError) else 1
        call.leave(None if lost else code, str(error) or type(error).__name__)
    return None


def _named_process(call: RollCall, run: Path | None) -> LostProcessError:
    """Return who is lost, as the first of those who are left says it; the others know it."""
    call.leave()
    words, phrases = who_is_lost(call)
    causes = {place: last for place, last in words.items() if last["code"] is not None}
    first = min([*words, call.own])
    if causes:
        place = min(causes)
        cause = f"process {place} failed: {causes[place]['reason']}"
        return FailedElsewhereError(cause, int(causes[place]["code"]), reports=call.own == first)
    lost = " and ".join(phrases) or "the connection to the other processes broke"
    stacks = f"stacks are in {run}/stacks_rank*.txt; " if run is not None else ""
    text = f"{lost}; {stacks}the same command goes on from the last checkpoint"
    if call.own != first:
        return FailedElsewhereError(text, LostProcessError.exit_code)
    return LostProcessError(text, reports=True)


@contextmanager
def _stacks_in(path: Path | None, watch: Watch) -> Iterator[None]:
    """Keep the file for this process's stacks open; leave none behind that is empty."""
    if path is None:
        yield
        return
    try:
        watch.stacks = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError:  # a full disk is for the checkpoint to tell
        yield
        return
    is_ours = not faulthandler.is_enabled()
    if is_ours:
        faulthandler.enable(file=watch.stacks)
    watch.arm()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        if is_ours:
            faulthandler.disable()
        watch.stacks.close()
        with suppress(OSError):
            if os.path.getsize(path) == 0:
                os.unlink(path)
