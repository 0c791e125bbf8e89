"""The papers' linear probe: equal to a plain transcription, and blind to what it must not see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from moco.data.images import Pixels, UnreadableImageError
from moco.data.order import Order
from moco.data.views import normalize
from moco.errors import ChangedNetworkError, DataError, DivergedError
from moco.evaluation import linear_training
from moco.evaluation.features import extract_features
from moco.evaluation.finetune import random_backbone
from moco.evaluation.finetune_training import Compute
from moco.evaluation.labelled_part import LabelledPart
from moco.evaluation.linear_files import ProbeFile, probe_fingerprint
from moco.evaluation.linear_official import OfficialLinearResult, official_linear
from moco.evaluation.linear_protocols import LINEAR_V1_V2, LINEAR_V3_RESNET, Sides, with_changes
from moco.evaluation.train_batches import EpochBatches, load_epoch, whole_views
from moco.specs import EncoderSpec, ViewsSpec

CPU = torch.device("cpu")
CLASSES = tuple(str(digit) for digit in range(10))
ENCODER = EncoderSpec(backbone="resnet18", width=0.125, stage_blocks=(1, 1, 1, 1), stem="small")
VIEWS = ViewsSpec(
    image_size=16,
    order=("crop", "jitter", "horizontal_flip"),
    evaluation_resize=16,
    evaluation_size=16,
    channels=1,
    mean=(0.3,),
    std=(0.4,),
)
V1 = replace(with_changes(LINEAR_V1_V2, epochs=5, batch_size=32), sides=Sides(16, 16, 16))
V3 = replace(with_changes(LINEAR_V3_RESNET, epochs=3, batch_size=32), sides=Sides(16, 20, 16))
GENTLE = replace(V3, learning_rate=1.0, epochs=10, crop_scale=(0.6, 1.0))
"""With it some digits are learnt."""
ROWS = 3 * 32 + 11  # a last batch of 11


class Digits:
    """Photographed handwritten digits [8, 8, 1], scikit-learn's."""

    def __init__(self, first: int, end: int) -> None:
        found = load_digits()
        self.pixels = (found.images[first:end] * 15).astype(np.uint8)[:, :, :, None]
        self.numbers = found.target[first:end]
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, image_id: int) -> str:
        return f"{self.numbers[image_id]}/{image_id}.png"

    def read(self, image_id: int) -> Pixels:
        if image_id in self.broken:
            raise UnreadableImageError("is torn")
        return self.pixels[image_id]


def digits(first: int, end: int) -> LabelledPart:
    images = Digits(first, end)
    return LabelledPart(images, torch.from_numpy(images.numbers), CLASSES)


TRAIN, MANY, TEST = digits(0, ROWS), digits(0, 400), digits(1000, 1200)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    """Return a network whose batch norm has seen these images, still in train mode."""
    network = random_backbone(ENCODER, VIEWS, seed=0).train()
    pixels = torch.from_numpy(TRAIN.images.pixels).permute(0, 3, 1, 2)  # type: ignore[attr-defined]
    for _ in range(20):
        network(normalize(pixels, VIEWS))
    return network


def probed(
    backbone: nn.Module, protocol=V1, *, train=TRAIN, test=TEST, **more: Any
) -> OfficialLinearResult:
    return official_linear(backbone, train, test, protocol, views=VIEWS, **more)


def transcribed(
    backbone: nn.Module, rates: list[float], *, sides: Sides, seed: int
) -> tuple[Tensor, Tensor, list[float]]:
    """Return weight, bias and each epoch's mean loss of the papers' loop in plain arithmetic."""
    network = copy.deepcopy(backbone).eval()
    views = replace(
        VIEWS, order=("crop", "horizontal_flip"), crop_scale=(0.08, 1), image_size=sides.train
    )
    weight = torch.empty(10, 64).normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
    bias, speeds, means = torch.zeros(10), [torch.zeros(10, 64), torch.zeros(10)], []
    for epoch, rate in enumerate(rates):
        (all_of_it,) = load_epoch(
            EpochBatches(TRAIN, views, batch_size=ROWS, seed=seed, epoch=epoch), workers=0
        )
        pixels = torch.empty(ROWS, 1, sides.train, sides.train, dtype=torch.uint8)
        pixels[all_of_it.image_ids] = whole_views(all_of_it, views, CPU)
        order = Order(np.array([ROWS]), seed=seed).images_at(epoch, np.arange(ROWS))
        losses = []
        for first in range(0, ROWS, 32):
            ids = torch.from_numpy(order[first : first + 32])
            with torch.no_grad():
                rows = network((pixels[ids] / 255 - 0.3) / 0.4)
            logs = (rows @ weight.T + bias).log_softmax(dim=1)
            places = torch.arange(len(ids))
            losses += (-logs[places, TRAIN.labels[ids]]).tolist()
            slope = logs.exp()
            slope[places, TRAIN.labels[ids]] -= 1
            slopes = slope.T @ rows / len(ids), slope.mean(dim=0)
            speeds = [0.9 * speed + new for speed, new in zip(speeds, slopes, strict=True)]
            weight, bias = weight - rate * speeds[0], bias - rate * speeds[1]
        means.append(sum(losses) / ROWS)
    return weight, bias, means


