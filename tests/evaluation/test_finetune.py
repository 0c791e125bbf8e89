"""Fine-tuning learns, chooses on held-out images alone, and is a function of its seed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco.data.images import Pixels, UnreadableImageError
from moco.errors import DataError, DivergedError, UsageError
from moco.evaluation import finetune as module
from moco.evaluation import finetune_training as training_module
from moco.evaluation.features import extract_features
from moco.evaluation.finetune import FinetuneResult, finetune, held_out_rows, random_backbone
from moco.evaluation.finetune_spec import FROM_SCRATCH, FinetuneSpec
from moco.evaluation.labelled_part import LabelledPart
from moco.evaluation.linear import linear_class_scores
from moco.specs import EncoderSpec, ViewsSpec

CLASSES = ("dots", "rings", "bars")
ENCODER = EncoderSpec(backbone="resnet18", width=0.125, stage_blocks=(1, 1, 1, 1), stem="small")
VIEWS = ViewsSpec(
    image_size=16,
    order=("crop", "jitter", "horizontal_flip"),
    crop_scale=(0.6, 1.0),
    evaluation_resize=16,
    evaluation_size=16,
    channels=1,
    mean=(0.3,),
    std=(0.3,),
)
QUICK = replace(FROM_SCRATCH, epochs=6, fewest_steps=0, warmup_epochs=1.0, batch_size=32)


class Shapes:
    """Grey images [16, 16, 1] of shapes anywhere, in noise: no pixel tells the class."""

    def __init__(self, count: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.numbers = np.arange(count) % 3
        rows, columns = np.mgrid[:16, :16]
        self.pixels = []
        for label in self.numbers:
            top, left = draw.uniform(4, 12, 2)
            away = np.hypot(rows - top, columns - left)
            shape = (away < 2.2, abs(away - 3.2) < 0.8, abs(rows - top) < 1)[label]
            levels = 60 + 150 * shape + draw.normal(0, 25, (16, 16))
            self.pixels.append(np.clip(levels, 0, 255).astype(np.uint8)[:, :, None])
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, image_id: int) -> str:
        return f"{CLASSES[self.numbers[image_id]]}/{image_id}.png"

    def read(self, image_id: int) -> Pixels:
        if image_id in self.broken:
            raise UnreadableImageError("is torn")
        return self.pixels[image_id]


def shapes(count: int, seed: int) -> LabelledPart:
    images = Shapes(count, seed)
    return LabelledPart(images, torch.from_numpy(images.numbers), CLASSES)


TRAIN, TEST = shapes(240, 0), shapes(150, 1)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return random_backbone(ENCODER, VIEWS, seed=0)


def tuned(
    backbone: nn.Module, spec: FinetuneSpec = QUICK, *, train=TRAIN, test=TEST, **more: Any
) -> FinetuneResult:
    return finetune(backbone, train, test, spec, views=VIEWS, **more)


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_it_learns_what_frozen_features_do_not_tell(backbone: nn.Module) -> None:
    found = tuned(backbone, replace(QUICK, epochs=15))
    rows = [
        extract_features(backbone, part, VIEWS, device=torch.device("cpu")).rows
        for part in (TRAIN, TEST)
    ]
    votes = linear_class_scores(rows[0], TRAIN.labels, rows[1], classes=3)
    frozen = float((votes.argmax(dim=1) == TEST.labels).float().mean())
    assert found.measure == "top1"
    assert found.score.value > 0.85
    assert found.score.value > frozen + 0.1
    assert found.score.low < found.score.value < found.score.high
    assert found.history[-1].loss < found.history[0].loss
    assert (found.train_images, found.validation_images) == (192, 48)


def test_the_backbone_given_and_the_random_state_stay_as_they_are(backbone: nn.Module) -> None:
    before, random_state = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    found = tuned(backbone, replace(QUICK, epochs=1))
    assert same_weights(before, backbone.state_dict())
    assert torch.equal(random_state, torch.get_rng_state())
    moved = {name.removeprefix("backbone."): value for name, value in found.weights.items()}
    assert not torch.equal(moved["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(moved["layer4.0.conv2.weight"], before["layer4.0.conv2.weight"])


def test_the_same_seed_is_the_same_to_the_bit_and_another_is_not(backbone: nn.Module) -> None:
    spec = replace(QUICK, epochs=2, mixup=0.5, cutmix=0.5, erase=0.3)
    one, again = tuned(backbone, spec, seed=3), tuned(backbone, spec, seed=3)
    other = tuned(backbone, spec, seed=4)
    assert same_weights(one.weights, again.weights)
    assert one.history == again.history
    assert torch.equal(one.votes, again.votes)
    assert not same_weights(one.weights, other.weights)


def test_held_out_images_are_a_share_of_each_class_and_never_trained_on(
    backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.tensor([0] * 60 + [1] * 40 + [2] * 25)
    part = LabelledPart(Shapes(125, 0), labels, CLASSES)
    held_out = held_out_rows(part, 0.2, seed=0)
    assert labels[held_out].bincount().tolist() == [12, 8, 5]
    assert torch.equal(held_out, held_out_rows(part, 0.2, seed=0))
    assert not torch.equal(held_out, held_out_rows(part, 0.2, seed=1))
    assert not held_out_rows(part, 0.0, seed=0).any()
    few = LabelledPart(part.images, labels[:-1], CLASSES)  # 24 of the last class
    assert not held_out_rows(few, 0.2, seed=0).any()
    read: list[str] = []
    plain = training_module.EpochBatches.__getitem__

    def spy(batches: Any, place: int) -> Any:
        batch = plain(batches, place)
        read.extend(batches.images.name(image_id) for image_id in batch.image_ids.tolist())
        return batch

    monkeypatch.setattr(training_module.EpochBatches, "__getitem__", spy)
    tuned(backbone, replace(QUICK, epochs=2))
    chosen = {TRAIN.name(row) for row in held_out_rows(TRAIN, 0.2, 0).nonzero().flatten().tolist()}
    assert len(chosen) == 48
    assert sorted(set(read)) == sorted({TRAIN.name(row) for row in range(240)} - chosen)
    assert len(read) == 2 * 192  # each image once an epoch


def test_no_test_label_chooses_anything(backbone: nn.Module) -> None:
    """Shuffled test labels change the score and nothing else; test images are read once."""
    order = torch.randperm(len(TEST), generator=torch.Generator().manual_seed(0))
    shuffled = LabelledPart(TEST.images, TEST.labels[order], CLASSES)
    spec = replace(QUICK, epochs=5)
    honest, blind = tuned(backbone, spec), tuned(backbone, spec, test=shuffled)
    assert same_weights(honest.weights, blind.weights)
    assert (honest.best_epoch, honest.history) == (blind.best_epoch, blind.history)
    assert torch.equal(honest.votes, blind.votes)
    assert honest.score != blind.score


def scored_as(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[dict[str, Tensor]]:
    """Let the epochs' validation scores be these; return a list of the weights at each epoch."""
    seen: list[dict[str, Tensor]] = []
    plain = training_module.judge

    def spy(training: Any, *rest: Any) -> None:
        seen.append(copy.deepcopy(training.encoder.state_dict()))
        plain(training, *rest)

    monkeypatch.setattr(module, "judge", spy)
    rest = iter(scores)
    monkeypatch.setattr(training_module, "measured", lambda *_: next(rest))
    return seen


