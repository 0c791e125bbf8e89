from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from terminals import Shown, drain, set_size, wait_until

from moco.cli import live as live_module
from moco.cli.live import LiveLines


@dataclass
class Drawn:
    """Lines on a made terminal of 40 columns; `show` reads what was drawn so far."""

    master: int
    slave: int
    texts: list[str] = field(default_factory=lambda: ["one 1", "two 2"])
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shown = Shown(40, 12)
        self.live = LiveLines(self.slave, "utf-8", self.lines)

    def lines(self, width: int, height: int) -> list[str]:
        self.sizes.append((width, height))
        return [text[: width - 1] for text in self.texts]

    def show(self, seconds: float = 0.05) -> list[str]:
        drain(self.master, self.shown, seconds)
        lines = self.shown.everything()
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def shows(self, *wanted: str) -> bool:
        """Say whether the terminal comes to show these lines, within some seconds."""
        ends = time.monotonic() + 5
        while (seen := self.show(0.02)) != list(wanted) and time.monotonic() < ends:
            continue
        assert seen == list(wanted)
        return True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawn]:
    monkeypatch.setattr(live_module, "DRAWN_EVERY_SECONDS", 0.02)
    monkeypatch.setattr(live_module, "LAST_WORDS_SECONDS", 0.5)
    master, slave = pty.openpty()
    set_size(slave, 40, 12)
    made = Drawn(master, slave)
    made.live.start()
    yield made
    made.live.stop()
    for descriptor in (master, slave):
        try:
            os.close(descriptor)
        except OSError:  # the test closed it
            continue


def test_lines_are_drawn_anew_in_their_place(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    drawn.texts = ["one 1000", "two", "three"]
    assert drawn.shows("", "one 1000", "two", "three")
    drawn.texts = ["1"]
    assert drawn.shows("", "1")
    assert drawn.shown.screen.cursor.y == 0


def test_nothing_is_written_while_nothing_changes(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    written = len(drawn.shown.raw)
    drawn.show(0.3)
    assert len(drawn.shown.raw) == written
    assert len(drawn.sizes) > 5


def test_notes_stay_above_and_scroll_away(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    for number in range(20):
        drawn.live.note(f"note {number}")
    assert drawn.shows(*(f"note {number}" for number in range(20)), "", "one 1", "two 2")


def test_what_others_write_stays_whole(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    os.write(drawn.slave, b"warning: from a loading process\n")
    drawn.texts = ["one 2", "two 3"]
    assert drawn.shows("warning: from a loading process", "", "one 2", "two 3")
    os.write(drawn.slave, b"another\n")
    drawn.live.note("a note")
    above = ["warning: from a loading process", "another", "a note"]
    assert drawn.shows(*above, "", "one 2", "two 3")


PROGRAM = """
import time
from moco.cli.live import LiveLines
number = 0
live = LiveLines(1, "utf-8", lambda width, height: [f"number {number}", "x" * (width - 1)])
live.start()
for number in range(20):
    time.sleep(0.05)
    live._wake.set()
live.stop()
print("over", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_tmux_keeps_no_picture_but_the_last(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(tmp_path / 'program.py'))}"
    tmux = ["tmux", "-f", os.devnull, "-S", str(tmp_path / "socket")]
    subprocess.run([*tmux, "new-session", "-d", "-x", "40", "-y", "10", command], check=True)

    def seen() -> list[str]:
        captured = [*tmux, "capture-pane", "-p", "-S", "-1000"]
        shown = subprocess.run(captured, check=True, capture_output=True, text=True).stdout
        return [line for line in shown.splitlines() if line]

    try:
        wait_until(lambda: "over" in seen())
        assert seen() == ["number 19", "x" * 39, "over"]
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)


def test_what_the_keyboard_leaves_is_wiped(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    os.write(drawn.slave, b"^C")
    drawn.live.note("a note")
    assert drawn.shows("a note", "", "one 1", "two 2")


@pytest.mark.parametrize("columns", [20, 100])
def test_another_size_is_drawn_for(drawn: Drawn, columns: int) -> None:
    drawn.texts = ["x" * 200, "y"]
    assert drawn.shows("", "x" * 39, "y")
    set_size(drawn.slave, columns, 12)
    drawn.shown.screen.resize(12, columns)
    drawn.shown.columns = columns
    assert drawn.shows("", "x" * (columns - 1), "y")
    assert drawn.sizes[-1] == (columns, 12)


def test_the_end_leaves_the_last_figures_and_the_cursor_below(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    drawn.texts = ["one last", "two last"]
    drawn.live.note("a last note")
    drawn.live.stop()
    os.write(drawn.slave, b"done\n")
    assert drawn.shows("a last note", "", "one last", "two last", "done")
    assert not drawn.live.is_gone


def test_a_terminal_that_goes_away_ends_the_drawing_alone(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    os.close(drawn.master)
    drawn.live.note("nobody reads this")
    wait_until(lambda: drawn.live.is_gone)
    drawn.live.stop()


def test_a_terminal_that_takes_nothing_holds_nobody_up(drawn: Drawn) -> None:
    assert drawn.shows("", "one 1", "two 2")
    began = time.monotonic()
    for _ in range(200):
        drawn.live.note("x" * 1000)  # more than a terminal takes that nobody reads
    assert time.monotonic() - began < 0.2
    drawn.live.stop()
    assert time.monotonic() - began < 2.0
    drain(drawn.master, drawn.shown, 0.3)  # so that its thread ends
