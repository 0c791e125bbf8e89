"""`moco pretrain --from`: a run that begins with weights that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from made_runs import RECIPE, made_run
from torch import Tensor

import moco
from moco.build import build_contrast, build_optimizer, take_up_optimizer
from moco.checkpoint import Checkpoint, load_newest
from moco.cli.main import main
from moco.contrast import Contrast
from moco.encoders import build_backbone
from moco.errors import CheckpointError, InterruptedRunError, UsageError
from moco.foreign.official_state import EXTRA, to_official
from moco.plan import Plan, make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields, write_recipe
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50
from moco.start.asked import start_asked

EPOCHS, PER_EPOCH = 4, 4


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    settings = [*tiny_settings, f"epochs={EPOCHS}", "views.order=[crop, horizontal_flip]"]
    return set_fields(MOCO_V2, settings)


@pytest.fixture
def plan(photos: Path, recipe: Recipe, tmp_path: Path) -> Callable[..., Plan]:
    def made(word: Any = None, kind: str = "auto", channels: Any = None, **options: Any) -> Plan:
        options = {"recipe": recipe, "run": tmp_path / "run", **options}
        images = options.pop("images", photos)
        start = start_asked(word, kind, channels)
        return make_plan(images, device="cpu", workers=0, start=start, **options)

    return made


def stopped_after(steps: int) -> Callable[[], int | None]:
    taken = iter(range(1, 1000))
    return lambda: 75 if next(taken) == steps else None


def newest(run: Path) -> Checkpoint:
    checkpoint = load_newest(run)
    assert checkpoint is not None
    return checkpoint


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in rows(run)]


def first_state(plan: Plan) -> dict[str, Tensor]:
    """Return the contrast's state when the first step is about to be taken."""
    with pytest.raises(SeenError) as seen:
        train(plan, report=Sees())  # type: ignore[arg-type]
    return seen.value.state


class SeenError(Exception):
    def __init__(self, contrast: Contrast) -> None:
        self.state = {name: of.clone() for name, of in contrast.state_dict().items()}


class Sees:
    def note(self, text: str) -> None: ...

    def ended(self) -> None: ...

    def planned(self, plan: Plan, contrast: Contrast) -> None:
        raise SeenError(contrast)


