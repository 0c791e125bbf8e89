"""`moco data`: what its commands print, write, and refuse."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moco.cli.data_options import DATA_COMMANDS
from moco.cli.main import main
from moco.cli.progress_lines import ProgressLines
from moco.data.sources.opening import open_images
from moco.data.view_samples import sample_views
from moco.data.views import view_picture
from moco.data_tools.preview import place_of_cell
from moco.errors import DataError
from moco.found_recipe import find_recipe

Capture = pytest.CaptureFixture[str]
Shown = Callable[..., str]


@pytest.fixture
def shown(capsys: Capture) -> Shown:
    """Return a function that runs a command that must end with a code, and gives its output."""

    def run(*words: object, code: int = 0) -> str:
        found = main(["data", *[str(word) for word in words]])
        printed = capsys.readouterr()
        assert found == code, printed.err
        if code:
            assert printed.err.startswith("moco: error: "), printed.err
            assert len(printed.err.splitlines()) == 1
        return printed.out + printed.err

    return run


@pytest.fixture
def figures(shown: Shown, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a command and gives what it wrote to --json."""

    def run(*words: object, code: int = 0) -> dict[str, Any]:
        path = tmp_path / "figures.json"
        shown(*words, "--json", path, code=code)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    return run


@pytest.fixture
def flawed(photos: Path, tmp_path: Path) -> Path:
    """Return the photos with copies and files that cannot be read, of names that no shell likes."""
    folder = tmp_path / "flawed"
    shutil.copytree(photos, folder)
    shutil.copy(folder / "even" / "00.png", folder / "odd" / "[bold]copy[nothing].png")
    (folder / "odd" / "\x1b[31mred\nline.jpg").write_bytes(b"<html>")
    (folder / "odd" / "[red]\udcff.png").touch()
    return folder


def test_check_counts(figures: Callable[..., dict[str, Any]], flawed: Path) -> None:
    found = figures("check", flawed, code=3)
    assert {key: found[key] for key in ("images", "checked", "readable", "unreadable")} == {
        "images": 67,
        "checked": 67,
        "readable": 65,
        "unreadable": 2,
    }
    assert (found["usable"], found["most_unusable"], found["unfit"]) == (False, 1, 0)
    assert found["channels"] == {"3 uint8": 49, "1 uint8": 16}
    assert found["kinds"] == {".png": 66, ".jpg": 1}
    assert (found["duplicates"], found["duplicate_groups"]) == (1, 1)
    assert found["first_duplicates"] == [["even/00.png", "odd/[bold]copy[nothing].png"]]
    assert found["class_images"] == {"even": 32, "odd": 35}
    assert (found["classes"], found["class_smallest"], found["class_largest"]) == (2, 32, 35)
    assert sorted(reason["count"] for reason in found["reasons"]) == [1, 1]
    assert found["short_side_smallest"] >= 20
    assert found["short_side_below_224"] == 65
    assert found["short_side_below_32"] < 65
    assert "leaks" not in found


def test_check_prints_hostile_names_safely(shown: Shown, flawed: Path) -> None:
    (flawed / "[red]class\x07").mkdir()
    shutil.copy(flawed / "even" / "00.png", flawed / "[red]class\x07")
    told = shown("check", flawed, code=3)
    assert "\x1b" not in told
    assert "\x07" not in told
    assert r"\x1b[31mred\x0aline.jpg" in told
    assert "[bold]copy[nothing].png" in told
    assert any(line.startswith(r"│   [red]class\x07 ") for line in told.splitlines())
    assert "training would stop: 2 of 68 images cannot be used, above the limit of 1 % (1)" in told
    assert "error: 2 of 68 images cannot be used" in told


