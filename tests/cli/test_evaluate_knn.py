from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from moco.cli.main import main
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.labelled import matching_images
from moco.evaluation.scores import score_votes
from moco.loading import load_with_recipe


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("knn") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def evaluate(run: Path, folders: Path, figures: Path, *more: str) -> dict[str, Any]:
    words = ["--train", str(folders / "train"), "--test", str(folders / "test")]
    given = ["evaluate", "knn", str(run), *words, "--json", str(figures), "--device", "cpu", *more]
    assert main(given) == 0
    return dict(json.loads(figures.read_text()))


SCORES = [
    "top1",
    "top1_low",
    "top1_high",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "roc_auc_low",
    "roc_auc_high",
]
ABOUT = [
    "neighbours",
    "temperature",
    "layer",
    "classes",
    "train_images",
    "test_images",
    "skipped_files",
]
SWEEP = [
    "measure",
    "headline_neighbours",
    "headline_temperature",
    "headline_value",
    "chosen_neighbours",
    "chosen_temperature",
    "chosen_value",
    "best_on_test_neighbours",
    "best_on_test_temperature",
    "best_on_test_value",
    "sweep_neighbours",
    "sweep_temperatures",
    "sweep",
]


def test_prints_a_table_and_writes_flat_fractions(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate(run, class_folders, tmp_path / "figures.json")
    assert list(figures) == SCORES + ABOUT + SWEEP
    assert all(0 <= figures[key] <= 1 for key in SCORES)
    assert figures["top1_low"] < figures["top1"] <= figures["top1_high"]
    expected = {"neighbours": 200, "temperature": 0.07, "layer": "backbone", "classes": 2}
    expected |= {"train_images": 24, "test_images": 16, "skipped_files": 0}
    assert {key: figures[key] for key in ABOUT} == expected
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "16 test images, 24 vote" in printed.out
    for key in SCORES:
        assert key in printed.out
        assert f"{100 * figures[key]:.2f} %" in printed.out


@pytest.fixture(scope="module")
def hard_folders(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return train/ and test/ with classes that say nothing about the images."""
    folder = tmp_path_factory.mktemp("hard")
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        target = folder / ("train" if number % 2 else "test") / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.mark.parametrize(
    ("layer", "part", "features"), [("backbone", "backbone", 64), ("head", "encoder", 16)]
)
def test_the_scores_are_those_of_the_functions(
    layer: str, part: Literal["backbone", "encoder"], features: int, run: Path, hard_folders: Path
) -> None:
    more = ["--neighbours", "7", "--temperature", "0.5", "--layer", layer]
    figures = evaluate(run, hard_folders, hard_folders / "figures.json", *more)
    train, test = matching_images(hard_folders / "train", hard_folders / "test")
    network, recipe = load_with_recipe(run, part)
    known, asked = (
        extract_features(network, images, recipe.views, device=torch.device("cpu")).rows
        for images in (train, test)
    )
    assert known.shape == (32, features)

    def scores(neighbours: int, temperature: float) -> dict[str, float]:
        votes = knn_class_scores(
            known,
            train.labels,
            asked,
            classes=2,
            neighbours=neighbours,
            temperature=temperature,
        )
        return score_votes(votes, test.labels)

    expected = scores(7, 0.5)
    assert {key: figures[key] for key in expected} == pytest.approx(expected)
    assert (figures["layer"], figures["neighbours"], figures["temperature"]) == (layer, 7, 0.5)
    for other in (scores(200, 0.5), scores(7, 0.01)):  # so that the options show
        assert other != pytest.approx(expected)


def test_a_checkpoint_directory_serves_as_the_run(
    run: Path, class_folders: Path, tmp_path: Path
) -> None:
    checkpoint = run / "checkpoints" / (run / "latest").read_text()
    assert evaluate(checkpoint, class_folders, tmp_path / "a.json") == evaluate(
        run, class_folders, tmp_path / "b.json"
    )


def test_evaluation_leaves_the_run_as_it_is(run: Path, class_folders: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    evaluate(run, class_folders, tmp_path / "figures.json")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_files_that_cannot_be_read_are_named_and_counted(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = shutil.copytree(class_folders, tmp_path / "classes")
    (folders / "train" / "red" / "broken.png").write_text("404")
    (folders / "test" / "blue" / "also.png").write_text("404")
    figures = evaluate(run, folders, tmp_path / "figures.json")
    assert figures["skipped_files"] == 2
    assert (figures["train_images"], figures["test_images"]) == (24, 16)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "skipped train red/broken.png",
        "skipped test blue/also.png",
    ]


def test_six_classes_have_a_top5_and_no_roc_curve(
    run: Path, class_folders: Path, tmp_path: Path
) -> None:
    for part in ("train", "test"):
        for number in range(6):
            target = tmp_path / "six" / part / f"class {number}"
            shutil.copytree(class_folders / part / ("red" if number % 2 else "blue"), target)
    figures = evaluate(run, tmp_path / "six", tmp_path / "figures.json")
    assert figures["classes"] == 6
    assert "roc_auc" not in figures
    assert figures["top1"] <= figures["top5"] <= 1


def test_the_sweep_is_told_with_what_may_be_quoted_and_what_was_published(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate(run, class_folders, tmp_path / "figures.json")
    assert figures["measure"] == "roc_auc"
    assert figures["sweep_neighbours"] == [1, 5, 10, 20, 24]
    assert figures["sweep_temperatures"] == [0.02, 0.05, 0.07, 0.1, 0.2, 0.5]
    assert figures["headline_value"] == figures["sweep"][4][2] == figures["roc_auc"]
    assert figures["best_on_test_value"] == max(max(row) for row in figures["sweep"])
    printed = capsys.readouterr().out
    assert "roc_auc by neighbours (rows) and temperature (columns)" in printed
    assert "chosen on train images, each left out of its own vote: roc_auc" in printed
    assert "best on the test images: optimistic, not to be quoted" in printed
    assert "cifar10-resnet18: 82.6 / 86.3 / 88.7 % at 200 / 400 / 800 epochs" in printed
    assert "moco evaluate knn RUN --train CIFAR10/train" in printed


def test_with_200_neighbours_ours_stands_beside_the_protocols(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, path in enumerate(sorted(photos.rglob("*.png")) * 7):
        for part in ("train", "test"):
            target = tmp_path / part / f"class {number % 3}"
            target.mkdir(parents=True, exist_ok=True)
            if part == "train" or number < 9:
                shutil.copy(path, target / f"{number}.png")
    more = ("--measure", "top1", "--layer", "head")
    figures = evaluate(run, tmp_path, tmp_path / "figures.json", *more)
    values = figures["sweep"][figures["sweep_neighbours"].index(200)]
    printed = capsys.readouterr().out
    for name, place in (("InstDisc kNN", 2), ("CIFAR-10 notebook kNN", 3)):
        line = next(line for line in printed.splitlines() if line.startswith(name))
        assert line.endswith(f"{100 * values[place]:.2f} % here")


def test_the_measure_is_what_was_asked_for(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--measure", "macro_f1", "--neighbours", "3")
    figures = evaluate(run, class_folders, tmp_path / "figures.json", *more)
    assert figures["measure"] == "macro_f1"
    assert figures["headline_value"] == figures["macro_f1"]
    words = ["--train", str(class_folders / "train"), "--test", str(class_folders / "test")]
    given = ["evaluate", "knn", str(run), *words, "--device", "cpu", "--measure", "r2"]
    assert main(given) == 2
    told = capsys.readouterr().err
    assert "measure r2 does not fit these labels (2 classes); choose top1" in told
