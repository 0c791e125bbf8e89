"""What labels ask is found from the labels of both sources, or said by a flag."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.cli.main import main
from moco.data.sources.sequence import SequenceImages
from moco.data.sources.tar_shards import label_in
from moco.errors import DataError
from moco.evaluation.feature_set import Task
from moco.evaluation.label_kinds import read_labels, task_of_labels
from moco.evaluation.labelled import matching_images


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["cat", "dog"], "one_class"),
        (["0", "1", "2"], "one_class"),
        (["1.0", "2.0"], "one_class"),
        (["0.5", "1"], "number"),
        (["-1e-3", "4"], "number"),
        (["0.5", "dog"], "one_class"),
        (["0.5", ""], "one_class"),
        (["0.5", "nan"], "one_class"),
        (["cat", "cat;dog"], "several_classes"),
        (["cat|dog"], "several_classes"),
        (["cat\x1f", "dog\x1f"], "several_classes"),
    ],
)
def test_the_task_is_found_from_the_labels(labels: list[str], task: Task) -> None:
    assert task_of_labels(labels) == task
    assert task_of_labels(["1", "2"], labels) == task  # of both sources together


def test_several_classes_are_columns_in_the_order_of_their_names() -> None:
    labels, classes = read_labels(["dog; cat", "", "cat", "ox|dog"], "several_classes", "x.csv")
    assert classes == ("cat", "dog", "ox")
    assert labels.tolist() == [
        [True, True, False],
        [False, False, False],
        [True, False, False],
        [False, True, True],
    ]


def test_numbers_are_kept_whole() -> None:
    labels, classes = read_labels(["0.1", "16777217", "-3e2"], "number", "x.csv")
    assert classes == ()
    assert labels.tolist() == [0.1, 16777217, -300]


@pytest.mark.parametrize(
    ("labels", "task", "said"),
    [
        (["a", "", "b"], "one_class", "1 of 3 images of x.csv have no label"),
        (["1", "b"], "number", "1 of 2 labels of x.csv are no numbers ('b')"),
        (["1", "inf"], "number", "are no numbers"),
        (["a\x1f", "a\x1fb\x1f"], "one_class", "take the labels as several classes"),
    ],
)
def test_labels_that_are_something_else_are_refused(
    labels: list[str], task: Task, said: str
) -> None:
    with pytest.raises(DataError, match=said.replace("(", r"\(").replace(")", r"\)")):
        read_labels(labels, task, "x.csv")


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ([[0, 2], [], [1]], ["0\x1f2\x1f", "", "1\x1f"]),
        ([("a", "b"), ["c"], {"d"}], ["a\x1fb\x1f", "c\x1f", "d\x1f"]),
        (np.array([[True, False], [True, True], [False, False]]), ["0\x1f", "0\x1f1\x1f", ""]),
        ([0.5, 1.25, 2.0], ["0.5", "1.25", "2.0"]),
    ],
)
def test_sequences_say_several_labels(given: Sequence[Any], labels: list[str]) -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 3
    assert SequenceImages(images, given).labels() == labels


@pytest.mark.parametrize(
    ("value", "label"),
    [(["a", 3], "a\x1f3\x1f"), ([], ""), (0.25, "0.25"), ("a", "a"), (None, None), ([[]], None)],
)
def test_shards_say_several_labels(value: object, label: str | None) -> None:
    assert label_in(json.dumps({"label": value}).encode(), ".json") == label


def test_parquet_says_several_labels_and_numbers(tmp_path: Path, photos: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from moco.data.sources.opening import open_images

    files = [path.read_bytes() for path in sorted(photos.rglob("*.png"))[:3]]
    feature = {"label": {"feature": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}}
    about = {"huggingface": json.dumps({"info": {"features": feature}})}
    for labels, expected in (
        ([[0, 2], [], None], ["ant\x1fcat\x1f", "", ""]),
        ([[1], [7], [0]], ["bee\x1f", "7\x1f", "ant\x1f"]),
        ([0.5, 1.5, None], ["0.5", "1.5", ""]),
    ):
        table = pa.table({"image": files, "label": labels}).replace_schema_metadata(about)
        parquet.write_table(table, tmp_path / "x.parquet")
        assert open_images(tmp_path / "x.parquet").labels() == expected


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def listed(folder: Path, photos: Path, labels: Sequence[str]) -> tuple[Path, Path]:
    """Write lists of the photos with these labels in turn, half to train, half to test."""
    lists = folder / "train.csv", folder / "test.csv"
    for part, path in enumerate(lists):
        found = sorted(photos.rglob("*.png"))[part::2]
        rows = [f"{file},{labels[number % len(labels)]}" for number, file in enumerate(found)]
        path.write_text("\n".join(["path,label", *rows]) + "\n")
    return lists


def test_folders_are_classes_whatever_they_are_called(tmp_path: Path, photos: Path) -> None:
    for name, path in zip(("0.5", "a;b"), sorted(photos.rglob("*.png")), strict=False):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(path.read_bytes())
    train, _ = matching_images(tmp_path, tmp_path, task=None)
    assert train.classes == ["0.5", "a;b"]


@pytest.mark.parametrize(
    ("labels", "more", "measure", "said"),
    [
        (["0.5", "2", "3.25"], [], "r2", "numbers"),
        (["1", "2", "4"], ["--labels", "numbers"], "r2", ""),
        (["a;b", "b", "c;a"], [], "mean_average_precision", "several classes an image"),
        (["a;b", "b", "c;a"], ["--labels", "one-class"], "top1", ""),
        (["a", "b"], ["--labels", "several-classes"], "mean_average_precision", ""),
        (["0.5", "2", "3.25"], ["--labels", "one-class"], "top1", ""),
    ],
)
def test_the_command_scores_what_labels_ask(
    labels: list[str],
    more: list[str],
    measure: str,
    said: str,
    run: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train, test = listed(tmp_path, photos, labels)
    words = ["evaluate", "knn", run, "--train", train, "--test", test, "--device", "cpu", *more]
    assert main([str(word) for word in [*words, "--json", tmp_path / "figures.json"]]) == 0
    printed = capsys.readouterr()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["measure"] == measure
    assert (f"labels are taken as {said}" in printed.err) == bool(said)
    assert torch.isfinite(torch.tensor(figures["headline_value"]))


@pytest.mark.parametrize("with_fraction", [0, 1])
def test_one_list_with_a_fraction_makes_both_numbers(
    with_fraction: int, tmp_path: Path, photos: Path
) -> None:
    lists = listed(tmp_path, photos, ["1", "2"])
    lists[with_fraction].write_text(lists[with_fraction].read_text().replace(",2\n", ",2.5\n"))
    assert [images.task for images in matching_images(*lists, task=None)] == ["number"] * 2


def test_classes_that_only_one_list_has_are_told(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = listed(tmp_path, photos, ["a;b", "b"])
    test.write_text(test.read_text().replace("a;b", "a;b;z"))
    words = ["evaluate", "knn", run, "--train", train, "--test", test, "--device", "cpu"]
    assert main([str(word) for word in words]) == 3
    assert "have different classes: z; give both the same" in capsys.readouterr().err