@pytest.mark.parametrize(
    ("protocol", "rates"),
    [
        (V1, [30.0, 30.0, 30.0, 3.0, 0.3]),
        (V3, [0.1 * 32 / 256 * share for share in (1, 0.75, 0.25)]),
    ],
    ids=["v1", "v3"],
)
def test_it_is_the_papers_loop(backbone: nn.Module, protocol, rates: list[float]) -> None:
    found = probed(backbone, protocol, seed=3)
    weight, bias, losses = transcribed(backbone, rates, sides=protocol.sides, seed=3)
    torch.testing.assert_close(found.weight, weight, rtol=1e-4, atol=1e-4 * float(weight.std()))
    torch.testing.assert_close(found.bias, bias, rtol=1e-4, atol=1e-4 * float(bias.std()))
    assert [figures.loss for figures in found.history] == pytest.approx(losses, rel=1e-4)
    assert [figures.learning_rate for figures in found.history] == pytest.approx(rates)
    asked = extract_features(backbone, TEST, protocol.test_views(VIEWS), device=CPU)
    votes = (asked.rows @ weight.T + bias).softmax(dim=1)
    torch.testing.assert_close(found.votes, votes, rtol=0, atol=1e-2)  # logits of hundreds
    right = (votes.argmax(dim=1) == TEST.labels).double().mean()
    assert found.top1.value == pytest.approx(float(right), abs=1e-6)
    assert found.top1.low < found.top1.value < found.top1.high
    assert found.scores["top1"] == pytest.approx(found.top1.value, abs=1e-6)


def test_no_image_is_dropped_and_the_last_batch_is_what_is_left(
    backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, seen = [], []
    plain = EpochBatches.__getitem__

    def spy(batches: Any, place: int) -> Any:
        batch = plain(batches, place)
        sizes.append(len(batch.image_ids))
        seen.extend(batch.image_ids.tolist())
        return batch

    monkeypatch.setattr(EpochBatches, "__getitem__", spy)
    found = probed(backbone, replace(V1, epochs=2))
    assert sizes == [32, 32, 32, 11] * 2
    assert sorted(seen) == sorted(2 * list(range(ROWS)))
    assert seen[:ROWS] != seen[ROWS:]  # in another order
    assert found.train_images == ROWS


def test_the_network_and_the_random_state_stay_as_they_are(backbone: nn.Module) -> None:
    before, random_state = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    assert backbone.training
    probed(backbone, replace(V1, epochs=1))
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() | after.keys())
    assert backbone.training
    assert all(weight.requires_grad for weight in backbone.parameters())
    assert torch.equal(random_state, torch.get_rng_state())


class Restless(nn.Module):
    """Changes something of the network inside when it has looked at so many batches."""

    def __init__(self, inside: nn.Module, change: Callable[[Any], object], batches: int) -> None:
        super().__init__()
        self.inside, self.change, self.batches = inside, change, batches
        self.num_features = 64

    def forward(self, pixels: Tensor) -> Tensor:
        self.batches -= 1
        if self.batches == 0:
            with torch.no_grad():
                self.change(self.inside)
        return self.inside(pixels)


def one_bit(weight: Tensor) -> None:
    weight.view(-1)[:1].view(torch.int32).bitwise_xor_(1)


CHANGES = {
    "conv1.weight": lambda network: one_bit(network.conv1.weight.data),
    "bn1.running_mean": lambda network: one_bit(network.bn1.running_mean),
    "bn1.num_batches_tracked": lambda network: network.bn1.num_batches_tracked.add_(1),
}


@pytest.mark.parametrize(
    ("batches", "when", "told"),
    [(1, "after the first epoch", 0), (4, "after the first epoch", 0), (9, "at the end", 2)],
)
@pytest.mark.parametrize("name", CHANGES)
def test_one_bit_of_the_network_that_moves_makes_the_probe_fail(
    backbone: nn.Module, name: str, batches: int, when: str, told: int
) -> None:
    """A look at the test images, then four batches an epoch."""
    restless = Restless(copy.deepcopy(backbone), CHANGES[name], batches + 1)
    told_of: list[Any] = []
    with pytest.raises(ChangedNetworkError, match=f"{when}: inside.{name} changed"):
        probed(restless, replace(V1, epochs=2), report=told_of.append)
    assert len(told_of) == told


def test_no_test_label_moves_the_layer(backbone: nn.Module) -> None:
    order = torch.randperm(len(TEST), generator=torch.Generator().manual_seed(0))
    honest = probed(backbone)
    blind = probed(backbone, test=LabelledPart(TEST.images, TEST.labels[order], CLASSES))
    assert torch.equal(honest.weight, blind.weight)
    assert torch.equal(honest.votes, blind.votes)
    assert honest.top1 != blind.top1


