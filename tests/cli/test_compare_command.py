"""`moco compare`: one table, tests of the differences, words, a figure and JSON."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from moco.cli.compare import CELLS, interval_in_text
from moco.cli.main import main
from moco.evaluation import compare as resampling
from moco.evaluation import comparison
from moco.evaluation.compare import Interval
from moco.evaluation.comparison import compare_rivals
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn
from moco.evaluation.labelled import matching_images
from moco.evaluation.linear_fast import linear
from moco.evaluation.permutation import permutation_p
from moco.found_model import find_model


@pytest.fixture(autouse=True)
def few_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests and intervals themselves are tested elsewhere."""
    monkeypatch.setattr(resampling, "RESAMPLES", 40)
    quick = functools.partial(permutation_p, exchanges=60)
    monkeypatch.setattr(comparison, "permutation_p", quick)


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compared") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def words_of(models: list[str], folders: Path, *more: str) -> list[str]:
    pair = ["--train", str(folders / "train"), "--test", str(folders / "test")]
    return ["compare", *models, *pair, "--device", "cpu", *more]


def compare(models: list[str], folders: Path, figures: Path, *more: str) -> dict[str, Any]:
    assert main(words_of(models, folders, "--json", str(figures), *more)) == 0
    return dict(json.loads(figures.read_text()))


def test_figures_are_those_of_the_functions(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "figure.svg"
    figures = compare([str(run)], class_folders, tmp_path / "a.json", "--plot", str(plot))
    printed = capsys.readouterr().out
    words = [str(run), f"untrained:{run}", f"pixels:{run}"]
    votes: dict[str, dict[str, torch.Tensor]] = {"linear": {}, "knn": {}}
    pair = matching_images(class_folders / "train", class_folders / "test")
    for word in words:
        model = find_model(word)
        known, asked = (
            FeatureSet(
                extract_features(
                    model.network, images, model.views, device=torch.device("cpu")
                ).rows,
                images.labels,
                tuple(images.classes),
            )
            for images in pair
        )
        votes["linear"][word] = linear(known, asked).votes
        votes["knn"][word] = knn(known, asked).votes
    assert [model["name"] for model in figures["models"]] == words
    for kind, of_all in votes.items():
        expected = compare_rivals("roc_auc", of_all, pair[1].labels)
        for model in figures["models"]:
            score = expected.scores[model["name"]]
            assert [model[kind][end] for end in ("value", "low", "high")] == pytest.approx(
                [score.value, score.low, score.high]
            )
        for lead, other in zip(figures["leads"][kind], expected.leads, strict=True):
            assert lead["rival"] == other.rival
            assert lead["p"] == pytest.approx(other.p)
            assert lead["difference"]["value"] == pytest.approx(other.difference.value)
        for line in figures["words"][kind]:
            assert line in printed
    assert (figures["measure"], figures["reference"]) == ("roc_auc", str(run))
    assert (figures["train_images"], figures["test_images"]) == (24, 16)
    assert f"figure: {plot}" in printed
    assert plot.stat().st_size > 1000
    assert "of these networks, not of other seeds" in printed
    for kind in ("linear", "knn"):
        drawn = [figures["models"][0][kind][end] for end in ("value", "low", "high")]
        ends = [model[kind][end] for model in figures["models"] for end in ("low", "high")]
        assert interval_in_text(Interval(*drawn), min(ends), max(ends)) in printed
        for lead in figures["leads"][kind]:
            assert f"{-100 * lead['difference']['value']:+.1f}" in printed


def test_weights_from_a_file_stand_beside_runs(
    run: Path, class_folders: Path, tmp_path: Path
) -> None:
    network = torchvision.models.mobilenet_v3_small()
    file = tmp_path / "imagenet.safetensors"
    save_file(network.state_dict(), file)
    words = [str(run), f"torchvision:mobilenet_v3_small@{file}"]
    figures = compare(words, class_folders, tmp_path / "a.json", "--no-baselines")
    assert [model["name"] for model in figures["models"]] == words
    assert len(figures["leads"]["linear"]) == len(figures["leads"]["knn"]) == 1


def test_named_rivals_are_not_added_again(run: Path, class_folders: Path, tmp_path: Path) -> None:
    words = [f"pixels:{run}", str(run), str(run)]
    figures = compare(words, class_folders, tmp_path / "a.json")
    names = [model["name"] for model in figures["models"]]
    assert names == [f"pixels:{run}", str(run), f"untrained:{run}"]
    assert figures["reference"] == f"pixels:{run}"


def test_networks_alone_have_no_run_to_begin_from(class_folders: Path, tmp_path: Path) -> None:
    figures = compare(["timm:test_vit"], class_folders, tmp_path / "a.json")
    assert [model["name"] for model in figures["models"]] == ["timm:test_vit"]
    assert figures["words"] == {"linear": [], "knn": []}


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--plot", "x.jpg"], 2, "--plot must end in .png, .svg, .pdf"),
        (["--plot", "none/x.png"], 5, "name a file in a writable folder"),
        (["--measure", "r2"], 2, "does not fit these labels"),
        (["--seed", "-1"], 2, "--seed must be from 0"),
        (["--workers", "-1"], 2, "--workers must be from 0"),
        (["--layer", "layer9"], 2, "no layer 'layer9'; did you mean"),
    ],
)
def test_options_that_make_no_sense_are_told(
    more: list[str],
    code: int,
    said: str,
    run: Path,
    class_folders: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words_of([str(run)], class_folders, *more)) == code
    assert said in capsys.readouterr().err


def test_a_wrong_word_is_told_before_any_image_is_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_of([str(run), "timm:resnet5"], tmp_path / "none")) == 2
    assert "timm has no model 'resnet5'; did you mean" in capsys.readouterr().err


def test_images_that_one_network_cannot_read_are_told_once_and_left_out(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = shutil.copytree(class_folders, tmp_path / "folders")
    (folders / "test" / "red" / "0.png").write_bytes(b"no image")
    figures = compare([str(run)], folders, tmp_path / "a.json")
    assert (figures["test_images"], figures["skipped_files"]) == (15, 1)
    assert capsys.readouterr().err.count("skipped test red/0.png") == 1


def test_intervals_are_drawn_to_scale() -> None:
    assert interval_in_text(Interval(0.5, 0.25, 0.75), 0.0, 1.0) == "......|-----o-----|......"
    assert len(interval_in_text(Interval(1.0, 1.0, 1.0), 1.0, 1.0)) == CELLS
    assert interval_in_text(Interval(0.0, 0.0, 1.0), 0.0, 1.0)[0] == "o"
