"""Work in a forked process: measured, ended when it hangs, and no trace of it left behind."""

from __future__ import annotations

import io
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.cli.main import main


@dataclass(frozen=True)
class Done:
    """What the work returned, as JSON can hold it, and what it cost."""

    value: Any
    seconds: float
    grown: int
    """Bytes that its memory grew by at most."""


def in_fork(work: Callable[[], Any], *, seconds: float = 60) -> Done:
    """Return what the work gives in a child of this process, which imported everything already.

    Raises:
        TimeoutError: It took longer; the child is killed.
        RuntimeError: It died, or raised.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer: dict[str, Any]
        try:
            os.setsid()
            before, began = resident_bytes(), time.perf_counter()
            value = work()
            answer = {
                "value": value,
                "seconds": time.perf_counter() - began,
                "grown": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
            }
        except BaseException as error:  # noqa: BLE001  the parent tells it
            answer = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    content, ends = b"", time.monotonic() + seconds
    try:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while select.select([pipe], [], [], max(0.0, ends - time.monotonic()))[0]:
                piece = pipe.read(1 << 16)
                if not piece:
                    break
                content += piece
            else:
                raise TimeoutError(f"still at work after {seconds} s")
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not content:
        raise RuntimeError(f"the process died: {status}")
    answer = json.loads(content)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return Done(answer["value"], answer["seconds"], answer["grown"])


def resident_bytes() -> int:
    """Return the memory in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def command(*words: object) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, output and errors."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = main([str(word) for word in words])
    return code, output.getvalue(), errors.getvalue()
