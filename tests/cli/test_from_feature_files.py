"""Evaluations that start from files of features: the same scores, and wrong input in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.cli.main import main
from moco.evaluation.feature_files import write_features
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.features import extract_features
from moco.evaluation.labelled import matching_images
from moco.found_model import find_model

KINDS = ("knn", "linear", "retrieval", "few-labels")


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("from_files") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


@pytest.fixture(scope="module")
def pair(run: Path, class_folders: Path) -> tuple[FeatureSet, FeatureSet]:
    """Return the run's features of both folders."""
    model = find_model(str(run))
    first, second = (
        FeatureSet(
            extract_features(model.network, images, model.views, device=torch.device("cpu")).rows,
            images.labels,
            tuple(images.classes),
            paths=tuple(images.name(number) for number in range(len(images))),
            encoder=model.encoder,
        )
        for images in matching_images(class_folders / "train", class_folders / "test")
    )
    return first, second


def evaluate(words: list[object], figures: Path) -> dict[str, Any]:
    assert main([str(word) for word in [*words, "--device", "cpu", "--json", figures]]) == 0
    return dict(json.loads(figures.read_text()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors"])
def test_scores_are_those_of_the_run(
    kind: str,
    suffix: str,
    run: Path,
    pair: tuple[FeatureSet, FeatureSet],
    class_folders: Path,
    tmp_path: Path,
) -> None:
    files = tmp_path / f"train{suffix}", tmp_path / f"test{suffix}"
    for file, features in zip(files, pair, strict=True):
        write_features(file, features)
    folders = ["--train", class_folders / "train", "--test", class_folders / "test"]
    by_run = evaluate(["evaluate", kind, run, *folders], tmp_path / "run.json")
    by_file = evaluate(
        ["evaluate", kind, "--train", files[0], "--test", files[1]], tmp_path / "files.json"
    )
    assert by_file.pop("layer") is None  # `encoder` of the file says it
    assert by_run.pop("layer") == "backbone"
    assert by_file == by_run


def without_class(features: FeatureSet) -> FeatureSet:
    return replace(features, labels=features.labels.clamp(max=0))


def with_nan(features: FeatureSet) -> FeatureSet:
    rows = features.rows.clone()
    rows[3, 2] = torch.nan
    return replace(features, rows=rows)


WRONG: dict[str, tuple[Callable[[FeatureSet], FeatureSet], bool, str]] = {
    "classes that differ": (
        lambda features: replace(features, classes=("blue", "green")),
        False,
        "have different classes: green, red; give both the same",
    ),
    "one class": (
        lambda features: replace(without_class(features), classes=("blue",)),
        True,
        "has one class only; evaluation needs two or more",
    ),
    "an empty class": (without_class, False, "has no image of class red"),
    "features of another model": (
        lambda features: replace(features, encoder="another"),
        False,
        "are of different models, layers or views",
    ),
    "features of another width": (
        lambda features: replace(features, rows=features.rows[:, :9]),
        False,
        "take both from the same model and layer",
    ),
    "NaN": (with_nan, False, "1 of 16 rows of"),
    "no labels": (
        lambda features: replace(features, labels=torch.empty(0, dtype=torch.long)),
        False,
        "has no labels; evaluation needs them",
    ),
    "numbers beside classes": (
        lambda features: replace(features, labels=features.labels.double(), classes=()),
        False,
        "give both the same kind",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", WRONG)
def test_wrong_features_are_told_in_one_line(
    fault: str,
    kind: str,
    pair: tuple[FeatureSet, FeatureSet],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, both, said = WRONG[fault]
    files = [tmp_path / "train.npz", tmp_path / "test.npz"]
    write_features(files[0], change(pair[0]) if both else pair[0])
    write_features(files[1], change(pair[1]))
    words = ["evaluate", kind, "--train", str(files[0]), "--test", str(files[1])]
    assert main([*words, "--device", "cpu"]) == 3
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["knn", "{run}", "--train", "{a}", "--test", "{b}"], "taken by its own network; leave"),
        (["knn", "{run}", "--train", "{a}", "--test", "{folder}"], "embed both, or give images"),
        (["linear", "--train", "{folder}", "--test", "{b}"], "embed both, or give images"),
        (["knn", "--train", "{folder}", "--test", "{folder}"], "name a MODEL, or files"),
        (["knn", "--train", "{folder}", "--test", "{b}"], "embed both, or give images"),
        (["knn", "--train", "{a}", "--test", "{b}", "--layer", "head"], "have their layer"),
        (["retrieval", "--train", "{a}", "--test", "{b}", "--labels", "numbers"], "their layer"),
        (["few-labels", "--train", "{a}", "--test", "{b}", "--finetune"], "name a RUN"),
        (["linear", "--train", "{a}", "--test", "{b}", "--protocol", "official"], "name a RUN"),
    ],
)
def test_commands_that_make_no_sense_are_told(
    words: list[str],
    said: str,
    run: Path,
    pair: tuple[FeatureSet, FeatureSet],
    class_folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"run": run, "a": tmp_path / "a.npz", "b": tmp_path / "b.npz"}
    for name, features in zip("ab", pair, strict=True):
        write_features(tmp_path / f"{name}.npz", features)
    folder = class_folders / "train"
    given = [word.format(folder=folder, **places) for word in words]
    assert main(["evaluate", *given, "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors"])
def test_files_that_hold_no_features_are_told_by_their_names(
    suffix: str,
    pair: tuple[FeatureSet, FeatureSet],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    write_features(good, pair[0])
    words = ["evaluate", "knn", "--train", str(good), "--test", str(bad), "--device", "cpu"]
    assert main(words) == 3
    said = f"moco: error: {bad} does not exist; name a file that `moco embed` wrote\n"
    assert capsys.readouterr().err == said
    bad.write_bytes(good.read_bytes()[:-40])
    assert main(words) == 3
    errors = capsys.readouterr().err
    assert f"{bad} holds no features that can be read" in errors
    assert errors.count("\n") == 1


FINETUNE = ["evaluate", "finetune", "{run}", "--set", "epochs=1", "--set", "warmup_epochs=0"]


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "knn", "{run}"],
        ["evaluate", "linear", "{run}"],
        ["evaluate", "few-labels", "{run}"],
        pytest.param(FINETUNE, marks=pytest.mark.slow),
        pytest.param(["compare", "{run}", "pixels"], marks=pytest.mark.slow),
        ["evaluate", "retrieval", "{run}"],
    ],
    ids=lambda words: words[1],
)
def test_one_source_for_both_is_told(
    words: list[str],
    run: Path,
    class_folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = str(class_folders / "train")
    command = [word.format(run=run) for word in words]
    main([*command, "--train", both, "--test", f"{both}/../train", "--device", "cpu"])
    told = "warning: --train and --test are one source" in capsys.readouterr().err
    assert told == ("retrieval" not in words)  # which leaves each image out of its own search
    main([*command, "--train", both, "--test", str(class_folders / "test"), "--device", "cpu"])
    assert "one source" not in capsys.readouterr().err
