"""A run's signals: read when they are due, equal to their definitions, and without effect."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import moco
from moco import vision_transformer
from moco.build import build_contrast
from moco.checkpoint import load_newest
from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.errors import UsageError
from moco.nonfinite import KeptBuffers
from moco.plan import Plan, make_plan
from moco.probe import Probe
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50, MOCO_V3_VIT_SMALL
from moco.signal_figures import leak_similarity
from moco.signals import SignalReader, images_in_group, thinned
from moco.training_step import TrainingStep
from moco.waiting import Waiting

VIT = [
    *("image_size=32", "evaluation_resize=32", "evaluation_size=32", "head_width=24", "dim=16"),
    *("token_drop=0.5", "batch_size=16", "epochs=1", "warmup_epochs=0"),
]


@pytest.fixture(params=["queue", "v3", "end_to_end", "memory_bank"])
def recipe(request: pytest.FixtureRequest, tiny_settings: list[str]) -> Recipe:
    if request.param == "v3":
        own = [
            *tiny_settings,
            "head_width=24",
            "batch_norm_groups=1",
            "epochs=2",
            "warmup_epochs=1",
        ]
        return set_fields(MOCO_V3_RESNET50, own)
    return set_fields(MOCO_V2, [*tiny_settings, f"mechanism={request.param}", "epochs=2"])


def run_of(photos: Path, recipe: Recipe, run: Path, every: int, **more: Any) -> Path:
    return moco.pretrain(
        photos, recipe=recipe, run=run, device="cpu", workers=0, signals_every=every, **more
    )


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "signals.jsonl").read_text().splitlines()]


def assert_same_end(run: Path, other: Path) -> None:
    first, second = load_newest(run), load_newest(other)
    assert first is not None
    assert second is not None
    for name, value in first.model.items():
        assert torch.equal(value, second.model[name]), name
    states = [each.train_state["cpu_random_state"] for each in (first, second)]
    assert torch.equal(*states)


def test_reading_them_changes_nothing_of_the_run(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    without = run_of(photos, recipe, tmp_path / "without", 0)
    read = run_of(photos, recipe, tmp_path / "read", 2)
    assert not (without / "signals.jsonl").exists()
    assert [row["step"] for row in rows_of(read)] == [0, 2, 4, 6]
    assert_same_end(without, read)


def test_reading_draws_no_random_numbers_of_the_runs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = set_fields(MOCO_V3_VIT_SMALL, VIT)
    shape = replace(vision_transformer.MOCO_V3_VITS["moco_v3_vit_small"], depth=1, width=24)
    monkeypatch.setitem(vision_transformer.MOCO_V3_VITS, "moco_v3_vit_small", shape)
    without = run_of(photos, recipe, tmp_path / "without", 0)
    read = run_of(photos, recipe, tmp_path / "read", 2)
    assert_same_end(without, read)
    assert rows_of(read)[0]["leak_ordered_top1"] is not None  # the head has batch norm


def test_they_are_read_half_way_through_every_fifty_steps() -> None:
    reader = SignalReader.__new__(SignalReader)
    reader.every = 50
    assert [step + 1 for step in range(240) if reader.is_due(step)] == [25, 75, 125, 175, 225]
    reader.every = 1
    assert all(reader.is_due(step) for step in range(5))


def test_a_negative_distance_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="signals_every must be from 0"):
        make_plan(photos, run=tmp_path / "run", device="cpu", signals_every=-1)


def made_plan(photos: Path, recipe: Recipe, every: int) -> Plan:
    return make_plan(
        photos, recipe=recipe, run="runs/none", device="cpu", workers=0, signals_every=every
    )


def made_views(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(count, 3, 16, 16, generator=draw) for _ in range(2))
    return first, (first + second) / 2, torch.arange(count) + 16 * (seed % 2)


def in_float64(contrast: Contrast, network: Any, view: Tensor, group_images: int) -> np.ndarray:
    """Encode each group by itself, in float64, with a copy of the network."""
    network = copy.deepcopy(network).double().train()
    for part in network.modules():
        if hasattr(part, "groups") and hasattr(part, "running_mean"):
            part.groups = 1
    with torch.no_grad():
        return torch.cat([network(part.double()) for part in view.split(group_images)]).numpy()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_each_signal_is_what_float64_gives(  # noqa: PLR0915  one after the other
    photos: Path, tiny_settings: list[str]
) -> None:
    recipe = set_fields(MOCO_V2, [*tiny_settings, "dictionary.size=40"])
    plan = made_plan(photos, recipe, every=4)
    contrast = build_contrast(recipe, images=64, seed=0).train()
    optimizer = torch.optim.SGD(contrast.encoder.parameters(), lr=0.05, fused=True)
    training = TrainingStep(contrast, optimizer, loss_scale=1.0)
    reader = SignalReader(plan, contrast, training.buffers)
    keys_at: dict[int, np.ndarray] = {}
    weights: list[np.ndarray] = []
    probe_a, probe_b, _ = made_views(16, 0)
    for step in range(14):
        view_a, view_b, image_ids = made_views(16, step)
        before = weights_of(contrast)
        training.take(view_a, view_b, image_ids, step, 0.9)
        moves = zip(weights_of(contrast), before, strict=True)
        weights = [after - earlier for after, earlier in moves]
        row = reader.after_step(step, view_a, view_b, image_ids)
        keys_at[step] = unit(in_float64(contrast, contrast.key_encoder, probe_b, 8))
        assert (row is not None) == (step in (1, 5, 9, 13))
    assert row is not None

    embeddings = unit(in_float64(contrast, contrast.encoder, probe_a, 8))
    keys = keys_at[13]
    near = {"abs": 2e-5}
    assert row["probe_images"] == 16
    assert row["alignment"] == pytest.approx(((embeddings - keys) ** 2).sum(1).mean(), **near)
    pairs = np.array(
        [
            ((embeddings[i] - embeddings[j]) ** 2).sum()
            for i in range(16)
            for j in range(16)
            if i != j
        ]
    )
    assert row["uniformity"] == pytest.approx(np.log(np.exp(-2 * pairs).mean()), **near)
    deviation = embeddings.std(axis=0).mean() * np.sqrt(16)
    assert row["feature_deviation"] == pytest.approx(deviation, **near)
    values = np.linalg.svd(embeddings, compute_uv=False)
    shares = values / values.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    assert row["effective_rank"] == pytest.approx(rank, abs=1e-3)
    assert row["effective_rank_most"] == 16

    gradients = [w.grad.double().numpy().ravel() for w in contrast.encoder.parameters()]
    norm = np.linalg.norm(np.concatenate(gradients))
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    moved = np.linalg.norm(np.concatenate(weights)) / np.linalg.norm(np.concatenate(before))
    assert row["weight_change"] == pytest.approx(moved, rel=1e-4)
    theta = [w.detach().double().numpy().ravel() for w in contrast.encoder.parameters()]
    slow = [w.detach().double().numpy().ravel() for w in contrast.key_encoder.parameters()]
    theta, slow = np.concatenate(theta), np.concatenate(slow)
    drift = np.linalg.norm(theta - slow) / np.linalg.norm(theta)
    assert row["key_drift"] == pytest.approx(drift, rel=1e-5)

    assert [age for age, _ in row["consistency"]] == [2, 4, 6, 8, 10]
    for age, cosine in row["consistency"]:
        expected = (keys_at[13 - age] * keys).sum(1).mean()
        assert cosine == pytest.approx(expected, **near), age

    queue = contrast.dictionary
    assert isinstance(queue, Queue)
    ids = queue.image_ids.numpy()
    assert row["oldest_key_steps"] == 3
    assert row["oldest_key_epochs"] == 3 / 4
    assert row["queue_filled"] == 1
    # step 13 has the images 16 to 31, of which steps 11 and 13 left keys among the newest 40
    met = np.mean([(ids == image).sum() for image in range(16, 32)]) - 1
    assert row["same_image_keys"] == pytest.approx(met)
    assert met > 0

    order = np.arange(16).reshape(2, 8).T.ravel()
    shuffled = unit(in_float64(contrast, contrast.key_encoder, probe_b[order], 8))[order.argsort()]
    for name, found in (("leak_ordered_top1", keys), ("leak_shuffled_top1", shuffled)):
        firsts = []
        for image in range(16):
            others = queue.keys.double().numpy()[ids != image]
            own = embeddings[image] @ found[image]
            firsts.append(own > (others @ embeddings[image]).max())
        assert row[name] == np.mean(firsts), name
    cosines, group = embeddings @ keys.T, np.arange(16) // 8
    same = group[:, None] == group
    beside = cosines[same & ~np.eye(16, dtype=bool)].mean()
    assert row["leak_similarity"] == pytest.approx(beside - cosines[~same].mean(), **near)


def test_a_probe_takes_whole_groups_and_deals_them_over_one_another() -> None:
    views = made_views(16, 0)
    probe = Probe(*views, group_images=4)
    assert torch.equal(probe.view_a, views[0])
    assert probe.dealt_order().tolist() == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    assert len(Probe(*made_views(300, 0), group_images=32).image_ids) == 64
    assert len(Probe(*made_views(100, 0), group_images=10).image_ids) == 30
    assert Probe(*views, group_images=16).group_images == 8
    with pytest.raises(ValueError, match="needs 4 images"):
        Probe(*made_views(3, 0), group_images=3)


class TellsItsGroup(torch.nn.Module):
    """An encoder that gives away beside which images a view was encoded, as a leak does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)  # only there to be found

    def forward(self, view: Tensor) -> Tensor:
        group = view.mean(dim=(0, 2, 3), keepdim=True) - 0.5
        own = 0.02 * (view.mean(dim=(2, 3)) - 0.5)
        return torch.cat([group.expand(len(view), 3, 1, 1).flatten(1), own], dim=1)