@pytest.fixture(scope="module")
def left(
    photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return a run that was stopped inside its second epoch, and that as an official file."""
    folder = tmp_path_factory.mktemp("left")
    plan = make_plan(photos, recipe=recipe, run=folder / "run", device="cpu", workers=0)
    with pytest.raises(InterruptedRunError):
        train(plan, stop=stopped_after(6))
    torch.save(to_official(newest(folder / "run")), folder / "official.pth.tar")
    return folder / "run", folder / "official.pth.tar"


@pytest.fixture(scope="module")
def strangers(left: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same as the official scripts would have saved it: nothing of ours beside."""
    content = torch.load(left[1])
    del content[EXTRA]
    path = tmp_path_factory.mktemp("strangers") / "checkpoint_0001.pth.tar"
    torch.save(content, path)
    return path


def test_an_official_file_of_ours_goes_on_as_if_never_left(
    left: tuple[Path, Path], photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    write_recipe(tmp_path / "recipe.yaml", recipe)
    asked = ["pretrain", str(photos), "--recipe", str(tmp_path / "recipe.yaml"), "--device", "cpu"]
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    assert main([*asked, "--workers", "0", "--run", str(stayed)]) == 0
    assert main([*asked, "--workers", "0", "--run", str(moved), "--from", str(left[1])]) == 0
    assert [row["step"] for row in rows(moved)] == list(range(6, 16))
    assert len(losses(moved)) >= 10
    assert losses(moved) == losses(stayed)[6:]
    for name, value in newest(stayed).model.items():
        assert torch.equal(value, newest(moved).model[name]), name


def test_a_strangers_file_goes_on_at_its_epoch(
    left: tuple[Path, Path], strangers: Path, plan: Callable[..., Plan]
) -> None:
    ours = newest(left[0])
    found = plan(strangers, settings=["encoder.stem=imagenet"])
    assert found.start is not None
    assert (found.start.kind, found.start.step) == ("continue", PER_EPOCH)
    assert found.start.checkpoint is not None
    state = first_state(found)
    for name, value in ours.model.items():
        if name == "dictionary.image_ids":  # nobody knows whose keys they are: no random rows
            assert min(state[name].tolist()) > 64
        else:
            assert torch.equal(state[name], value), name
    momenta = found.start.checkpoint.train_state["optimizer"]["state"]
    for number, values in ours.train_state["optimizer"]["state"].items():
        assert torch.equal(momenta[number]["momentum_buffer"], values["momentum_buffer"])
    said = " ".join(found.start_lines)
    assert "the queue's 32 keys" in said
    assert "the optimizer state" in said
    assert "random states, which such a file has not" in said


def test_a_strangers_file_trains_to_the_end_and_says_where_it_began(
    strangers: Path, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    run = train(plan(strangers))
    assert [row["step"] for row in rows(run)] == list(range(PER_EPOCH, EPOCHS * PER_EPOCH))
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "done"
    assert status["start"]["as"] == "continue"
    assert len(status["start"]["sha256"]) == 64
    assert json.loads((run / "start.json").read_text())["from"] == str(strangers)


def test_a_queue_that_came_with_keys_is_not_taken_for_one_that_stands_still(
    strangers: Path, plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco.pretraining.READ_EVERY_STEPS", 1)
    told: list[str] = []
    report = Sees()
    monkeypatch.setattr(Sees, "note", lambda _, text: told.append(text))
    monkeypatch.setattr(Sees, "planned", lambda *_: None)
    for name in ("stepped", "examined"):
        monkeypatch.setattr(Sees, name, lambda *_: None, raising=False)
    train(plan(strangers), report=report)  # type: ignore[arg-type]
    assert told == []


def test_another_run_of_the_same_network_begins_with_the_epoch(
    left: tuple[Path, Path], plan: Callable[..., Plan]
) -> None:
    found = plan(left[1], seed=1)
    assert found.start is not None
    assert found.start.step == PER_EPOCH
    assert "another run (seed 0 -> 1)" in " ".join(found.start_lines)


def test_an_optimizer_of_another_kind_begins_anew(
    strangers: Path, plan: Callable[..., Plan]
) -> None:
    found = plan(strangers, settings=["algorithm=adamw"])
    assert "it is not of adamw" in " ".join(found.start_lines)
    assert len(losses(train(found))) == 12


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["encoder.dim=8"], "--set encoder.dim=16"),
        (["dictionary.size=48"], "--set dictionary.size=32"),
        (["encoder.head=linear"], "--set encoder.head=mlp"),
        (["encoder.backbone=resnet34"], "--set encoder.backbone=resnet18"),
        (["mechanism=in_batch"], "--set mechanism=queue"),
    ],
)
def test_a_recipe_of_another_network_is_refused_with_the_field_to_set(
    settings: list[str], named: str, strangers: Path, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named):
        plan(strangers, settings=settings)
    assert not (tmp_path / "run").exists()


def test_nothing_is_left_of_a_run_that_is_done(strangers: Path, plan: Callable[..., Plan]) -> None:
    with pytest.raises(UsageError, match="1 epochs done and the recipe has 1; set more --epochs"):
        plan(strangers, settings=["epochs=1"])


@pytest.mark.parametrize("kind", ["run", "official", "torchvision"])
def test_a_backbone_is_put_into_both_encoders_below_a_new_head(
    kind: str,
    left: tuple[Path, Path],
    strangers: Path,
    plan: Callable[..., Plan],
    tmp_path: Path,
) -> None:
    model = newest(left[0]).model
    trained = {
        name.removeprefix("encoder.backbone."): value
        for name, value in model.items()
        if name.startswith("encoder.backbone.")
    }
    supervised = {**trained, "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    torch.save(supervised, tmp_path / "supervised.pth")
    word = {"run": left[0], "official": strangers, "torchvision": tmp_path / "supervised.pth"}[kind]
    state = first_state(plan(word, "backbone"))
    drawn = build_contrast(plan().recipe, images=64, seed=0).state_dict()
    for name, value in trained.items():
        for encoder in ("encoder", "key_encoder"):
            assert torch.equal(state[f"{encoder}.backbone.{name}"], value), name
    heads = {name for name in state if ".head." in name}
    assert len(heads) == 8
    for name in heads:
        assert torch.equal(state[name], drawn[name]), name
        assert not torch.equal(state[name], model[name])
    assert torch.equal(state["dictionary.keys"], drawn["dictionary.keys"])


def test_the_warm_up_is_in_the_recipe_and_can_be_set(
    left: tuple[Path, Path], plan: Callable[..., Plan]
) -> None:
    found = plan(left[0])
    assert found.recipe.start.held_epochs == pytest.approx(0.4)  # a tenth of 4, at most 1
    assert found.recipe.start.rise_epochs == pytest.approx(0.4)
    assert {choice.field for choice in found.choices} >= {"start.held_epochs", "start.rise_epochs"}
    unheld = plan(left[0], settings=["start.held_epochs=0"]).recipe.start
    assert (unheld.held_epochs, unheld.rise_epochs) == (0, pytest.approx(0.4))
    assert plan(left[0], settings=["epochs=30"]).recipe.start.held_epochs == 1
    assert plan().recipe.start.held_epochs == 0


def test_checkpoints_of_the_run_come_before_the_file(
    left: tuple[Path, Path], plan: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRunError):
        train(plan(left[0]), stop=stopped_after(6))
    before = losses(tmp_path / "run")
    for word in (tmp_path / "gone.pth", None):  # the file is not needed any more
        again = plan(word)
        assert again.recipe.start.held_epochs == pytest.approx(0.4)
        assert again.start is not None
        assert again.start.word == str(left[0])
    assert any("gone.pth is not read" in line for line in plan(tmp_path / "gone.pth").start_lines)
    run = train(plan(tmp_path / "gone.pth"))
    assert losses(run)[:6] == before
    assert len(losses(run)) == 16
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        plan(tmp_path / "gone.pth", resume="never")


def test_a_damaged_record_of_the_start_is_told(
    left: tuple[Path, Path], plan: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRunError):
        train(plan(left[0]), stop=stopped_after(2))
    path = tmp_path / "run" / "start.json"
    whole = json.loads(path.read_text())
    odd = [{**whole, "fields": {"a.b": 1}}, {**whole, "step": 1e999}, {**whole, "from": 3}, [], {}]
    for content in ("", "[" * 100_000, *map(json.dumps, odd)):
        path.write_text(content)
        with pytest.raises(CheckpointError, match="start again with --resume never"):
            plan()
    path.write_text(json.dumps({**whole, "fields": {"start.held_epochs": "x"}}))
    with pytest.raises(UsageError, match=r"start\.held_epochs must be a number"):
        plan()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="no ordinary file"):
        plan()


def made_backbone(channels: int, recipe: Recipe, at: Path) -> dict[str, Tensor]:
    state = build_backbone(recipe.encoder, 16, channels).state_dict()
    torch.save(state, at)
    return state


@pytest.mark.parametrize("given", [3, 5])
def test_channels_are_mapped_as_asked(
    given: int, recipe: Recipe, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    state = made_backbone(given, recipe, tmp_path / "x.pth")
    filters = state["conv1.weight"]
    chosen = first_state(plan(tmp_path / "x.pth", channels="3,1,1"))[
        "encoder.backbone.conv1.weight"
    ]
    assert torch.equal(chosen, filters[:, [2, 0, 0]])
    mean = first_state(plan(tmp_path / "x.pth", channels="mean", run=tmp_path / "mean"))
    answer = mean["encoder.backbone.conv1.weight"].sum(dim=1)
    torch.testing.assert_close(answer, filters.sum(dim=1))


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        (None, "takes 5 channels and the images have 3; .*--from-channels 1,2,3, or"),
        ("1,2", "names 2 channels and the images have 3"),
        ("1,2,6", "names channel 6 and .* has 1 to 5"),
        ("0,1,2", "names channel 0"),
        ("1,b,2", "neither 'mean' nor numbers"),
        ("", "neither 'mean' nor numbers"),
    ],
)
def test_channels_that_do_not_go_together_are_refused(
    channels: str | None, reason: str, recipe: Recipe, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made_backbone(5, recipe, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=reason):
        plan(tmp_path / "x.pth", channels=channels)


def test_a_recipe_made_for_the_images_has_the_files_network(
    left: tuple[Path, Path], plan: Callable[..., Plan]
) -> None:
    found = plan(left[0], recipe="small", settings=["views.image_size=16"])
    assert found.recipe.encoder.width == 0.125
    assert found.recipe.encoder.stem == "imagenet"
    assert "encoder.width" in {choice.field for choice in found.choices}


def test_python_takes_the_same_words(left: tuple[Path, Path], photos: Path, tmp_path: Path) -> None:
    run = moco.pretrain(
        photos,
        recipe=plan_recipe(left[0]),
        run=tmp_path / "python",
        device="cpu",
        workers=0,
        start_from=left[0],
        settings=["epochs=1"],
    )
    assert json.loads((run / "status.json").read_text())["start"]["as"] == "backbone"


def plan_recipe(run: Path) -> Recipe:
    return newest(run).identity.recipe


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--from", "nowhere.pth"], "nowhere.pth"),
        (["--from", "timm:resnet18"], "names no file of weights"),
        (["--from", "{run}", "--from-as", "continue"], "cannot be continued in a new run"),
        (["--from-as", "backbone"], "need --from"),
        (["--from-channels", "mean"], "need --from"),
        (["--from", "{photos}"], "holds no checkpoint"),
    ],
)
def test_words_that_mean_nothing_are_refused_in_a_line(
    words: list[str],
    reason: str,
    left: tuple[Path, Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(run=left[0], photos=photos) for word in words]
    code = main(["pretrain", str(photos), "--run", str(tmp_path / "run"), *given])
    errors = capsys.readouterr().err
    assert code in (2, 6)
    assert reason in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_momenta_come_to_lie_as_their_weights_do() -> None:
    """Fused steps walk through weight and momentum side by side, whatever their strides."""
    steps: list[list[Tensor]] = []
    for layout in (torch.channels_last, torch.contiguous_format):
        contrast = build_contrast(RECIPE, images=64, seed=0)
        optimizer = build_optimizer(RECIPE.optimizer, contrast)
        draw = torch.Generator().manual_seed(0)
        weights = [weight for weight in contrast.parameters() if weight.requires_grad]
        state = {}
        for number, weight in enumerate(weights):
            momentum = torch.randn(weight.shape, generator=draw)
            if weight.ndim == 4:
                momentum = momentum.contiguous(memory_format=layout)
            state[number] = {"momentum_buffer": momentum}
            weight.grad = torch.zeros_like(weight)
        take_up_optimizer(optimizer, {**optimizer.state_dict(), "state": state})
        optimizer.step()
        steps.append([weight.detach().clone() for weight in weights])
    assert all(torch.equal(*pair) for pair in zip(*steps, strict=True))


def test_a_run_of_made_weights_serves_too(plan: Callable[..., Plan], tmp_path: Path) -> None:
    made_run(tmp_path / "made", 3, replace(RECIPE, name="made"))
    found = plan(tmp_path / "made" / "checkpoints" / "step_00000001")
    assert found.start is not None
    assert "step 1 of a run of made" in found.start.about


def test_a_dry_run_shows_it_and_writes_nothing(
    left: tuple[Path, Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("moco.rehearsal.MOST_STEPS", 1)
    write_recipe(tmp_path / "recipe.yaml", plan_recipe(left[0]))
    asked = ["pretrain", str(photos), "--recipe", str(tmp_path / "recipe.yaml"), "--device", "cpu"]
    asked += ["--workers", "0", "--run", str(tmp_path / "run"), "--from", str(left[0]), "--dry-run"]
    assert main([*asked, "--json", str(tmp_path / "x.json")]) == 0
    told = capsys.readouterr().out
    assert f"begins from {left[0]} as backbone" in told
    assert "held_epochs: 0.4" in told
    assert json.loads((tmp_path / "x.json").read_text())["start"]["as"] == "backbone"
    assert not (tmp_path / "run").exists()


def test_what_was_imported_is_continued_too(
    strangers: Path, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    assert main(["import", str(strangers), "--out", str(tmp_path / "x.safetensors")]) == 0
    kept, found = plan(tmp_path / "x.safetensors").start, plan(strangers).start
    assert kept is not None
    assert found is not None
    assert (kept.kind, kept.step) == ("continue", PER_EPOCH)
    assert kept.checkpoint is not None
    assert found.checkpoint is not None
    for name, value in found.checkpoint.model.items():
        assert torch.equal(kept.checkpoint.model[name], value), name
    momenta = [start.checkpoint.train_state["optimizer"]["state"] for start in (kept, found)]
    for ours, theirs in zip(*(values.values() for values in momenta), strict=True):
        assert torch.equal(ours["momentum_buffer"], theirs["momentum_buffer"])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["lars", "adamw"])
def test_a_strangers_v3_goes_on_with_its_predictor_and_optimizer(
    algorithm: str, tiny_settings: list[str], photos: Path, tmp_path: Path
) -> None:
    settings = [*tiny_settings, "batch_norm_groups=1", "head_width=24", "epochs=3"]
    settings += ["warmup_epochs=1", f"algorithm={algorithm}", "learning_rate=0.01"]
    recipe = set_fields(MOCO_V3_RESNET50, settings)
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(
            make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0),
            stop=stopped_after(PER_EPOCH),
        )
    ours = newest(run)
    content = to_official(ours)
    del content[EXTRA]
    torch.save(content, tmp_path / "v3.pth.tar")
    found = make_plan(
        photos,
        recipe=recipe,
        run=tmp_path / "on",
        device="cpu",
        workers=0,
        start=start_asked(tmp_path / "v3.pth.tar"),
    )
    state = first_state(found)
    for name, value in ours.model.items():
        assert torch.equal(state[name], value), name
    assert "the optimizer state" in " ".join(found.start_lines)
    after = train(replace(found, run=tmp_path / "after"))
    whole = train(make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0))
    assert losses(after) == losses(whole)[PER_EPOCH:]  # at an epoch's end nothing is missing


def test_images_normalized_in_another_way_are_told(
    left: tuple[Path, Path], plan: Callable[..., Plan]
) -> None:
    said = " ".join(plan(left[0], settings=["views.std=[1, 1, 1]"]).start_lines)
    assert "views.std [0.229, 0.224, 0.225]; the recipe has others" in said
    assert "normalized" not in " ".join(plan(left[0]).start_lines)


def test_images_of_many_channels_begin_with_a_backbone_for_three(
    recipe: Recipe, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    state = made_backbone(3, recipe, tmp_path / "x.pth")
    draw = np.random.default_rng(0)
    np.save(tmp_path / "bands.npy", draw.integers(0, 4096, (32, 20, 20, 5), dtype=np.uint16))
    images = tmp_path / "bands.npy"
    with pytest.raises(UsageError, match=r"takes 3 channels and the images have 5; .*1,2,3,1,"):
        plan(tmp_path / "x.pth", images=images)
    found = plan(tmp_path / "x.pth", channels="3,2,1,1,1", images=images)
    expected = state["conv1.weight"][:, [2, 1, 0, 0, 0]]
    assert torch.equal(first_state(found)["encoder.backbone.conv1.weight"], expected)


def test_what_a_file_leaves_open_is_as_the_recipe_has_it(
    recipe: Recipe, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    strided = replace(recipe, encoder=replace(recipe.encoder, stem="strided"))
    made_backbone(3, strided, tmp_path / "x.pth")  # of a small stem it would look the same
    with pytest.raises(UsageError, match=r"here that is --set encoder.stem=STEM"):
        plan(tmp_path / "x.pth", recipe="small")
    for recipe_of, settings in ((strided, []), ("small", ["encoder.stem=strided"])):
        found = plan(tmp_path / "x.pth", recipe=recipe_of, settings=settings)
        assert (found.recipe.encoder.stem, found.recipe.encoder.width) == ("strided", 0.125)
    with pytest.raises(UsageError, match=r"here that is --set encoder.stem=STEM"):
        plan(tmp_path / "x.pth")  # whose first convolution is 7x7


@pytest.mark.parametrize("name", ["test_vit", "convnext_atto"])
def test_a_model_of_timm_is_named_with_its_file(
    name: str, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    model = timm.create_model(name, pretrained=False)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    found = plan(f"timm:{name}@{tmp_path / 'x.pth'}", recipe="small")
    assert found.recipe.encoder.backbone == name
    assert found.start is not None
    assert found.start.backbone is not None
    for tensor, value in found.start.backbone.items():
        assert torch.equal(value, model.state_dict()[tensor])
    assert (found.recipe.views.image_size == 160) == (name == "test_vit")
