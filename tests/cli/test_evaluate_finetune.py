from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.cli import evaluate_finetune as command
from moco.cli.main import main
from moco.evaluation import finetune
from moco.evaluation.features import extract_features
from moco.evaluation.finetune_files import FileKeeper, load_finetuned
from moco.evaluation.labelled import LabelledImages
from moco.loading import load_with_recipe

SHORT = ["--set", "epochs=3", "--set", "fewest_steps=0", "--set", "batch_size=8"]
SHORT += ["--set", "warmup_epochs=0.5", "--set", "learning_rate=0.002"]


@pytest.fixture(autouse=True)
def holds_out_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve images of a class are enough to choose by here."""
    monkeypatch.setattr(finetune, "FEWEST_TO_VALIDATE", 5)


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def words_of(run: Path, folders: Path, *more: str) -> list[str]:
    pair = ["--train", str(folders / "train"), "--test", str(folders / "test")]
    return ["evaluate", "finetune", str(run), *pair, "--device", "cpu", *SHORT, *more]


def evaluate(run: Path, folders: Path, figures: Path, *more: str) -> dict[str, Any]:
    assert main(words_of(run, folders, "--json", str(figures), *more)) == 0
    return dict(json.loads(figures.read_text()))


def test_scores_and_keeps_a_network_that_gives_them_again(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "network"
    more = ["--out", str(out), "--precision", "float32"]
    figures = evaluate(run, class_folders, tmp_path / "figures.json", *more)
    assert figures["from"] == "the run"
    assert (figures["train_images"], figures["held_out_images"]) == (20, 4)
    assert (figures["planned_epochs"], len(figures["history"])) == (3, figures["epochs"])
    assert figures["score_low"] <= figures["score"] <= figures["score_high"]
    assert sorted(path.name for path in out.iterdir()) == ["finetuned.json", "weights.safetensors"]
    network, classes = load_finetuned(out)
    assert classes == ["blue", "red"]
    test = LabelledImages(class_folders / "test")
    logits = extract_features(network, test, network.views, device=torch.device("cpu")).rows
    right = (logits.argmax(dim=1) == test.labels).float().mean()
    assert float(right) == pytest.approx(figures["top1"])
    printed = capsys.readouterr().out
    assert f"epoch {figures['best_epoch']} of 3 is kept" in printed
    assert main(words_of(run, class_folders, "--out", str(out))) == 2
    assert "holds a fine-tuned network already" in capsys.readouterr().err


def test_from_scratch_starts_at_other_weights_with_one_rate(
    run: Path, class_folders: Path, tmp_path: Path
) -> None:
    trained = evaluate(run, class_folders, tmp_path / "a.json")
    scratch = evaluate(run, class_folders, tmp_path / "b.json", "--untrained")
    assert scratch["from"] == "random weights"
    assert set(scratch["rates"].values()) == {0.002}
    assert trained["rates"]["stem"] == pytest.approx(0.002 * 0.75**5)
    assert scratch["history"] != trained["history"]


def test_a_stopped_training_goes_on_with_the_same_command(
    run: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept on disk, weights and moments in their own memory layout: the same to the bit."""
    whole = evaluate(run, class_folders, tmp_path / "a.json", "--out", str(tmp_path / "whole"))
    plain = FileKeeper.keep
    kept = []

    def stop(keeper: FileKeeper, state: dict[str, Any]) -> None:
        plain(keeper, state)
        kept.append(len(state["history"]))
        if kept == [1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(FileKeeper, "keep", stop)
    out = tmp_path / "stopped"
    assert main(words_of(run, class_folders, "--out", str(out))) == 130
    assert [path.name for path in out.iterdir()] == ["state.safetensors"]
    resumed = evaluate(run, class_folders, tmp_path / "b.json", "--out", str(out))
    assert kept == [1, 2, 3]
    assert resumed == whole
    weights = [tmp_path / name / "weights.safetensors" for name in ("whole", "stopped")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (out / "state.safetensors").exists()


def test_another_training_does_not_go_on_from_there(
    run: Path,
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(command, "EpochLines", lambda: type("Lines", (), {"report": stop})())
    assert main(words_of(run, class_folders, "--out", str(out))) == 130
    for more in (["--seed", "1"], ["--set", "weight_decay=0.1"], ["--untrained"]):
        capsys.readouterr()
        assert main(words_of(run, class_folders, "--out", str(out), *more)) == 2
        assert "is of a fine-tuning with other" in capsys.readouterr().err
    (out / "state.safetensors").write_bytes(b"404")
    assert main(words_of(run, class_folders, "--out", str(out))) == 6
    assert "damaged" in capsys.readouterr().err


def test_the_run_stays_as_it_is(run: Path, class_folders: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    evaluate(run, class_folders, tmp_path / "figures.json")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    network, _ = load_with_recipe(run)
    assert not network.training


def test_v3s_recipe_says_what_its_source_leaves_open(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--tuning", "vit-v3", "--set", "drop_path=0"]
    figures = evaluate(run, class_folders, tmp_path / "figures.json", *more)
    assert figures["held_out_images"] == 0
    assert figures["best_epoch"] == 3
    assert "not stated by the source: epochs of ViT-S" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("more", "code", "line"),
    [
        (["--set", "layer_decay=2"], 2, "layer_decay must be above 0 and up to 1"),
        (["--set", "epochs=2.5"], 2, "epochs must be a whole number"),
        (["--set", "crop_scale=0.5"], 2, "crop_scale must be two shares"),
        (["--set", "learning_rates=1"], 2, "learning_rate"),
        (["--tuning", "vit-v3"], 2, "drop_path needs a vision transformer"),
        (["--measure", "roc"], 2, "invalid choice"),
        (["--out", "/proc/nowhere/x"], 5, "cannot make"),
        (["--set", "learning_rate=1e30"], 4, "lower the learning rate"),
        (["--workers", "-1"], 2, "--workers"),
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


def test_folders_of_other_classes_are_refused(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = shutil.copytree(class_folders, tmp_path / "classes")
    (folders / "test" / "red").rename(folders / "test" / "green")
    assert main(words_of(run, folders)) == 3
    assert "different class folders: green, red" in capsys.readouterr().err


def test_no_finished_network_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no fine-tuned network"):
        load_finetuned(tmp_path)
