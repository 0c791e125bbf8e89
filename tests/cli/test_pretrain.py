from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import moco
from moco.checkpoint import load_newest
from moco.cli.main import main
from moco.data.sources.sequence import SequenceImages
from moco.encoders import Encoder
from moco.errors import CheckpointError, MocoError, UsageError
from moco.evaluation.monitor import knn_monitor
from moco.plan import make_plan
from moco.recipe_files import read_recipe, set_fields
from moco.recipes import MOCO_V1, MOCO_V2

pretrain_module = importlib.import_module("moco.pretraining")
DOCS = Path(__file__).parents[2] / "docs"
KEYS = [
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "key_momentum",
    "positive_similarity",
    "negative_similarity",
    "pretext_top1",
    "images_per_second",
]


@pytest.fixture(scope="module")
def tiny(tiny_settings: list[str]) -> list[str]:
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    return ["--device", "cpu", "--workers", "0", *settings]


@pytest.fixture(autouse=True)
def _short_dry_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moco.rehearsal.MOST_STEPS", 3)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "recipe", ["small", "moco-v1", "moco-v2", "cifar10-resnet18", "cifar10-resnet18-symmetric"]
)
def test_a_run_leaves_what_is_documented(
    recipe: str,
    tiny: list[str],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, figures = tmp_path / "run", tmp_path / "figures.json"
    words = [str(photos), "--recipe", recipe, "--epochs", "2", *tiny, "--run", str(run)]
    assert main(["pretrain", *words, "--json", str(figures)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "64 images" in printed.out
    assert printed.out.splitlines()[-1].startswith(f"done: {run}")
    names = {"recipe.yaml", "metrics.jsonl", "status.json", "checkpoints", "latest"}
    assert {path.name for path in run.iterdir()} == names

    rows = rows_of(run)
    assert [row["step"] for row in rows] == list(range(8))
    assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4
    settled = read_recipe(run / "recipe.yaml")
    for row in rows:
        assert list(row) == KEYS
        assert all(isinstance(value, int | float) for value in row.values())
        assert row["loss"] > 0
        assert row["images_per_second"] > 0
        assert 0 <= row["pretext_top1"] <= 1
        assert -1 <= row["negative_similarity"] <= 1
        assert -1 <= row["positive_similarity"] <= 1.000001
        assert row["learning_rate"] == settled.learning_rate(row["step"], 4)
        assert row["key_momentum"] == settled.key_momentum
    assert (settled.epochs, settled.batch_size, settled.dictionary.size) == (2, 16, 32)

    flat = json.loads(figures.read_text())
    assert set(flat) == {*KEYS, "steps", "seconds", "run"}
    assert {key: flat[key] for key in KEYS} == rows[-1]
    assert not [value for value in flat.values() if isinstance(value, dict | list)]


def test_a_finished_run_is_done_at_once_and_gives_its_figures_again(
    tiny: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", str(photos), "--epochs", "1", *tiny, "--run", str(tmp_path / "run")]
    assert main(words) == 0
    capsys.readouterr()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert main([*words, "--json", str(tmp_path / "figures.json")]) == 0
    assert "is done: 4 of 4 steps" in capsys.readouterr().out
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert json.loads((tmp_path / "figures.json").read_text())["step"] == 3


def test_a_monitor_scores_each_epoch(
    tiny: list[str],
    photos: Path,
    class_folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [f"--monitor-{part}={class_folders / part}" for part in ("train", "test")]
    run = tmp_path / "run"
    words = [str(photos), "--epochs", "2", *tiny, *folders, "--run", str(run)]
    assert main(["pretrain", *words]) == 0
    scored = [row for row in rows_of(run) if "knn_top1" in row]
    assert [row["step"] for row in scored] == [3, 7]
    assert all(list(row) == [*KEYS, "knn_top1", "knn_roc_auc", "knn_head_top1"] for row in scored)
    assert all(0 <= row["knn_top1"] <= 1 and 0 <= row["knn_roc_auc"] <= 1 for row in scored)
    assert "kNN top-1" in capsys.readouterr().out


def test_a_monitor_changes_nothing_about_the_training(
    tiny_settings: list[str], photos: Path, class_folders: Path, tmp_path: Path
) -> None:
    recipe = set_fields(MOCO_V2, [*tiny_settings, "epochs=2"])

    def careless(encoder: Encoder) -> dict[str, float]:
        encoder.eval()
        return {"knn_top1": 0.5}

    def losses(name: str, monitor: Any) -> list[float]:
        plan = make_plan(photos, recipe=recipe, run=tmp_path / name, device="cpu", workers=0)
        return [row["loss"] for row in rows_of(pretrain_module.train(plan, monitor=monitor))]

    folders = class_folders / "train", class_folders / "test"
    alone = losses("alone", None)
    assert losses("watched", knn_monitor(*folders, recipe.views, torch.device("cpu"))) == alone
    assert losses("carelessly", careless) == alone


def test_dry_run_shows_the_plan_and_writes_nothing(
    tiny: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["--recipe", "moco-v2", "--epochs", "3", *tiny]
    assert main(["pretrain", str(photos), *settings, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    shown = capsys.readouterr().out
    head, _, recipe_text = shown.partition("\n\n")
    assert "3 epochs of 4 steps of 16 images" in head
    assert "images/s here, about" in head
    shown_recipe = yaml.safe_load(recipe_text)
    assert (shown_recipe["name"], shown_recipe["batch_size"]) == ("moco-v2", 16)
    assert main(["pretrain", str(photos), *settings, "--dry-run", "--json", "f.json"]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert {"steps", "images_per_second", "predicted_seconds", "binds"} <= set(figures)
    assert figures["steps"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]
    assert "monitor" not in head
    watched = ["--monitor-train", str(photos), "--monitor-test", str(photos)]
    assert main(["pretrain", str(photos), *settings, "--dry-run", *watched]) == 0
    assert "the monitor's time after each epoch comes on top" in capsys.readouterr().out
    documented = (DOCS / "json.md").read_text()
    assert all(f"`{key}`" in documented for key in figures if "images_per_second" not in key)


@pytest.mark.parametrize(
    ("recipe", "settings", "said", "unsaid"),
    [
        ("moco-v1", [], ["queue of 32 keys", "in 2 groups of 8 images, keys shuffled"], ["warn"]),
        (
            "moco-v1",
            ["batch_norm_groups=1"],
            ["over the whole batch", "batch_norm_groups to 2"],
            [],
        ),
        ("moco-v1", ["shuffle_keys=false"], ["not shuffled", "set shuffle_keys to true"], []),
        ("moco-v1", ["mechanism=end_to_end"], ["16 keys of the batch", "keys shuffled"], ["queue"]),
        (
            "moco-v1",
            ["mechanism=memory_bank"],
            ["32 keys drawn from a memory bank", "in 2 groups of 8 images"],
            ["queue", "shuffled", "warning"],
        ),
        (
            "moco-v3-resnet50",
            ["batch_norm_groups=1", "warmup_epochs=1"],
            ["16 keys of the batch", "batch norm over the whole batch"],
            ["queue", "shuffled", "warning"],
        ),
    ],
)
def test_what_is_said_is_true_of_the_mechanism(
    recipe: str,
    settings: list[str],
    said: list[str],
    unsaid: list[str],
    tiny: list[str],
    photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    milestones = ["--set", "milestones=[1]", "--epochs", "2"]
    options = ["--recipe", recipe, *tiny, *milestones, *words, "--dry-run"]
    assert main(["pretrain", str(photos), *options]) == 0
    head = capsys.readouterr().out.partition("\n\n")[0]
    assert all(text in head for text in said), head
    assert not [text for text in unsaid if text in head], head


def test_dry_run_of_small_gives_each_derived_setting_with_its_reason(
    photos: Path, tmp_path: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(photos, device="cpu", run=tmp_path / "run", workers=0)
    assert plan.choices
    words = ["pretrain", str(photos), "--device", "cpu", "--run", str(tmp_path / "run")]
    assert main([*words, "--set", "views.image_size=16", "--epochs", "1", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    given = {"views.image_size", "epochs", "key_momentum"}
    for choice in plan.choices:
        if choice.field not in given:
            assert f"{choice.field} = " in shown
            assert choice.reason in shown
    assert "views.image_size = " not in shown  # what was given needs no reason
    assert "\n  epochs = " not in shown


def test_a_derived_setting_is_not_told_of_what_the_user_set_instead(photos: Path) -> None:
    settings = ["encoder.backbone=resnet34", "encoder.width=0.25"]
    plan = make_plan(photos, device="cpu", settings=settings, workers=0)
    assert plan.recipe.encoder.backbone == "resnet34"
    assert not [choice for choice in plan.choices if "resnet18" in str(choice.value)]


def test_a_backbone_of_the_users_own_keeps_its_shape(photos: Path) -> None:
    plan = make_plan(photos, device="cpu", settings=["backbone=resnet50"], workers=0)
    encoder = plan.recipe.encoder
    assert (encoder.backbone, encoder.width, encoder.stage_blocks) == ("resnet50", 1.0, ())
    assert (encoder.stem, encoder.head) == ("imagenet", "mlp")
    assert not [choice for choice in plan.choices if choice.field == "encoder"]


def test_epochs_by_set_and_by_option_are_the_same(photos: Path) -> None:
    option = make_plan(photos, device="cpu", epochs=5, workers=0)
    setting = make_plan(photos, device="cpu", settings=["epochs=5"], workers=0)
    assert option.recipe == setting.recipe


def test_a_run_is_named_after_recipe_and_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = ["batch_size=16"]
    plan = make_plan(photos, recipe="moco-v1", settings=settings, device="cpu")
    assert plan.run == Path("runs") / f"moco-v1-{photos.name}"
    assert make_plan(photos, device="cpu").run == Path("runs") / f"small-{photos.name}"
    monkeypatch.chdir(photos)
    assert make_plan(".", device="cpu").run == Path("runs") / f"small-{photos.name}"
    assert make_plan(photos, device="cpu", run=tmp_path).run == tmp_path


def test_seeds_give_other_runs_and_the_same_seed_the_same(
    tiny_settings: list[str], photos: Path, tmp_path: Path
) -> None:
    def trained_by(name: str, seed: int) -> tuple[list[float], torch.Tensor]:
        run = pretrain_module.pretrain(
            photos,
            recipe=set_fields(MOCO_V1, tiny_settings),
            epochs=1,
            run=tmp_path / name,
            device="cpu",
            seed=seed,
        )
        checkpoint = load_newest(run)
        assert checkpoint is not None
        keys_begin_as = checkpoint.model["key_encoder.backbone.conv1.weight"]  # they hardly move
        return [row["loss"] for row in rows_of(run)], keys_begin_as

    losses, weights = trained_by("a", 0)
    same_losses, same_weights = trained_by("b", 0)
    other_losses, other_weights = trained_by("c", 1)
    assert same_losses == losses
    assert torch.equal(same_weights, weights)
    assert other_losses != losses
    assert float((other_weights - weights).norm() / weights.norm()) > 0.5


@pytest.fixture(scope="module")
def trained(
    photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Encoder]:
    """Return a finished run and the encoder as it was after its last step."""
    seen: list[Encoder] = []

    def keep(encoder: Encoder) -> dict[str, float]:
        seen.append(encoder)
        return {}

    run = tmp_path_factory.mktemp("trained") / "run"
    recipe = set_fields(MOCO_V2, [*tiny_settings, "epochs=2"])
    plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)
    return pretrain_module.train(plan, monitor=keep), seen[-1]


def test_load_gives_the_trained_backbone_in_eval_mode(trained: tuple[Path, Encoder]) -> None:
    run, encoder = trained
    images = torch.randn(6, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    newest = run / "checkpoints" / (run / "latest").read_text()
    with torch.no_grad():
        expected = encoder.backbone.eval()(images)
        embedded = encoder.head(expected)
        for path in (run, str(run), newest):
            backbone = moco.load(path)
            assert isinstance(backbone, nn.Module)
            assert not any(module.training for module in backbone.modules())
            torch.testing.assert_close(backbone(images), expected, rtol=1e-5, atol=1e-6)
        whole = moco.load(run, part="encoder")
        torch.testing.assert_close(whole(images), embedded, rtol=1e-5, atol=1e-6)
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name


def test_load_of_the_older_checkpoint_is_another_network(trained: tuple[Path, Encoder]) -> None:
    run, _ = trained
    old, new = (moco.load(folder) for folder in sorted((run / "checkpoints").iterdir()))
    weights = [next(network.parameters()) for network in (old, new)]
    assert not torch.equal(*weights)


def test_load_says_when_the_newest_checkpoint_is_passed_over(
    trained: tuple[Path, Encoder], tmp_path: Path
) -> None:
    run = shutil.copytree(trained[0], tmp_path / "run")
    newest = run / "checkpoints" / (run / "latest").read_text() / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"an older checkpoint is loaded: .*model\.safetensors"):
        moco.load(run)


def test_load_of_a_part_that_there_is_not(trained: tuple[Path, Encoder]) -> None:
    with pytest.raises(UsageError, match="part must be one of backbone, encoder, got 'neck'"):
        moco.load(trained[0], part="neck")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"settings": "epochs=3"}, r"settings must be a list such as \['epochs=3'\]"),
        ({"device": "tpu9"}, "device must be auto, cpu, cuda or mps, got 'tpu9'"),
        ({"precision": "half"}, "precision must be auto, float32 or bfloat16, got 'half'"),
        ({"resume": "maybe"}, "resume must be auto or never, got 'maybe'"),
        ({"seed": 1 << 64}, "seed must be from 0"),
        ({"run": "a\0b"}, "choose another --run"),
    ],
)
def test_arguments_of_pretrain_that_make_no_sense(
    options: dict[str, Any], told: str, photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    given = {"settings": tiny_settings, "device": "cpu", "run": tmp_path / "run", **options}
    with pytest.raises(UsageError, match=told):
        moco.pretrain(photos, epochs=1, **given)
    assert not (tmp_path / "run").exists()


def test_load_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="name a run directory"):
            moco.load(path)
    assert issubclass(CheckpointError, MocoError)


def test_images_can_be_any_sequence(tiny_settings: list[str], photos: Path, tmp_path: Path) -> None:
    from moco.data.sources.folder import FolderImages

    folder = FolderImages(photos)
    images = SequenceImages([folder.read(number) for number in range(20)])
    run = pretrain_module.pretrain(
        images, settings=tiny_settings, epochs=1, run=tmp_path / "run", device="cpu"
    )
    assert len(rows_of(run)) == 1


@pytest.mark.parametrize("name", moco.__all__)
def test_names_of_the_package_are_what_they_say(name: str) -> None:
    # submodules were imported by now, and must not stand where a function should
    home = importlib.import_module(moco._HOMES[name])
    assert getattr(moco, name) is getattr(home, name)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = moco.nonsense  # type: ignore[attr-defined]
    assert {"load", "pretrain", "__version__"} <= set(dir(moco))
