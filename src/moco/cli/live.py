"""Lines that stay at the bottom of a terminal while others scroll by above them; no torch here.

Below an empty line stands the display, and the cursor waits on that empty line. Whoever else
writes, such as a loading process that warns, writes there, and the display moves below it as it is
drawn next. So does it when the terminal gets another size: what the terminal made of the old lines
is cleared, wherever they wrapped.

A thread draws, so that a terminal that takes nothing, after Ctrl-S or behind a connection that
hangs, does not hold up training. It writes to the descriptor itself: no lock of Python's is held
while loading processes are forked.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

DRAWN_EVERY_SECONDS = 0.5
CLEAR = "\r\x1b[K\n\x1b[J\x1b[A"
"""Wipes the empty line and all below it. Not at once: at the top of its screen tmux takes that for
a clearing of the screen, and keeps each picture among the lines that scrolled away."""
LAST_WORDS_SECONDS = 2.0
"""How long the end waits for the terminal to take the last drawing."""


class LiveLines:
    """Draws lines anew as they change, from a thread of its own.

    Args:
        descriptor: of the terminal.
        encoding: that its letters are written in.
        lines: returns the lines for so many columns and rows, none as wide as that.
    """

    def __init__(
        self, descriptor: int, encoding: str, lines: Callable[[int, int], list[str]]
    ) -> None:
        self._descriptor, self._encoding, self._lines = descriptor, encoding, lines
        self._notes: list[str] = []
        self._is_gone = False
        self._drawn: tuple[os.terminal_size, list[str]] | None = None
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="display", daemon=True)

    @property
    def is_gone(self) -> bool:
        """Whether the terminal went away: nothing is drawn any more."""
        return self._is_gone

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def note(self, text: str) -> None:
        """Let a line scroll by above the display; it must hold no letter that steers it."""
        self._notes.append(text)
        self._wake.set()

    def stop(self) -> None:
        """Draw a last time and leave that behind; a terminal that takes nothing is left alone."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(LAST_WORDS_SECONDS)

    def _draw_on(self) -> None:
        try:
            while not self._stopping.is_set():
                self._draw()
                self._wake.wait(DRAWN_EVERY_SECONDS)
                self._wake.clear()
            self._draw(last=True)
        except OSError:
            self._is_gone = True

    def _draw(self, *, last: bool = False) -> None:
        size = self._size()
        lines = self._lines(size.columns, size.lines)
        notes = [self._notes.pop(0) for _ in range(len(self._notes))]
        if not notes and not last and self._drawn == (size, lines):
            return
        above = "".join(f"{note}\n" for note in notes)
        below = "\n" if last else f"\r\x1b[{len(lines)}A"
        self._write(CLEAR + above + "\n".join(["", *lines]) + below)
        self._drawn = size, lines

    def _size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._descriptor)
        except OSError:
            return os.terminal_size((80, 24))
        return os.terminal_size((size.columns or 80, size.lines or 24))

    def _write(self, text: str) -> None:
        rest = text.encode(self._encoding, "replace")
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another program made it so
                time.sleep(DRAWN_EVERY_SECONDS)
