"""`moco evaluate linear`: the fast and the papers' protocols, beside what papers reached."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moco.cli.main import main
from moco.evaluation import linear_official
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.features import extract_features
from moco.evaluation.labelled import matching_images
from moco.evaluation.linear_fast import linear
from moco.evaluation.linear_training import LinearEpoch
from moco.loading import load_with_recipe

SHORT = ["--protocol", "official", "--epochs", "3", "--batch-size", "9", "--learning-rate", "0.5"]


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("linear") / "run"
    by_sgd = [*tiny_settings, "optimizer.algorithm=sgd"]  # the first papers' protocol is for that
    settings = [word for setting in by_sgd for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def words_of(run: Path, folders: Path, *more: str) -> list[str]:
    pair = ["--train", str(folders / "train"), "--test", str(folders / "test")]
    return ["evaluate", "linear", str(run), *pair, "--device", "cpu", *more]


def evaluate(run: Path, folders: Path, figures: Path, *more: str) -> dict[str, Any]:
    assert main(words_of(run, folders, "--json", str(figures), *more)) == 0
    return dict(json.loads(figures.read_text()))


@pytest.mark.parametrize("more", [[], ["--no-standardize", "--seed", "5", "--layer", "head"]])
def test_the_fast_figures_are_those_of_the_function(
    more: list[str],
    run: Path,
    class_folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = evaluate(run, class_folders, tmp_path / "figures.json", *more)
    printed = capsys.readouterr().out
    network, recipe = load_with_recipe(run, "encoder" if more else "backbone")
    train, test = (
        FeatureSet(
            extract_features(network, images, recipe.views, device=torch.device("cpu")).rows,
            images.labels,
            tuple(images.classes),
        )
        for images in matching_images(class_folders / "train", class_folders / "test")
    )
    found = linear(train, test, standardized=not more, seed=5 if more else 0)
    assert figures["measure"] == found.measure == "roc_auc"
    assert (figures["value"], figures["value_low"]) == pytest.approx((found.value, found.low))
    assert figures["penalty"] == found.penalty
    assert figures["penalties_tried"] == [tried.penalty for tried in found.tried]
    assert figures["standardized"] == (not more)
    assert (figures["protocol"], figures["held_out_images"]) == ("fast", 4)
    assert f"{100 * found.value:.2f} %, 95 % interval over test images" in printed
    assert "chosen on 4 train images that were held out" in printed
    assert ("then fitted to all; the" in printed) == bool(found.at_end)


def test_published_numbers_stand_beside_ours(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate(run, class_folders, tmp_path / "figures.json")
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "v1 ResNet-50, 200 epochs" in line)
    assert "60.6 %" in row
    assert f"{100 * figures['top1']:.1f} %" in row
    assert any("learning rate 30" in line and "section 4.1" in line for line in lines)
    assert any("to reproduce the 90.7 %: moco pretrain CIFAR10/train" in line for line in lines)
    assert any("none of its recipe" in line for line in lines)


def test_the_papers_protocol_trains_a_layer(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probe"
    figures = evaluate(run, class_folders, tmp_path / "a.json", *SHORT, "--out", str(out))
    captured = capsys.readouterr()
    assert (figures["protocol"], figures["epochs"], figures["batch_size"]) == ("official", 3, 9)
    assert [epoch["epoch"] for epoch in figures["history"]] == [1, 2, 3]
    assert figures["value"] == figures["top1"] == figures["history"][-1]["test_top1"]
    assert figures["best_top1_on_test"] == max(each["test_top1"] for each in figures["history"])
    assert figures["value_low"] <= figures["value"] <= figures["value_high"]
    assert "not the published protocol: epochs 3, not 100" in captured.out
    assert "the network is the same to the bit" in captured.out
    assert "official code quotes the best on the test images" in captured.out
    assert "points are lost" in captured.err
    kept = load_file(out / "linear.safetensors")
    assert kept["layer.weight"].shape == (2, 64)


def test_it_goes_on_after_a_stop_as_if_there_was_none(
    run: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(run, class_folders, tmp_path / "a.json", *SHORT, "--out", str(tmp_path / "a"))
    judge = linear_official.judge

    def stop(probe: Any, *rest: Any) -> None:
        judge(probe, *rest)
        if len(probe.history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(linear_official, "judge", stop)
    words = words_of(run, class_folders, *SHORT, "--out", str(tmp_path / "b"))
    assert main(words) != 0
    monkeypatch.undo()
    trained: list[LinearEpoch] = []
    monkeypatch.setattr(
        linear_official, "judge", lambda probe, *rest: trained.append(judge(probe, *rest))
    )
    again = evaluate(run, class_folders, tmp_path / "b.json", *SHORT, "--out", str(tmp_path / "b"))
    assert len(trained) == 2  # the second epoch was not kept, the first was
    for timing in ("seconds", "cpu_seconds"):
        assert whole.pop(timing) > 0
        del again[timing]
    assert again == whole
    first, second = (load_file(tmp_path / name / "linear.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    evaluate(run, class_folders, tmp_path / "c.json", *SHORT, "--out", str(tmp_path / "b"))
    assert len(trained) == 2  # it was finished


def test_another_probe_is_not_gone_on_with(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probe"
    words = words_of(run, class_folders, *SHORT, "--out", str(out))
    assert main(words) == 0
    for other in (["--seed", "3"], ["--precision", "bfloat16"]):
        assert main([*words, *other]) == 2
        told = capsys.readouterr().err
        assert "is of a probe with other images, weights, settings or seed" in told
    (out / "linear.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    assert main(words) == 6
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--epochs", "3"], "--epochs is of --protocol official; leave it out"),
        (["--out", "x", "--batch-size", "3"], "--batch-size, --out are of --protocol official"),
        ([*SHORT, "--no-standardize"], "--no-standardize is of --protocol fast"),
        ([*SHORT, "--measure", "macro_f1"], "--measure is of --protocol fast"),
        ([*SHORT, "--labels", "numbers"], "for one class an image; leave --labels out"),
        ([*SHORT, "--layer", "head"], "is for the backbone; leave --layer out"),
        ([*SHORT[:-1], "0"], "learning_rate must be a number above 0, got 0"),
        ([*SHORT, "--epochs", "0"], "epochs must be from 1, got 0"),
        (["--measure", "r2"], "measure r2 does not fit these labels"),
        (["--seed", "-1"], "--seed must be from 0"),
    ],
)
def test_options_that_make_no_sense_are_told(
    more: list[str],
    said: str,
    run: Path,
    class_folders: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words_of(run, class_folders, *more)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("one class", "has one class folder only"),
        ("other classes", "different class folders: "),
        ("empty class", "has no image of class "),
        ("not a number", "are not finite: "),
    ],
)
def test_images_that_no_score_follows_from_are_told_in_a_line(
    wrong: str,
    said: str,
    run: Path,
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = shutil.copytree(class_folders, tmp_path / "classes")
    for part in ("train", "test"):
        first = sorted((folders / part).iterdir())[0]
        if wrong == "one class":
            shutil.rmtree(first)
        if wrong == "other classes" and part == "test":
            first.rename(first.with_name("another"))
    if wrong == "empty class":
        for image in sorted((folders / "test").iterdir())[0].iterdir():
            image.write_text("404")
    if wrong == "not a number":
        normalize = torch.nn.BatchNorm2d.forward
        monkeypatch.setattr(
            torch.nn.BatchNorm2d,
            "forward",
            lambda self, images: normalize(self, images).fill_(torch.nan),
        )
    assert main(words_of(run, folders)) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "skipped test" not in line]
    assert len(told) == 1
    assert said in told[0]


@pytest.mark.parametrize("more", [[], SHORT])
def test_a_network_that_changes_itself_gets_no_score(
    more: list[str],
    run: Path,
    class_folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One bit of one weight, changed while features are taken."""
    forward = torch.nn.BatchNorm2d.forward
    changed: list[bool] = []

    def creeping(self: torch.nn.BatchNorm2d, images: torch.Tensor) -> torch.Tensor:
        if not changed:
            changed.append(True)
            self.weight.data.view(torch.int32)[0] ^= 1
        return forward(self, images)

    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", creeping)
    assert main(words_of(run, class_folders, *more)) == 1
    assert changed
    assert "the frozen network is not what it was" in capsys.readouterr().err
