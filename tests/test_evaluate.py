"""`moco.evaluate`: the evaluations as plain functions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import moco
from moco import evaluate
from moco.cli.main import main


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("functions") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def test_features_of_a_run_go_into_every_evaluation(run: Path, class_folders: Path) -> None:
    train, test = (
        evaluate.features(run, class_folders / part, device="cpu") for part in ("train", "test")
    )
    assert train.rows.shape == (24, 64)
    assert train.classes == ("blue", "red")
    assert train.encoder == test.encoder
    assert evaluate.knn(train, test).measure == "roc_auc"
    assert evaluate.linear(train, test).test_images == 16
    assert evaluate.retrieval(train, test).queries == 16
    assert evaluate.few_labels(train, test, shares=[1.0]).train_images == 24
    votes = {"run": evaluate.linear(train, test).votes, "kNN": evaluate.knn(train, test).votes}
    assert evaluate.in_words(evaluate.compare_rivals("top1", votes, test.labels))


def test_a_layer_another_network_and_images_without_labels(run: Path, photos: Path) -> None:
    features = evaluate.features(run, photos, device="cpu", layer="layer2")
    assert features.rows.ndim == 2
    assert len(features) == 64
    pixels = evaluate.features(f"pixels:{run}", photos, device="cpu")
    assert pixels.rows.shape[1] > 64
    same = moco.load(run)
    assert not same.training
    assert torch.isfinite(features.rows).all()


def test_no_module_hides_a_function() -> None:
    for name in ("knn", "linear", "retrieval", "few_labels", "label_free", "finetune", "features"):
        assert callable(getattr(evaluate, name))
