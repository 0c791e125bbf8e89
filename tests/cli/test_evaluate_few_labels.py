from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moco.cli.main import main


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def words_of(run: Path, folders: Path, *more: str) -> list[str]:
    pair = ["--train", str(folders / "train"), "--test", str(folders / "test")]
    return ["evaluate", "few-labels", str(run), *pair, "--device", "cpu", *more]


def evaluate(run: Path, folders: Path, figures: Path, *more: str) -> dict[str, Any]:
    assert main(words_of(run, folders, "--json", str(figures), *more)) == 0
    return dict(json.loads(figures.read_text()))


def test_prints_a_row_an_amount_and_writes_flat_fractions(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--per-class", "1", "6", "--shares", "1", "--draws", "3", "--measure", "top1"]
    figures = evaluate(run, class_folders, tmp_path / "figures.json", *more)
    assert figures["linear_6_per_class_labels"] == 12
    assert figures["linear_all_labels_labels"] == figures["train_images"] == 24
    assert len(figures["linear_6_per_class_scores"]) == figures["draws"] == 3
    assert len(figures["linear_all_labels_scores"]) == 1
    for level in ("1_per_class", "6_per_class", "all_labels"):
        key = f"linear_{level}"
        assert 0 <= figures[key] <= 1
        assert figures[f"{key}_low"] <= figures[key] <= figures[f"{key}_high"]
    assert figures["linear_1_per_class_chosen"] is False
    assert figures["linear_6_per_class_chosen"] is True
    assert figures["linear_all_labels_interval_over"] == "test images"
    printed = capsys.readouterr().out
    assert "1 per class: a class has one label" in printed
    assert f"{100 * figures['linear_6_per_class']:.2f} %" in printed


def test_splits_are_written_and_read_back_to_the_same_scores(
    run: Path, class_folders: Path, tmp_path: Path
) -> None:
    splits = tmp_path / "splits"
    more = ["--shares", "0.25", "--draws", "2", "--seed", "5"]
    drawn = evaluate(run, class_folders, tmp_path / "a.json", *more, "--write-splits", str(splits))
    files = sorted(splits.iterdir())
    assert [path.name for path in files] == ["25percent-draw-0.txt", "25percent-draw-1.txt"]
    lines = files[0].read_text().splitlines()
    assert len(lines) == 7
    assert all((class_folders / "train" / line).exists() for line in lines[1:])
    given = evaluate(
        run, class_folders, tmp_path / "b.json", "--split", str(files[0]), "--split", str(files[1])
    )
    for number, path in enumerate(files):
        score = given[f"linear_{path.name}"]
        assert score == pytest.approx(drawn["linear_25percent_scores"][number])


def test_fine_tuning_goes_over_the_same_draws(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--per-class", "3", "--draws", "2", "--finetune", "--set", "epochs=2"]
    more += ["--set", "fewest_steps=2", "--set", "warmup_epochs=0"]
    figures = evaluate(run, class_folders, tmp_path / "figures.json", *more)
    assert figures["fine_tuned_3_per_class_labels"] == figures["linear_3_per_class_labels"] == 6
    assert figures["fine_tuned_3_per_class_epochs"] == [2, 2]
    assert figures["fine_tuned_3_per_class_chosen"] is False
    printed = capsys.readouterr()
    assert "no image was held out" in printed.out
    assert printed.err.count("3 per class, draw") == 2


def test_unreadable_images_are_no_images_of_either_classifier(
    run: Path, class_folders: Path, tmp_path: Path
) -> None:
    folders = shutil.copytree(class_folders, tmp_path / "classes")
    (folders / "train" / "blue" / "0.png").write_text("404")
    (folders / "test" / "red" / "0.png").write_text("404")
    more = ["--shares", "1", "--finetune", "--set", "epochs=1", "--set", "fewest_steps=1"]
    figures = evaluate(run, folders, tmp_path / "figures.json", *more)
    assert figures["fine_tuned_all_labels_labels"] == figures["linear_all_labels_labels"] == 23
    assert figures["test_images"] == 15


@pytest.mark.parametrize(
    ("more", "code", "line"),
    [
        (["--per-class", "13"], 3, "has 12 train images, fewer than 13 per class"),
        (["--per-class", "0"], 2, "labels per class must be from 1"),
        (["--shares", "1.5"], 2, "up to 1"),
        (["--draws", "0"], 2, "draws must be from 1"),
        (["--split", "nowhere.txt"], 3, "cannot read the split"),
        (["--untrained"], 2, "add --finetune"),
        (["--finetune", "--set", "epoch=3"], 2, "fields are epochs"),
        (["--finetune", "--layer", "head"], 2, "leave --layer out"),
        (["--seed", "-1"], 2, "--seed must be from 0"),
    ],
)
def test_mistakes_are_one_line(
    more: list[str],
    code: int,
    line: str,
    run: Path,
    class_folders: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words_of(run, class_folders, *more)) == code
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith("moco: error: ")
    assert line in printed
