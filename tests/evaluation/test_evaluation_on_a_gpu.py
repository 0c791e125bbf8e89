"""Evaluation gives on a GPU what it gives on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moco.cli.main import main
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.knn import knn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def made(rows: int, seed: int) -> FeatureSet:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (rows,), generator=draw)
    centres = torch.randn(5, 64, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(rows, 64, generator=draw)
    return FeatureSet(0.5 * centres[labels] + noise, labels, tuple("abcde"))


def test_neighbours_are_the_same_on_both() -> None:
    train, test = made(3000, 0), made(700, 1)
    one, other = (knn(train, test, device=torch.device(name)) for name in ("cpu", "cuda"))
    assert torch.allclose(one.votes, other.votes, atol=1e-4)
    assert one.scores == pytest.approx(other.scores, abs=2e-3)


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    words = [word for setting in tiny_settings for word in ("--set", setting)]
    command = ["pretrain", str(photos), "--recipe", "moco-v2", *words, "--epochs", "2"]
    assert main([*command, "--device", "cuda", "--workers", "0", "--run", str(run)]) == 0
    return run


@pytest.mark.parametrize(
    "words",
    [
        ["knn"],
        ["knn", "--layer", "head"],
        ["retrieval"],
        ["few-labels", "--shares", "0.5", "1", "--draws", "2"],
        ["finetune", "--set", "epochs=2", "--set", "fewest_steps=4"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_a_gpu_evaluates(words: list[str], run: Path, class_folders: Path, tmp_path: Path) -> None:
    kind, *options = words
    pair = ["--train", str(class_folders / "train"), "--test", str(class_folders / "test")]
    found = []
    for device in ("cuda", "cpu"):
        file = tmp_path / f"{device}.json"
        command = ["evaluate", kind, str(run), *pair, *options, "--device", device]
        assert main([*command, "--json", str(file)]) == 0
        found.append(json.loads(file.read_text()))
    assert found[0].keys() == found[1].keys()
    if kind in ("knn", "retrieval"):  # bfloat16 is in training alone
        for name, value in found[1].items():
            if isinstance(value, float):
                assert found[0][name] == pytest.approx(value, abs=0.05), name


def test_a_gpu_measures_without_labels(run: Path, photos: Path) -> None:
    words = ["evaluate", "label-free", str(run), "--images", str(photos), "--device", "cuda"]
    assert main([*words, "--neighbours", "5"]) == 0
