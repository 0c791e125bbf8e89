"""What people get wrong: the exit code, one line that says why, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moco.cli import main as main_module
from moco.cli.main import main

Photos = Callable[[int], Path]
Fails = Callable[..., str]


@pytest.fixture
def tiny(tiny_settings: list[str]) -> list[str]:
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    return ["--device", "cpu", "--workers", "0", "--epochs", "1", *settings]


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Return a function that runs a command that must fail and gives its one line back."""

    def run(code: int, *words: object) -> str:
        existing = sorted(tmp_path.rglob("*"))
        found = main([str(word) for word in words])
        errors = capsys.readouterr().err
        assert found == code, errors
        assert errors.startswith("moco: error: ")
        assert len(errors.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == existing
        return errors.removeprefix("moco: error: ").strip()

    return run


@pytest.fixture
def some_photos(photos: Path, tmp_path: Path) -> Photos:
    """Return a function that copies so many photos to a folder of their own."""

    def copy(count: int) -> Path:
        folder = tmp_path / "some"
        folder.mkdir()
        for path in sorted(photos.rglob("*.png"))[:count]:
            shutil.copy(path, folder)
        return folder

    return copy


def test_a_missing_folder(fails: Fails, tmp_path: Path) -> None:
    line = fails(3, "pretrain", tmp_path / "none", "--run", tmp_path / "run")
    assert str(tmp_path / "none") in line
    assert "does not exist" in line


def test_a_folder_without_images(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").touch()
    line = fails(3, "pretrain", tmp_path / "text", "--run", tmp_path / "run")
    assert "no image below" in line
    assert ".png" in line


def test_fewer_images_than_a_batch(
    fails: Fails, some_photos: Photos, photos: Path, tmp_path: Path
) -> None:
    line = fails(3, "pretrain", photos, "--recipe", "moco-v2", "--run", tmp_path / "run")
    assert "64 images are fewer than a batch of 256" in line
    assert "--set batch_size=" in line
    assert "15 images" in fails(3, "pretrain", some_photos(15), "--run", tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["dictionary.size=8"], "queue size 8 is smaller than the batch 16"),
        (["batch_norm_groups=3"], "batch_norm_groups 3"),
        (["temprature=0.2"], "unknown field 'temprature'; did you mean 'temperature'?"),
        (["lr=0.1"], "did you mean 'optimizer.learning_rate'?"),
        (["temperature=warm"], "temperature must be a number, got 'warm'"),
        (["batch_size=2.5"], "batch_size must be a whole number, got 2.5"),
        (["temperature=2001-99-99"], "temperature"),
        (["temperature=.nan"], "temperature"),
        (["backbone=resnet19"], "timm has no model 'resnet19'"),
        (["views.order=[gray]"], "views.order"),
        (["temperature"], "field=value"),
        (["encoder=resnet50"], "'encoder' holds fields"),
        (["encoder.width=0.001"], "encoder.width must be 1/64 to 64"),
        (["dictionary.size=1000000000000"], "lower dictionary.size"),
        (["views.jitter=[1e300, 0, 0, 0]"], "views.jitter must be"),
        (["views.image_size=1000000"], "at most 4096"),
    ],
)
def test_settings_that_make_no_sense(
    settings: list[str], told: str, fails: Fails, tiny: list[str], photos: Path, tmp_path: Path
) -> None:
    more = [word for setting in settings for word in ("--set", setting)]
    line = fails(2, "pretrain", photos, *tiny, *more, "--run", tmp_path / "run")
    assert told in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "moco-v4"], "unknown recipe 'moco-v4'; did you mean 'moco-v"),
        (["--recipe", "simclr"], "the recipes are small, moco-v1"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--epochs", "-3"], "epochs must be at least 1, got -3"),
        (["--epochs", "many"], "--epochs"),
        (["--seed", "-1"], "seed must be from 0 to 2^63 - 1, got -1"),
        (["--workers", "-1"], "workers must be from 0, got -1"),
        (["--monitor-train", "{classes}/train"], "--monitor-test"),
        (["--monitor-test", "{classes}/test"], "--monitor-train"),
        (["--epoch", "3"], "unknown option --epoch; did you mean --epochs?"),
        (["--learning-rate", "3"], "unknown option --learning-rate"),
        (["--neighbours", "3"], "unknown option --neighbours"),
        (["--run", ""], "the path is empty"),
        (["--device", "tpu"], "tpu"),
        (["--resume", "maybe"], "maybe"),
        (["more", "words"], "unrecognized arguments: more words"),
    ],
)
def test_options_that_make_no_sense(
    words: list[str], told: str, fails: Fails, photos: Path, class_folders: Path, tmp_path: Path
) -> None:
    words = [word.replace("{classes}", str(class_folders)) for word in words]
    line = fails(2, "pretrain", photos, "--run", tmp_path / "run", *words)
    assert told in line


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["pretrain", "photos", "--device", "tpu"], ["--device", "auto", "cpu", "cuda", "mps"]),
        (["pretrain", "photos", "--resume", "maybe"], ["--resume", "auto", "never"]),
        (
            ["evaluate", "knn", "run", "--train", "a", "--test", "b", "--labels", "words"],
            ["--labels", "auto", "one-class", "several-classes", "numbers"],
        ),
    ],
)
def test_a_wrong_choice_is_answered_with_the_choices(
    words: list[str], choices: list[str], fails: Fails
) -> None:
    line = fails(2, *words)
    assert "command" not in line
    assert all(choice in line for choice in choices)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrian", "photos"], "unknown command 'pretrian'; did you mean pretrain?"),
        (["zzz"], "unknown command 'zzz'; choose"),
        (["it's"], "unknown command"),
        (["pretrain", ""], "the path is empty"),
        (["demo", "--resum", "never"], "did you mean --resume?"),
        (["evaluate", "knnn"], "unknown command 'knnn'; did you mean knn?"),
        (["evaluate"], "KIND"),
        (["pretrain"], "IMAGES"),
        (["evaluate", "knn", "run", "--train", "x"], "--test"),
        ([], "COMMAND"),
    ],
)
def test_commands_that_do_not_exist(words: list[str], told: str, fails: Fails) -> None:
    assert told in fails(2, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(fails: Fails, photos: Path, tmp_path: Path) -> None:
    line = fails(2, "pretrain", photos, "--device", "cuda", "--run", tmp_path / "run")
    assert line == "device 'cuda' is not on this machine; use --device auto"


@pytest.mark.parametrize("place", ["{tmp}/file/run", "/proc/run", "/dev/null/run"])
def test_a_run_directory_that_cannot_be_made(
    place: str, fails: Fails, tiny: list[str], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    run = place.replace("{tmp}", str(tmp_path))
    line = fails(5, "pretrain", photos, *tiny, "--run", run)
    assert f"cannot write run directory {run}" in line


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_directory_that_belongs_to_another_run(
    fails: Fails,
    tiny: list[str],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert main(["pretrain", str(photos), *tiny, "--run", str(run)]) == 0
    capsys.readouterr()
    before = content_of(run)
    for words, told in (
        (["--set", "temperature=0.3"], "temperature 0.1 -> 0.3"),
        (["--recipe", "moco-v2"], "name small -> moco-v2"),
        (["--seed", "5"], "seed 0 -> 5"),
    ):
        line = fails(2, "pretrain", photos, *tiny, "--set", "temperature=0.1", "--run", run, *words)
        assert told in line
        assert "--resume never" in line
        assert content_of(run) == before


def test_a_run_directory_full_of_something_else(
    fails: Fails, tiny: list[str], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("all my work")
    line = fails(2, "pretrain", photos, *tiny, "--run", tmp_path / "thesis")
    assert "holds files of something else" in line
    line = fails(2, "pretrain", photos, *tiny, "--run", tmp_path / "thesis" / "thesis.tex")
    assert "is a file" in line


def test_files_of_which_none_is_an_image(fails: Fails, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.jpg").write_text("404 not found")
    line = fails(3, "pretrain", folder, *tiny, "--run", tmp_path / "run")
    assert "none of the 20 images can be read" in line
    assert "00.jpg" in line


def test_one_broken_image_among_good_ones_is_named_once_and_passed_over(
    some_photos: Photos, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = some_photos(31), tmp_path / "run"
    (folder / "broken.jpg").write_text("404 not found")
    words = ["pretrain", str(folder), *tiny, "--epochs", "3", "--run", str(run)]
    assert main(words) == 0
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert len([line for line in lines if "broken.jpg" in line]) == 1
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["skipped_files"]) == ("done", 1)
    (line,) = (run / "skipped.jsonl").read_text().splitlines()
    skipped = json.loads(line)
    assert skipped["file"] == "broken.jpg"
    assert skipped["reason"]


def test_a_broken_image_whose_name_is_no_text_does_not_stop_the_run(
    some_photos: Photos, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = some_photos(30), tmp_path / "run"
    for name in (b"\xff\xfe.jpg", b"new\nline.jpg"):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"404 not found")
    words = ["pretrain", str(folder), *tiny, "--run", str(run), "--bad-limit", "0.1"]
    assert main(words) == 0, capsys.readouterr().err
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["skipped_files"]) == ("done", 2)
    told = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert len(told) == 2
    assert all(".jpg: " in line for line in told)


@pytest.mark.parametrize("option", ["--run", "--json"])
def test_a_name_that_no_file_system_takes(
    option: str, fails: Fails, tiny: list[str], photos: Path, tmp_path: Path
) -> None:
    words = [*tiny, "--run", tmp_path / "run", option, tmp_path / ("x" * 300)]
    assert "File name too long" in fails(5, "pretrain", photos, *words)


def test_a_monitor_without_a_readable_image_is_refused_before_training(
    fails: Fails, tiny: list[str], photos: Path, tmp_path: Path
) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        (tmp_path / "labelled" / name / "1.png").write_text("404 not found")
    where = ["--monitor-train", tmp_path / "labelled", "--monitor-test", tmp_path / "labelled"]
    line = fails(3, "pretrain", photos, *tiny, "--run", tmp_path / "run", *where)
    assert "none of the 2 images can be read" in line


def test_a_reader_that_went_away_ends_no_run(tiny: list[str], photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moco", "pretrain", str(photos), *tiny]
    with subprocess.Popen(
        [*command, "--run", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"


def test_json_into_a_folder_that_is_missing(
    fails: Fails, tiny: list[str], photos: Path, class_folders: Path, tmp_path: Path
) -> None:
    where = ["--json", tmp_path / "none" / "figures.json"]
    line = fails(5, "pretrain", photos, *tiny, "--run", tmp_path / "run", *where)
    assert f"cannot write --json {where[1]}" in line
    fails(5, "pretrain", photos, *tiny, "--run", tmp_path / "run", "--json", tmp_path)
    folders = ["--train", class_folders / "train", "--test", class_folders / "test"]
    fails(5, "evaluate", "knn", tmp_path, *folders, *where)


def test_evaluating_what_is_no_run(fails: Fails, class_folders: Path, tmp_path: Path) -> None:
    folders = ["--train", class_folders / "train", "--test", class_folders / "test"]
    line = fails(6, "evaluate", "knn", class_folders, *folders)
    assert f"{class_folders} holds no checkpoint" in line
    assert "does not exist" in fails(6, "evaluate", "knn", tmp_path / "none", *folders)


def test_evaluating_on_folders_that_do_not_go_together(
    fails: Fails, class_folders: Path, photos: Path, tmp_path: Path
) -> None:
    def told(train: Path, test: Path) -> str:
        return fails(3, "evaluate", "knn", tmp_path, "--train", train, "--test", test)

    line = told(class_folders / "train", photos)
    assert "different class folders: blue, even, odd, red" in line
    assert "images outside class folders" in told(photos / "odd", photos / "odd")
    assert "does not exist" in told(class_folders / "none", photos)


@pytest.mark.parametrize(
    "words", [["--neighbours", "0"], ["--temperature", "0"], ["--workers", "-1"]]
)
def test_evaluating_with_numbers_that_make_no_sense(
    words: list[str], fails: Fails, class_folders: Path, tmp_path: Path
) -> None:
    folders = ["--train", class_folders / "train", "--test", class_folders / "test"]
    assert words[0] in fails(2, "evaluate", "knn", tmp_path, *folders, *words)


def test_a_bug_is_one_line_too_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> object:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(main_module.importlib, "import_module", broken)
    assert main(["pretrain", "photos"]) == 1
    errors = capsys.readouterr().err
    assert errors == "moco: bug: RuntimeError: two lines (--debug shows where)\n"
    assert main(["pretrain", "photos", "--debug"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback")
    assert "in broken" in errors


def test_debug_shows_the_traceback_of_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(tmp_path / "none"), "--debug"]) == 3
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback")
    assert errors.splitlines()[-1].startswith("moco: error: image folder")


def test_a_stop_from_the_keyboard_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(name: str) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module.importlib, "import_module", stopped)
    assert main(["pretrain", "photos"]) == 130
    assert capsys.readouterr().err == "moco: stopped from the keyboard\n"
