"""How `moco pretrain` looks: on a real terminal, read by an emulator, and in a pipe."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from terminals import Shown, drain, on_pipe, on_terminal, start

from moco.cli import live as live_module
from moco.cli.terminal import TerminalReport
from moco.pretraining import train
from moco.run_records import read_lines

DOCS = Path(__file__).parents[2] / "docs" / "display.md"
DAY = 86_400.0
Words = Callable[..., list[str]]


@pytest.fixture
def words(tiny_settings: list[str], photos: Path, class_folders: Path, tmp_path: Path) -> Words:
    def make(name: str, epochs: int = 1, *, monitored: bool = False) -> list[str]:
        settings = [word for setting in tiny_settings for word in ("--set", setting)]
        folders = [f"--monitor-{part}={class_folders / part}" for part in ("train", "test")]
        given = ["--recipe", "moco-v2", "--device", "cpu", "--workers", "0", *settings]
        run = ["--epochs", str(epochs), "--run", str(tmp_path / name)]
        return ["pretrain", str(photos), *given, *(folders if monitored else []), *run]

    return make


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "DRAWN_EVERY_SECONDS", 0.02)


def display(frame: list[str]) -> list[str]:
    """Return the lines of the display on a screen, from the bar on."""
    first = next((n for n, line in enumerate(frame) if line.startswith(("━", "─"))), len(frame))
    return [line for line in frame[first:] if line]


@pytest.mark.parametrize("columns", [80, 140])
def test_a_run_on_a_terminal(words: Words, tmp_path: Path, columns: int) -> None:
    code, shown = on_terminal(words("run", 6, monitored=True), columns)
    assert code == 0
    within = [display(frame) for frame in shown.frames]
    within = [lines for lines in within if len(lines) >= 5 and "left" in lines[0]]
    assert within, "no frame in the middle of the run"
    bar, loss, pretext, gap, knn = within[-1][:5]
    assert re.search(r"━─* +\d+/24  epoch \d+/6  [\d,]+ images/s  \d+ s  \d+ s left$", bar)
    assert re.match(r"loss +\d\.\d{3}  [▁▂▃▄▅▆▇█]+ +chance 3\.497, ln\(K\+1\)$", loss)
    assert re.match(r"pretext top-1 +\d+\.\d %  [▁▂▃▄▅▆▇█]+ +finds its own key", pretext)
    assert re.match(r"similarity gap +-?0\.\d{3}  [▁▂▃▄▅▆▇█]+ +own keys 0\.\d\d, others", gap)
    assert re.match(r"kNN top-1 +\d+\.\d %  [▁▂▃▄▅▆▇█]+ +epoch \d+, best", knn)
    for frame in shown.frames:
        assert sum(line.startswith("loss ") for line in frame) <= 1, frame
        assert all(len(line) < columns for line in display(frame)[:5])

    end = [line for line in shown.everything() if line]
    assert end[0].startswith("64 images, recipe moco-v2")
    assert any(line.startswith("done: ") for line in end)
    (last,) = [number for number, line in enumerate(end) if line.startswith("loss ")]
    assert re.search(r"24/24  epoch 6/6 ", end[last - 1])
    assert "left" not in end[last - 1]
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert f"{rows[-1]['loss']:.3f}" in end[last]


def test_a_run_in_a_pipe_writes_lines_and_no_letter_that_steers(words: Words) -> None:
    code, content = on_pipe(words("run", 6, monitored=True), FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert code == 0
    text = content.decode()
    assert text.replace("\n", "").isprintable()
    lines = text.splitlines()
    assert lines[-1].startswith("done: ")
    assert re.fullmatch(
        r"step 24/24  epoch 6/6  loss \d\.\d{3} \(chance 3\.497\)  pretext top-1 \d+\.\d %  "
        r"similarity gap -?0\.\d{3}  \d+ images/s  kNN top-1 \d+\.\d % \(epoch 6\)",
        [line for line in lines if line.startswith("step ")][-1],
    )
    assert len(lines) < 12


def test_terminal_and_pipe_say_the_same_before_the_run(words: Words) -> None:
    _, shown = on_terminal(words("run"), 140)
    _, content = on_pipe(words("run-2"))
    plain = content.decode().splitlines()
    above = [
        line.replace("run-2", "run") for line in plain if not line.startswith(("step ", "doctor: "))
    ]
    above = above[:-1]
    assert len(above) >= 5
    assert shown.everything()[: len(above)] == above


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_be_drawn_on_gets_plain_lines(words: Words, term: str) -> None:
    code, shown = on_terminal(words("run"), 80, TERM=term)
    assert code == 0
    assert shown.raw.decode().replace("\r\n", "").isprintable()
    assert b"step 4/4 " in shown.raw


def test_no_colour_and_letters_that_the_terminal_has(words: Words) -> None:
    _, grey = on_terminal(words("run"), 80, NO_COLOR="1")
    assert not re.search(rb"\x1b\[[\d;]*m", grey.raw)
    assert "━".encode() in grey.raw
    _, ascii_only = on_terminal(words("run-2"), 80, PYTHONIOENCODING="ascii")
    assert ascii_only.raw.isascii()
    assert any(line.startswith("###") for line in ascii_only.lines())
    _, coloured = on_terminal(words("run-3"), 80)
    assert re.search(rb"\x1b\[\d+m", coloured.raw)


def test_a_note_above_the_display_steers_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    report, lines = TerminalReport(), []
    monkeypatch.setattr(report, "live", SimpleNamespace(note=lines.append))
    report.note("skipped \x1b[2J.png\nx")
    assert lines == ["skipped \\x1b[2J.png\\x0ax"]


def test_a_run_outlives_its_terminal(words: Words, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        child, descriptor = start(words("run", 12), 80)
    finally:
        signal.signal(signal.SIGHUP, before)
    shown = Shown(80)
    while b"images/s" not in shown.raw:
        assert drain(descriptor, shown, 0.1)
    os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"


def test_a_stopped_run_leaves_its_display(words: Words) -> None:
    child, descriptor = start(words("run", 10_000), 80)
    shown = Shown(80)
    while b"images/s" not in shown.raw:
        assert drain(descriptor, shown, 0.1)
    os.kill(child, signal.SIGTERM)
    drain(descriptor, shown, 60)
    os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    end = [line for line in shown.everything() if line]
    assert any("stopped and saved" in line for line in end[-2:])
    assert sum(line.startswith("loss ") for line in end) == 1


def log_of(
    days: float, epoch_seconds: float, monkeypatch: pytest.MonkeyPatch, *, wavers: bool = False
) -> list[str]:
    """Return the lines of a run of so many days, with a score each epoch, by a made clock.

    Args:
        wavers: the doctor changes his mind all the time.
    """
    now, lines = 0.0, []
    report = TerminalReport(clock=lambda: now)
    monkeypatch.setattr(report, "note", lines.append)
    step_seconds = 0.35
    steps = int(days * DAY / step_seconds / 20) * 20
    per_epoch = int(epoch_seconds / step_seconds)
    recipe = SimpleNamespace(epochs=steps // per_epoch, chance_loss=11.09)
    monkeypatch.setattr("moco.cli.terminal.describe_plan", lambda _: [])
    monkeypatch.setattr("moco.cli.terminal.describe_contrast", lambda *_: [])
    monkeypatch.setattr("moco.cli.terminal.can_draw", lambda: False)
    plan: Any = SimpleNamespace(steps=steps, recipe=recipe)
    report.planned(plan, SimpleNamespace())  # type: ignore[arg-type]
    for done in range(20, steps + 1, 20):
        now = done * step_seconds
        row = {"step": done - 1, "epoch": (done - 1) // per_epoch, "loss": 6.54321}
        row |= {"positive_similarity": 0.8123, "negative_similarity": 0.0123}
        row |= {"pretext_top1": 0.7654, "images_per_second": 1234.5}
        if done % per_epoch < 20:
            row["knn_top1"] = 0.71234
        if done % 60 == 0:
            filling = done % 120 == 0 if wavers else done < 1000
            verdict = "still filling" if filling else "healthy"
            words = f"{verdict.capitalize()}: " + "a sentence of some length " * 4
            report.examined(SimpleNamespace(verdict=verdict, words=words, is_sick=False))
        report.stepped(row, plan)
    return lines


def size_of(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def test_the_log_of_days_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    three_days = log_of(3, 450, monkeypatch)
    a_day_more = size_of(log_of(4, 450, monkeypatch)) - size_of(three_days)
    worst = log_of(3, 7, monkeypatch, wavers=True)
    stated = [float(kb) for kb in re.findall(r"(\d+) kB", DOCS.read_text())]
    found = [size_of(three_days) / 1e3, a_day_more / 1e3, size_of(worst) / 1e3]
    assert stated[:3] == pytest.approx(found, rel=0.1), found
    assert size_of(worst) < 1_000_000
    assert len(three_days) > 400


def test_lines_come_often_at_first_and_then_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        int(line.split()[1].partition("/")[0])
        for line in log_of(1, DAY * 2, monkeypatch)
        if line.startswith("step ")
    ]
    times = [step * 0.35 for step in steps]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times[0] == 7.0
    assert max(gaps[:20]) <= 21.0  # readings are 7 s apart
    assert max(gaps) <= 607.0
    assert times[-1] > DAY - 8


def test_a_new_verdict_comes_with_the_next_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log_of(0.01, DAY, monkeypatch, wavers=True)
    told = [n for n, line in enumerate(lines) if line.startswith("doctor: ")]
    assert told
    assert all(lines[n - 1].startswith("step ") for n in told)
    verdicts = [lines[n].split(":")[1] for n in told]
    assert all(a != b for a, b in itertools.pairwise(verdicts))


def test_a_report_shows_what_the_doctor_says(
    tiny_settings: list[str],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from moco.plan import make_plan

    class Examined(TerminalReport):
        def stepped(self, row: Any, plan: Any) -> None:
            self.examined(SimpleNamespace(verdict="well", words="Well: \x1b[2Jlearns.", is_sick=0))
            super().stepped(row, plan)

    plan = make_plan(
        photos,
        recipe="moco-v2",
        settings=tiny_settings,
        epochs=1,
        run=tmp_path / "run",
        device="cpu",
        workers=0,
    )
    began = time.monotonic()
    train(plan, report=Examined())
    assert time.monotonic() - began < 60
    assert "doctor: Well: \\x1b[2Jlearns." in capsys.readouterr().out