def test_the_leak_probe_shows_an_encoder_that_tells_its_group() -> None:
    view_a, view_b, image_ids = made_views(16, 0)
    probe = Probe(view_a, view_b, image_ids, group_images=4)
    contrast = Contrast(TellsItsGroup(), Queue(8, 6), temperature=0.1)
    encoded = probe.encode(contrast, KeptBuffers(contrast, beside=contrast.dictionary))
    assert leak_similarity(encoded.queries, encoded.keys, probe.same_group()) > 0.1
    assert encoded.shuffled_keys is not None
    own = F.cosine_similarity(encoded.queries, encoded.keys).mean()
    moved = F.cosine_similarity(encoded.queries, encoded.shuffled_keys).mean()
    assert own > moved + 0.1


def test_images_in_a_group_are_those_of_one_process() -> None:
    assert images_in_group(MOCO_V2) == 256 // MOCO_V2.batch_norm_groups
    assert images_in_group(MOCO_V3_RESNET50) == 4096


def test_kept_keys_are_thinned_where_they_are_old() -> None:
    kept = [(step, torch.zeros(1)) for step in range(41)]
    steps = [step for step, _ in thinned(kept, 40)]
    assert steps == [*range(0, 20, 2), *range(20, 41)]
    assert len(thinned(kept[:40], 40)) == 40


