"""How far a pass over images is: a line that moves on a terminal, now and then one elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Self

from moco.cli.terminal import LOG_EVERY_SECONDS, duration

REDRAWN_EVERY_SECONDS = 0.1


class ProgressLines:
    """Says how many images are done, on standard error; leaves the line behind when it ends.

    Args:
        what: is done to images, such as "packed".
    """

    def __init__(self, what: str) -> None:
        self.what, self.width = what, 0
        self.moves = sys.stderr is not None and sys.stderr.isatty()
        self.began = self.shown_at = time.monotonic()
        self.first: int | None = None

    def report(self, done: int, total: int) -> None:
        """Show it, unless that was done a moment ago."""
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        every = REDRAWN_EVERY_SECONDS if self.moves else LOG_EVERY_SECONDS
        if now - self.shown_at < every:
            return
        self.shown_at = now
        rate = (done - self.first) / (now - self.began)
        line = f"{self.what} {done:,}/{total:,}  {rate:,.0f} images/s"
        if rate:
            line += f"  {duration((total - done) / rate)} left"
        self._write(f"\r{line:{self.width}}" if self.moves else f"{line}\n")
        self.width = len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.width and self.moves:
            self._write("\n")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more
            sys.stderr.write(text)
            sys.stderr.flush()