def test_check_finds_leaks(
    figures: Callable[..., dict[str, Any]], shown: Shown, photos: Path, tmp_path: Path
) -> None:
    test = tmp_path / "test"
    test.mkdir()
    for name in ("00", "02"):
        shutil.copy(photos / "even" / f"{name}.png", test / f"t{name}.png")
    Image.new("RGB", (9, 9)).save(test / "new.png")
    found = figures("check", photos, "--test", test)
    assert (found["test_images"], found["test_readable"], found["leaks"]) == (3, 3, 2)
    assert found["leak_share"] == pytest.approx(2 / 3)
    assert found["first_leaks"] == [["t00.png", "even/00.png"], ["t02.png", "even/02.png"]]
    told = shown("check", photos, "--test", test)
    assert "2 of 3 test images (66.67 %) are among the training images" in told
    assert "in both: t00.png is even/00.png" in told
    assert "training would go: every image can be used" in told


def test_check_samples_and_workers(
    figures: Callable[..., dict[str, Any]], photos: Path, shown: Shown
) -> None:
    found = figures("check", photos, "--sample", 8, "--workers", 2)
    assert (found["images"], found["checked"], found["readable"]) == (64, 8, 8)
    assert "8 images, a sample of 64" in shown("check", photos, "--sample", 8)