def test_the_last_epoch_is_quoted_and_the_best_on_test_images_is_beside_it(
    backbone: nn.Module,
) -> None:
    """The labels are what the layer answers after the fourth epoch, so that is the best one."""
    steady = replace(GENTLE, schedule="step", epochs=4)
    answers = probed(backbone, steady, train=MANY).votes.argmax(dim=1)
    assert int(answers.bincount().max()) < 0.7 * len(answers)
    told = LabelledPart(TEST.images, answers, CLASSES)
    found = probed(backbone, replace(steady, epochs=6), train=MANY, test=told)
    values = [figures.test_top1 for figures in found.history]
    assert (found.best_top1, found.best_epoch, values[3]) == (1.0, 4, 1.0)
    assert found.top1.value == pytest.approx(values[-1], abs=1e-6)
    assert found.top1.value < 0.9
    assert "the last epoch, 6, is quoted" in found.warning
    assert "here epoch 4 with 100.00 %: optimistic" in found.warning


def test_it_learns_digits(backbone: nn.Module) -> None:
    found = probed(backbone, GENTLE, train=MANY)
    assert found.top1.low > 0.4
    assert found.history[-1].loss < found.history[0].loss
    assert found.history[-1].train_top1 > found.history[0].train_top1
    assert found.seconds > 0
    assert found.cpu_seconds > 0


class InMemory:
    """Keeps the state, and stops the probe after some epochs."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after, self.kept, self.calls = stop_after, None, 0

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.kept)

    def keep(self, state: dict[str, Any]) -> None:
        self.kept, self.calls = copy.deepcopy(state), self.calls + 1
        if self.calls == self.stop_after:
            raise KeyboardInterrupt


def test_a_stopped_probe_goes_on_as_if_it_had_not(backbone: nn.Module) -> None:
    whole, keeper = probed(backbone), InMemory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        probed(backbone, keeper=keeper)
    resumed = probed(backbone, keeper=keeper)
    assert keeper.calls == 5
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.votes, whole.votes)
    assert resumed.history == whole.history


def test_what_could_not_be_read_before_a_stop_is_still_told(
    backbone: nn.Module, tmp_path: Path
) -> None:
    train = digits(0, ROWS)
    train.images.broken = {5}  # type: ignore[attr-defined]
    of_this = probe_fingerprint(backbone, train, TEST, V1, views=VIEWS, seed=0)
    whole = probed(backbone, train=train, keeper=ProbeFile(tmp_path, of_this))
    again = probed(backbone, train=train, keeper=ProbeFile(tmp_path, of_this))
    assert again.skipped == whole.skipped == (("5/5.png", "is torn"),)
    assert torch.equal(again.weight, whole.weight)
    assert again.history == whole.history
    other = replace(VIEWS, mean=(0.2,))
    assert of_this != probe_fingerprint(backbone, train, TEST, V1, views=other, seed=0)


def test_images_that_cannot_be_read_are_named_and_left_out(backbone: nn.Module) -> None:
    train, test = digits(0, ROWS), digits(1000, 1200)
    train.images.broken, test.images.broken = {5}, {7, 8}  # type: ignore[attr-defined]
    found = probed(backbone, replace(V1, epochs=1), train=train, test=test)
    assert sorted(reason for _, reason in found.skipped) == ["is torn"] * 3
    assert len(found.votes) == len(found.test_ids) == 198
    train.images.broken = set(range(ROWS))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=f"none of the {ROWS} images can be read"):
        probed(backbone, train=train)


def test_what_cannot_be_probed_is_refused(backbone: nn.Module) -> None:
    others = LabelledPart(TEST.images, TEST.labels, tuple(reversed(CLASSES)))
    with pytest.raises(DataError, match="different classes"):
        probed(backbone, test=others)
    for labels in (TRAIN.labels.double(), nn.functional.one_hot(TRAIN.labels).bool()):
        with pytest.raises(DataError, match="one class an image"):
            probed(backbone, train=LabelledPart(TRAIN.images, labels, CLASSES))
    with pytest.raises(DivergedError, match="epoch 1; lower the learning rate"):
        probed(backbone, replace(V1, learning_rate=1e38))


def test_it_computes_in_bfloat16_where_told(backbone: nn.Module) -> None:
    short = replace(V3, epochs=1)
    exact = probed(backbone, short)
    rough = probed(backbone, short, compute=Compute(precision=torch.bfloat16))
    assert rough.weight.dtype == torch.float32
    assert not torch.equal(rough.weight, exact.weight)
    torch.testing.assert_close(rough.weight, exact.weight, rtol=0.1, atol=0.01)


def test_test_images_are_looked_at_once(
    backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    plain = Digits.read

    def spy(images: Digits, image_id: int) -> Pixels:
        if len(images) == len(TEST):
            reads.append(image_id)
        return plain(images, image_id)

    monkeypatch.setattr(Digits, "read", spy)
    monkeypatch.setattr(linear_training, "TEST_ROWS", 64)  # in parts
    probed(backbone, replace(V1, epochs=3))
    assert sorted(reads) == list(range(len(TEST)))
