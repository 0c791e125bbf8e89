"""Commands on a made terminal or a pipe, in a fork of this process; what a terminal then shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pyte

from moco.cli.main import main


def set_size(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@dataclass
class Shown:
    """A terminal's screen as bytes arrive; `frames` are the screens after each arrival."""

    columns: int
    rows: int = 30
    raw: bytes = b""
    frames: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.screen = pyte.HistoryScreen(self.columns, self.rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)

    def take(self, content: bytes) -> None:
        self.raw += content
        self._stream.feed(content)
        self.frames.append(self.lines())

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def everything(self) -> list[str]:
        """Return the lines that scrolled away and those on the screen."""
        away = [
            "".join(line[column].data for column in range(self.columns)).rstrip()
            for line in self.screen.history.top
        ]
        return away + self.lines()


def drain(descriptor: int, shown: Shown, seconds: float) -> bool:
    """Show what arrives for so long; say whether more may come."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            try:
                content = os.read(descriptor, 1 << 16)
            except OSError:  # the other end is closed
                return False
            if not content:
                return False
            shown.take(content)
    return True


def start(words: list[str], columns: int, **environment: str) -> tuple[int, int]:
    """Start a command on a terminal of its own; return its process and the other end."""
    child, descriptor = pty.fork()
    if child == 0:
        code = 99
        try:
            set_size(0, columns, 30)
            prepare(environment)
            code = main(words)
            sys.stdout.flush()
        finally:
            os._exit(code)
    return child, descriptor


def prepare(environment: dict[str, str]) -> None:
    """Give this fork the environment, and its descriptors as Python's own files."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        os.environ.pop(name, None)
    os.environ.update({"TERM": "xterm-256color", **environment})
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, closefd=False)  # noqa: SIM115


def on_terminal(words: list[str], columns: int, **environment: str) -> tuple[int, Shown]:
    """Return a command's exit code and what its terminal showed."""
    child, descriptor = start(words, columns, **environment)
    shown = Shown(columns)
    try:
        drain(descriptor, shown, 100)
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def on_pipe(words: list[str], **environment: str) -> tuple[int, bytes]:
    """Return a command's exit code and what it wrote to a pipe, errors among it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            prepare(environment)
            code = main(words)
            sys.stdout.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), content


def wait_until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.01)