def test_the_best_epochs_weights_are_kept_and_it_stops_without_a_better_one(
    backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scored_as(monkeypatch, [0.2, 0.6, 0.5, 0.4, 0.3, 0.9])
    found = tuned(backbone, replace(QUICK, patience=3))
    assert (found.best_epoch, found.epochs, found.planned_epochs) == (2, 5, 6)
    assert same_weights(found.weights, seen[1])
    assert not same_weights(found.weights, seen[-1])
    assert [figures.validation_score for figures in found.history] == [0.2, 0.6, 0.5, 0.4, 0.3]
    encoder_votes = found.votes  # of the kept weights, not of the last ones
    again = tuned_votes(backbone, found.weights)
    torch.testing.assert_close(encoder_votes, again)


def tuned_votes(backbone: nn.Module, weights: dict[str, Tensor]) -> Tensor:
    """Return the votes of a network with these weights, built apart."""
    network = nn.ModuleDict({"backbone": copy.deepcopy(backbone), "head": nn.Linear(64, 3)})
    network.load_state_dict(weights)
    rows = extract_features(network["backbone"], TEST, VIEWS, device=torch.device("cpu")).rows
    return network["head"](rows).softmax(dim=1).detach()


def test_equal_scores_are_told_apart_by_the_loss(
    backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored_as(monkeypatch, [0.5] * 6)
    found = tuned(backbone, replace(QUICK, patience=0))
    losses = [figures.validation_loss for figures in found.history]
    assert found.best_epoch == losses.index(min(loss for loss in losses if loss is not None)) + 1


def test_with_few_of_a_class_none_is_held_out_and_the_last_epoch_kept(backbone: nn.Module) -> None:
    few = shapes(12, 2)  # four of each class
    found = tuned(backbone, replace(QUICK, epochs=2, fewest_steps=7), train=few)
    assert (found.train_images, found.validation_images) == (12, 0)
    assert (found.best_epoch, found.epochs) == (7, 7)  # a step an epoch
    assert all(figures.validation_score is None for figures in found.history)


class InMemory:
    """Keeps the state, and stops the training after some epochs."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after, self.kept, self.calls = stop_after, None, 0

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.kept)

    def keep(self, state: dict[str, Any]) -> None:
        self.kept = copy.deepcopy(state)
        self.calls += 1
        if self.calls == self.stop_after:
            raise KeyboardInterrupt


def test_a_stopped_training_goes_on_as_if_it_had_not(backbone: nn.Module) -> None:
    spec = replace(QUICK, epochs=4, mixup=0.4)
    whole = tuned(backbone, spec)
    keeper = InMemory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        tuned(backbone, spec, keeper=keeper)
    resumed = tuned(backbone, spec, keeper=keeper)
    assert keeper.calls == 4
    assert same_weights(resumed.weights, whole.weights)
    assert resumed.history == whole.history
    assert resumed.score == whole.score


def rates_used(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Return a list that fills with the groups' rates at each step."""
    seen: list[list[float]] = []
    plain: Callable[..., Any] = torch.optim.AdamW.step

    def spy(optimizer: Any, *rest: Any) -> Any:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return plain(optimizer, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    return seen


def test_rates_rise_and_fall_and_are_lower_near_the_pixels(
    backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = rates_used(monkeypatch)
    spec = replace(QUICK, epochs=6, warmup_epochs=2.0, layer_decay=0.5, learning_rate=0.01)
    found = tuned(backbone, replace(spec, patience=0))
    of_head = [max(rates) for rates in seen]
    assert len(of_head) == 6 * 6
    assert of_head[0] == pytest.approx(0.01 * 0.5 / 12)
    assert of_head.index(max(of_head)) in (11, 12)
    assert 0 < of_head[-1] < 1e-4
    assert seen[7][0] == pytest.approx(of_head[7] / 32)
    assert found.rates == pytest.approx(
        {
            "stem": 0.01 / 32,
            "layer1": 0.01 / 16,
            "layer2": 0.01 / 8,
            "layer3": 0.01 / 4,
            "layer4": 0.01 / 2,
            "head": 0.01,
        }
    )


def test_images_that_cannot_be_read_are_left_out_and_named(backbone: nn.Module) -> None:
    train, test = shapes(60, 3), shapes(30, 4)
    train.images.broken, test.images.broken = {7}, {4, 5}  # type: ignore[attr-defined]
    spec = replace(QUICK, epochs=1, validation_share=0.0)
    found = tuned(backbone, spec, train=train, test=test)
    assert {name for name, _ in found.skipped} == {
        train.name(7),
        test.name(4),
        test.name(5),
    }
    assert found.test_ids.tolist() == [row for row in range(30) if row not in (4, 5)]
    assert len(found.votes) == 28


def test_what_cannot_be_is_refused(backbone: nn.Module) -> None:
    with pytest.raises(DataError, match="different classes"):
        tuned(backbone, test=replace(TEST, classes=("a", "b", "c")))
    with pytest.raises(UsageError, match="roc_auc does not fit these labels"):
        tuned(backbone, measure="roc_auc")
    with pytest.raises(DivergedError, match="lower the learning rate"):
        tuned(backbone, replace(QUICK, learning_rate=1e30, warmup_epochs=0.0))


def test_a_vit_trains_with_all_that_v3s_recipe_asks_for() -> None:
    vit = random_backbone(EncoderSpec(backbone="moco_v3_vit_small"), VIEWS, seed=0)
    spec = replace(QUICK, epochs=1, mixup=0.8, cutmix=1.0, erase=0.25, drop_path=0.1)
    found = tuned(vit, replace(spec, layer_decay=0.75), train=shapes(30, 5), test=shapes(9, 6))
    assert found.rates["patch_embed"] == pytest.approx(1e-3 * 0.75**13)
    moved = found.weights["backbone.pos_embed"] - vit.state_dict()["pos_embed"]
    assert float(moved.abs().max()) > 0  # fixed in pre-training, trained here