def test_waiting_counts_all_but_the_first_batch_and_closes_what_it_reads() -> None:
    closed = []

    def batches() -> Generator[int, None, None]:
        try:
            time.sleep(0.6)
            yield 0
            for number in (1, 2):
                time.sleep(0.05)
                yield number
        finally:
            closed.append(True)

    waiting = Waiting(torch.device("cpu"))
    assert list(waiting.over(batches())) == [0, 1, 2]
    assert 0.1 <= waiting.take() < 0.55
    assert waiting.take() == 0
    stream = waiting.over(batches())
    next(stream)
    stream.close()
    assert closed == [True, True]


def test_an_idle_device_alone_counts_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting(torch.device("cpu"))
    monkeypatch.setattr(Waiting, "_is_idle", lambda _: False)
    list(waiting.over(number for number in range(3)))
    assert waiting.take() == 0


def test_rows_of_steps_that_are_taken_again_are_dropped(
    photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    recipe = set_fields(MOCO_V2, [*tiny_settings, "epochs=2"])
    run = run_of(photos, recipe, tmp_path / "run", 2)
    rows = rows_of(run)
    (run / "signals.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {**rows[-1], "step": 8}]) + '{"step": 9'
    )
    longer = set_fields(recipe, ["epochs=4"])
    run_of(photos, longer, run, 2)
    steps = [row["step"] for row in rows_of(run)]
    assert steps == [0, 2, 4, 6, 8, 10, 12, 14]
    assert json.loads((run / "status.json").read_text())["images"] == 64


def weights_of(contrast: Contrast) -> list[np.ndarray]:
    matrices = [w for w in contrast.encoder.parameters() if w.ndim > 1]
    return [w.detach().double().numpy().ravel().copy() for w in matrices]
