"""Images that cannot be used: a few are replaced and told, more than the limit end the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.cli.main import main

COUNT = 120


@pytest.fixture
def tiny(tiny_settings: list[str]) -> list[str]:
    options = [word for setting in tiny_settings for word in ("--set", setting)]
    return [*options, "--device", "cpu", "--workers", "0"]


def made_folder(folder: Path, bad: int) -> Path:
    """Return a folder of 120 images, of which so many are no images."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    for number in range(bad):
        (folder / f"{number * COUNT // bad:03}.png").write_text("404 not found")
    return folder


def status_of(run: Path) -> dict[str, object]:
    status: dict[str, object] = json.loads((run / "status.json").read_text())
    return status


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_one_bad_image_never_ends_a_run(tiny: list[str], tmp_path: Path) -> None:
    folder, run = made_folder(tmp_path / "images", 1), tmp_path / "run"
    assert main(["pretrain", str(folder), *tiny, "--epochs", "1", "--run", str(run)]) == 0
    assert status_of(run)["skipped_files"] == 1


@pytest.mark.parametrize("bad", [6, 72])
def test_more_than_the_limit_end_the_run_with_the_first_names(
    bad: int, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = made_folder(tmp_path / "images", bad), tmp_path / "run"
    command = ["pretrain", str(folder), *tiny, "--epochs", "2", "--run", str(run)]
    assert main(command) == 3
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert "of 120 images cannot be used, more than the limit of 1 %" in line
    assert "--bad-limit" in line
    named = [word for word in line.replace(",", " ").replace(";", " ").split() if ".png" in word]
    skipped = [json.loads(text) for text in (run / "skipped.jsonl").read_text().splitlines()]
    assert named == [row["file"] for row in skipped][:20]
    assert all(row["reason"] for row in skipped)
    status = status_of(run)
    assert (status["state"], status["code"]) == ("failed", 3)
    # nothing is lost: with a higher limit the same command goes on
    assert main([*command, "--bad-limit", "0.6"]) == 0
    assert status_of(run)["skipped_files"] == bad
    assert (
        main(
            [
                *command[:2],
                *tiny,
                "--epochs",
                "2",
                "--run",
                str(tmp_path / "again"),
                "--bad-limit",
                "0.6",
            ]
        )
        == 0
    )
    assert losses(run) == losses(tmp_path / "again")


def test_mended_images_count_no_more(tiny: list[str], tmp_path: Path) -> None:
    folder, run = made_folder(tmp_path / "images", 6), tmp_path / "run"
    command = ["pretrain", str(folder), *tiny, "--epochs", "2", "--run", str(run)]
    assert main(command) == 3
    for number in range(5):
        Image.new("RGB", (20, 20)).save(folder / f"{number * COUNT // 6:03}.png")
    assert main(command) == 0
    assert status_of(run)["skipped_files"] == 1


def test_what_a_bad_image_is_replaced_by_is_the_same_with_loading_processes(
    tiny: list[str], tmp_path: Path
) -> None:
    folder = made_folder(tmp_path / "images", 6)
    runs = []
    for name, workers in (("alone", "0"), ("loaded", "2")):
        run = tmp_path / name
        words = ["pretrain", str(folder), *tiny, "--epochs", "2", "--run", str(run)]
        assert main([*words, "--workers", workers, "--bad-limit", "0.1"]) == 0
        runs.append(losses(run))
    assert runs[0] == runs[1]


def test_all_bad_is_refused_before_anything_is_built(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = made_folder(tmp_path / "images", COUNT), tmp_path / "run"
    assert main(["pretrain", str(folder), *tiny, "--run", str(run)]) == 3
    assert "none of the 120 images can be read; 000.png: no image" in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize("limit", ["-0.1", "1.5", "nan"])
def test_a_limit_is_a_share(
    limit: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", str(photos), "--run", str(tmp_path / "run"), f"--bad-limit={limit}"]
    assert main(words) == 2
    assert "limit of bad images must be 0 to 1" in capsys.readouterr().err