def test_check_finds_nothing(shown: Shown, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no image below" in shown("check", tmp_path / "empty", code=3)
    assert "does not exist" in shown("check", photos, "--test", tmp_path / "none", code=3)
    for number in range(3):
        (tmp_path / "empty" / f"{number}.png").touch()
    told = shown("check", tmp_path / "empty", "--json", tmp_path / "found.json", code=3)
    assert "none of 3 images can be read" in told
    told = shown("check", photos, "--test", tmp_path / "empty", code=3)
    assert "of the test images none of 3 images can be read; mend them" in told
    assert json.loads((tmp_path / "found.json").read_text())["unreadable"] == 3


def test_check_shows_some_of_many_classes(shown: Shown, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / "many" / f"class{number:02}").mkdir(parents=True)
        for copy in range(number // 10 + 1):
            picture = Image.new("RGB", (9, 9), (number, copy, 0))
            picture.save(tmp_path / "many" / f"class{number:02}" / f"{copy}.png")
    told = shown("check", tmp_path / "many")
    assert told.count("  class") == 20
    assert "class29" in told
    assert "class00" in told
    assert "class15" not in told


def test_stats(
    figures: Callable[..., dict[str, Any]], shown: Shown, photos: Path, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    made = draw.integers(0, 65536, (20, 16, 16, 12), dtype=np.uint16)
    (tmp_path / "deep").mkdir()
    for number, pixels in enumerate(made):
        np.save(tmp_path / "deep" / f"{number:02}.npy", pixels)
    found = figures("stats", tmp_path / "deep")
    scaled = made.reshape(-1, 12) / np.float64(65535)
    np.testing.assert_allclose(found["mean"], scaled.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["std"], scaled.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["lowest"], scaled.min(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["highest"], scaled.max(axis=0), rtol=1e-9)
    assert (found["channels"], found["deep"], found["pixels"]) == (12, True, 20 * 256)
    assert (found["counted"], found["unreadable"], found["other_kind"]) == (20, 0, 0)
    told = shown("stats", tmp_path / "deep")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: moco-v2\n" + told[told.index("views:") :])
    views = find_recipe(recipe).recipe.views  # type: ignore[union-attr]
    assert (views.channels, views.deep) == (12, True)
    np.testing.assert_allclose(views.mean, scaled.mean(axis=0), rtol=1e-5)
    assert figures("stats", photos, "--sample", 8)["counted"] == 8


def test_stats_of_very_many_channels_are_cut_short(shown: Shown, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((1, 60, 60, 50), np.float32))
    assert "and 18 channels more" in shown("stats", tmp_path / "a.npy")


def test_pack_and_train(
    figures: Callable[..., dict[str, Any]],
    shown: Shown,
    photos: Path,
    tmp_path: Path,
    tiny_settings: list[str],
    capsys: Capture,
) -> None:
    out, run = tmp_path / "packed", tmp_path / "run"
    words = ["pack", photos, out, "--lossless", "--shard-megabytes", "0.05", "--workers", "0"]
    found = figures(*words)
    assert (found["images"], found["new_images"], found["skipped"]) == (64, 64, 0)
    assert found["shards"] == len(list(out.glob("photos0-00000?.tar"))) == 3
    assert found["bytes"] == sum(path.stat().st_size for path in out.glob("*.tar"))
    assert found["bytes_before"] == sum(path.stat().st_size for path in photos.rglob("*.png"))
    told = shown(*words)
    assert "64 images in 3 shards" in told
    assert "all of them packed before" in told
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    command = ["pretrain", "--epochs", "1", "--device", "cpu", "--workers", "0", *settings]
    losses = []
    for source in (photos, out):
        assert main([*command[:1], str(source), *command[1:], "--run", str(run)]) == 0
        rows = (run / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
        shutil.rmtree(run)
    capsys.readouterr()
    assert losses[0] == losses[1]


def test_pack_leaves_out_bad_images(shown: Shown, flawed: Path, tmp_path: Path) -> None:
    told = shown("pack", flawed, tmp_path / "out", code=3)
    assert "2 of 67 images cannot be packed, more than the limit of 1 %" in told
    assert r"odd/\x1b[31mred\nline.jpg: no image" in told
    assert r"odd/[red]\udcff.png: an empty file" in told
    (flawed / "odd" / "[red]\udcff.png").unlink()
    told = shown("pack", flawed, tmp_path / "better")
    assert r"left out odd/\x1b[31mred\x0aline.jpg: " in told
    assert "65 images in 1 shard of" in told
    assert len(open_images(tmp_path / "better")) == 65


def test_the_limit_of_bad_images_is_the_users(
    figures: Callable[..., dict[str, Any]], flawed: Path, tmp_path: Path
) -> None:
    found = figures("check", flawed, "--bad-limit", "0.05")
    assert (found["usable"], found["most_unusable"], found["unreadable"]) == (True, 3, 2)
    assert figures("pack", flawed, tmp_path / "out", "--bad-limit", "0.05")["skipped"] == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["check"], 2, "SRC"),
        (["pack", "{photos}"], 2, "OUT"),
        (["chekc", "{photos}"], 2, "did you mean check?"),
        ([], 2, "KIND"),
        (["check", "{photos}", "--sample", "0"], 2, "must be a whole number from 1, got '0'"),
        (["check", "{photos}", "--bad-limit", "2"], 2, "limit of bad images must be 0 to 1, got 2"),
        (["pack", "{photos}", "{tmp}/o", "--bad-limit", "nan"], 2, "must be 0 to 1, got nan"),
        (["check", "{photos}", "--workers", "-1"], 2, "must be a whole number from 0 to 1024"),
        (["check", "{photos}", "--tset", "x"], 2, "did you mean --test?"),
        (["check", "{photos}", "--json", "{tmp}/no/a.json"], 5, "cannot write --json"),
        (["check", "{photos}/even/00.png"], 3, "is a single image"),
        (["check", ""], 2, "the path is empty"),
        (["pack", "{photos}", "{tmp}/o", "--quality", "101"], 2, "from 1 to 100, got '101'"),
        (["pack", "{photos}", "{tmp}/o", "--side", "big"], 2, "whole number from 1, got 'big'"),
        (["pack", "{photos}", "{tmp}/o", "--shard-megabytes", "0"], 2, "'0' is no size"),
        (["pack", "{photos}", "{tmp}/o", "--shard-megabytes", "nan"], 2, "'nan' is no size"),
        (["pack", "{photos}", "{tmp}/o", "--lossless", "--quality", "9"], 2, "leave out one"),
        (["pack", "{photos}", "{photos}/packed"], 2, "lies in the images themselves"),
        (["pack", "{photos}", "{tmp}"], 2, "holds files of something else (notes.txt)"),
        (["pack", "{photos}", "{tmp}/notes.txt"], 2, "is a file"),
        (["pack", "{photos}", "{tmp}/notes.txt/out"], 5, "Not a directory"),
        (["preview", "{photos}", "--out", "{tmp}/notes.txt"], 2, "is there and no PNG"),
        (["preview", "{photos}", "--out", "{tmp}"], 2, "is a folder"),
        (["preview", "{photos}", "--out", "{tmp}/no/a.png"], 5, "writable folder"),
        (["preview", "{photos}", "--recipe", "moco-v7"], 2, "unknown recipe 'moco-v7'"),
        (["preview", "{photos}", "--set", "views.size=3"], 2, "unknown field 'views.size'"),
        (["preview", "{photos}", "--seed", "-1"], 2, "seed must be from 0"),
        (["preview", "{photos}", "--images", "0"], 2, "whole number from 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], code: int, told: str, shown: Shown, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    words = [word.format(photos=photos, tmp=tmp_path) for word in words]
    assert told in shown(*words, code=code)
    assert [path.name for path in tmp_path.rglob("*")] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(photos.rglob("packed"))


def test_a_pipe_is_not_read_for_a_png(shown: Shown, photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is there and no PNG" in shown("preview", photos, "--out", tmp_path / "pipe", code=2)


def test_preview(
    figures: Callable[..., dict[str, Any]],
    shown: Shown,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--recipe", "moco-v2", "--set", "views.image_size=96", "--seed", "3", "--epochs", "2"]
    found = figures("preview", photos, *words, "--images", "5")
    assert found["picture"] == f"preview-{photos.name}.png"
    assert (found["recipe"], found["image_size"], found["scale"]) == ("moco-v2", 96, 1)
    assert found["image_ids"] == [0, 12, 25, 38, 51]
    picture = Image.open(tmp_path / found["picture"])
    assert (picture.format, picture.size) == ("PNG", place_of_cell(5, 5, 96))
    recipe = find_recipe("moco-v2").recipe
    assert recipe is not None
    views = replace(recipe.views, image_size=96)
    for row, image_id in enumerate(found["image_ids"]):
        for epoch in (0, 1):
            both = sample_views(open_images(photos), image_id, views, seed=3, epoch=epoch)
            for place, view in enumerate(both):
                left, top = place_of_cell(row, 1 + 2 * epoch + place, 96)
                cell = np.asarray(picture.crop((left, top, left + 96, top + 96)))
                np.testing.assert_array_equal(cell, np.asarray(view_picture(view)))
    before = (tmp_path / found["picture"]).read_bytes()
    shown("preview", photos, *words, "--images", "5")  # a PNG is replaced
    assert (tmp_path / found["picture"]).read_bytes() == before
    told = shown("preview", photos, "--images", "1", "--epochs", "1", "--out", "one.png")
    assert "one.png: 1 image, each with both views of 1 epoch of recipe small at " in told
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {found["picture"], "one.png", "figures.json"}


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    shown: Shown, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.png"
    shown("preview", photos, "--images", "1", "--out", out)
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    told = shown("preview", photos, "--images", "2", "--out", out, code=5)
    assert "No space left on device; name another --out" in told
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_full_disk_while_packing(
    shown: Shown, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        told = shown("pack", photos, tmp_path / "out", code=5)
    assert "No space left on device; make room, then the same command goes on" in told
    assert not (tmp_path / "out").exists()
    shown("pack", photos, tmp_path / "out")


@pytest.mark.parametrize("kind", DATA_COMMANDS)
def test_help_has_examples(kind: str, capsys: Capture) -> None:
    assert main(["data", kind, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.count(f"  moco data {kind} ") >= 2
    assert "SRC" in told
    assert "--json" in told
    assert "exit codes:" in told


@pytest.fixture
def slow_source(tmp_path: Path) -> Path:
    """Return images that take a while to pack."""
    (tmp_path / "slow").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "slow" / "000.png", compress_level=0)
    for number in range(1, 400):
        os.link(tmp_path / "slow" / "000.png", tmp_path / "slow" / f"{number:03}.png")
    return tmp_path / "slow"


@pytest.mark.parametrize(
    ("number", "workers", "code"), [(signal.SIGTERM, 0, 75), (signal.SIGINT, 2, 130)]
)
def test_pack_stops_cleanly_and_goes_on(
    number: int, workers: int, code: int, slow_source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["data", "pack", str(slow_source), str(out), "--lossless", "--side", "60"]
    words += ["--shard-megabytes", "0.1", "--workers", str(workers)]
    child = os.fork()  # a new process would import torch for seconds
    if child == 0:
        returned = 1
        try:
            os.setsid()
            with open(tmp_path / "told.txt", "w") as sys.stderr:
                returned = main(words)
        finally:
            os._exit(returned)
    end = time.monotonic() + 60
    while not (out / "slow-000001.tar").exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(child, number)
    _, status = os.waitpid(child, 0)
    told = (tmp_path / "told.txt").read_text()
    assert os.waitstatus_to_exitcode(status) == code, told
    assert len(told.splitlines()) == 1
    assert "the same command goes on" in told
    names = sorted(path.name for path in out.iterdir())
    assert names[0] == "index.json"
    assert all(name.endswith(".tar") for name in names[1:])
    with pytest.raises(DataError, match="packed in part only"):
        open_images(out)


def test_progress_is_a_line_now_and_then(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with ProgressLines("packed") as progress:
        for done in range(0, 2001, 50):
            progress.report(done, 2000)
            now += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "packed 500/2,000  50 images/s  30 s left"
    assert len(lines) == 4


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_moves_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now, terminal = 0.0, Terminal()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressLines("read") as progress:
        for done in range(4):
            progress.report(10**done, 1000)
            now += 0.15
    first, *lines = terminal.getvalue().split("\r")
    assert first == ""
    assert [line.split()[1] for line in lines] == ["10/1,000", "100/1,000", "1,000/1,000"]
    assert lines[-1].endswith("\n")
    assert len(lines[1]) >= len(lines[0])  # what was longer is painted over


def test_progress_goes_on_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressLines("read") as progress:
        terminal.close()
        progress.shown_at -= 60
        progress.report(1, 2)
        monkeypatch.setattr(sys, "stderr", None)
        with ProgressLines("read"):
            pass


def test_a_cut_off_shard_is_told_by_every_command_and_by_the_run(
    photos: Path, tiny_settings: list[str], tmp_path: Path, capsys: Capture
) -> None:
    source, out = tmp_path / "cut.tar", tmp_path / "packed"
    with tarfile.open(source, "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.add(path, path.name)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 3 // 4])
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    run = ["--device", "cpu", "--workers", "0", "--epochs", "1", "--run", str(tmp_path / "run")]
    for words in (
        ["data", "check", str(source)],
        ["data", "stats", str(source)],
        ["data", "pack", str(source), str(out)],
        ["data", "preview", str(source), "--out", str(tmp_path / "views.png")],
        ["pretrain", str(source), *settings, *run],
    ):
        assert main(words) == 0
        printed = capsys.readouterr()
        lines = [
            line
            for line in (printed.out + printed.err).splitlines()
            if line.startswith("left out of the source: ")
        ]
        assert len(lines) == 1, words
        assert "cut off" in lines[0]


@pytest.mark.parametrize("option", ["--epochs", "--images"])
def test_a_preview_that_nobody_could_look_at_is_refused_before_it_is_drawn(
    option: str, shown: Shown, tmp_path: Path
) -> None:
    np.save(tmp_path / "many.npy", np.zeros((100_000, 5, 6, 3), np.uint8))
    began = time.monotonic()
    told = shown(
        "preview", tmp_path / "many.npy", option, 100_000, "--out", tmp_path / "a.png", code=2
    )
    assert "pixels is too large; lower --images or --epochs" in told
    assert time.monotonic() - began < 5
    assert not (tmp_path / "a.png").exists()
