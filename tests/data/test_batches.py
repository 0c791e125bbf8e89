from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.data.batches import Batch, Batches, load_batches, seeded_view
from moco.data.images import FolderImages, SequenceImages, UnreadableImageError
from moco.data.views import build_view
from moco.errors import DataError
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50

VIEWS = replace(MOCO_V2.views, image_size=12)
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 15, 18, 3), dtype=np.uint8)


class MadeImages:
    """Fifty images in memory, some of which cannot be read."""

    def __init__(self, count: int = 50, bad: Sequence[int] = ()) -> None:
        self.count, self.bad = count, set(bad)

    def __len__(self) -> int:
        return self.count

    def name(self, image_id: int) -> str:
        return f"{image_id}.png"

    def read(self, image_id: int) -> Image.Image:
        if image_id in self.bad:
            raise UnreadableImageError(f"bad {image_id}")
        return Image.fromarray(PIXELS[image_id])


def batches_of(images: MadeImages | FolderImages, *, batch_size: int = 8, seed: int = 0) -> Batches:
    return Batches(images, VIEWS, batch_size=batch_size, seed=seed)


def assert_same(one: Batch, other: Batch) -> None:
    assert one.step == other.step
    assert torch.equal(one.image_ids, other.image_ids)
    assert torch.equal(one.view_a, other.view_a)
    assert torch.equal(one.view_b, other.view_b)
    assert one.skipped == other.skipped


def test_a_batch_has_two_uint8_views_of_each_image() -> None:
    batch = batches_of(MadeImages())[3]
    assert batch.step == 3
    for view in (batch.view_a, batch.view_b):
        assert view.shape == (8, 3, 12, 12)
        assert view.dtype == torch.uint8
    assert batch.image_ids.shape == (8,)
    assert batch.image_ids.dtype == torch.int64
    differs = (batch.view_a != batch.view_b).flatten(1).any(dim=1)
    assert bool(differs.all())


@pytest.mark.parametrize(("count", "batch_size"), [(50, 8), (48, 8), (50, 50), (7, 2)])
def test_each_epoch_shows_each_image_at_most_once_and_drops_the_rest(
    count: int, batch_size: int
) -> None:
    batches = batches_of(MadeImages(count), batch_size=batch_size)
    steps = count // batch_size
    assert batches.steps_per_epoch == steps
    left_out = set()
    for epoch in range(4):
        seen = [
            int(image_id)
            for step in range(epoch * steps, (epoch + 1) * steps)
            for image_id in batches[step].image_ids
        ]
        assert len(seen) == len(set(seen)) == steps * batch_size
        assert set(seen) <= set(range(count))
        left_out |= set(range(count)) - set(seen)
    assert len(left_out) > count % batch_size or not count % batch_size  # not always the same ones


def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch_only() -> None:
    one, other = batches_of(MadeImages()), batches_of(MadeImages(), batch_size=5)
    for epoch in (3, 0, 7):
        order = one.order(epoch)
        assert sorted(order) == list(range(50))
        assert np.array_equal(order, other.order(epoch))
    assert not np.array_equal(one.order(0), one.order(1))
    assert not np.array_equal(one.order(0), batches_of(MadeImages(), seed=1).order(0))
    assert not np.array_equal(one.order(0), np.arange(50))


def test_views_change_with_the_epoch_and_the_seed() -> None:
    views = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            batches = batches_of(MadeImages(), seed=seed)
            views[seed, epoch] = batches.views_of(4, epoch, [])[1:]
    flat = [view for pair in views.values() for view in pair]
    same = [(i, j) for i in range(8) for j in range(i) if torch.equal(flat[i], flat[j])]
    assert not same


def test_views_of_an_image_do_not_depend_on_what_else_is_in_its_batch() -> None:
    small, large = batches_of(MadeImages(), batch_size=4), batches_of(MadeImages(), batch_size=25)
    by_id = {}
    for step in range(12):
        batch = small[step]
        for row, image_id in enumerate(batch.image_ids.tolist()):
            by_id[image_id] = batch.view_a[row], batch.view_b[row]
    batch = large[0]
    for row, image_id in enumerate(batch.image_ids.tolist()):
        assert torch.equal(by_id[image_id][0], batch.view_a[row])
        assert torch.equal(by_id[image_id][1], batch.view_b[row])


def test_a_view_is_decided_by_its_seed_alone() -> None:
    view, image = build_view(VIEWS), Image.fromarray(PIXELS[0])
    first = seeded_view(view, image, 2**64 - 1)
    torch.manual_seed(99)
    assert torch.equal(first, seeded_view(view, image, 2**64 - 1))
    assert not torch.equal(first, seeded_view(view, image, 5))


def random_states() -> list[bytes]:
    numpy_state = np.random.get_state()
    return [
        torch.get_rng_state().numpy().tobytes(),
        repr(random.getstate()).encode(),
        repr(numpy_state).encode(),
    ]


def test_the_global_random_states_are_left_alone() -> None:
    batches, before = batches_of(MadeImages(bad=[1, 2])), random_states()
    batches[0]
    for batch in load_batches(batches, start=1, stop=3, workers=0, pin_memory=False):
        assert batch.step in (1, 2)
    assert random_states() == before


def test_batches_are_the_same_from_any_start_and_in_any_order() -> None:
    straight = [batches_of(MadeImages())[step] for step in range(13)]
    again = batches_of(MadeImages())
    for step in (12, 3, 7, 0, 6):
        assert_same(again[step], straight[step])
    started_late = load_batches(again, start=5, stop=13, workers=0, pin_memory=False)
    for late, batch in zip(started_late, straight[5:], strict=True):
        assert_same(late, batch)


@pytest.mark.parametrize("start", [0, 4])
def test_worker_processes_change_nothing(photos: Path, start: int) -> None:
    cached = FolderImages(photos, cache_bytes=20_000)
    alone = batches_of(FolderImages(photos), batch_size=16)
    before = torch.get_rng_state()
    loaded = load_batches(
        batches_of(cached, batch_size=16), start=start, stop=9, workers=2, pin_memory=False
    )
    for step, batch in enumerate(loaded, start):
        assert_same(batch, alone[step])
    assert step == 8
    assert torch.equal(before, torch.get_rng_state())


def test_a_file_that_cannot_be_read_is_named_and_the_next_stands_in() -> None:
    bad = [3, 4, 49]
    whole, broken = batches_of(MadeImages()), batches_of(MadeImages(bad=bad))
    for step in range(6):
        good, batch = whole[step], broken[step]
        assert_same(batch, broken[step])
        for row, (wanted, given) in enumerate(
            zip(good.image_ids.tolist(), batch.image_ids.tolist(), strict=True)
        ):
            assert given == {3: 5, 4: 5, 49: 0}.get(wanted, wanted)
            if wanted == given:
                assert torch.equal(good.view_a[row], batch.view_a[row])
        wanted_ids = set(good.image_ids.tolist())
        named = {name for name, _ in batch.skipped}
        assert named >= {f"{image_id}.png" for image_id in wanted_ids & set(bad)}
        assert all(reason == f"bad {name[:-4]}" for name, reason in batch.skipped)
        if not wanted_ids & set(bad):
            assert not batch.skipped


def test_the_image_that_stands_in_has_its_own_views() -> None:
    image_id, view_a, view_b = batches_of(MadeImages(bad=[3])).views_of(3, 0, [])
    own_id, own_a, own_b = batches_of(MadeImages()).views_of(4, 0, [])
    assert image_id == own_id == 4
    assert torch.equal(view_a, own_a)
    assert torch.equal(view_b, own_b)


def test_no_readable_image_at_all_is_a_data_error() -> None:
    before = torch.get_rng_state()
    batches = Batches(MadeImages(10, bad=range(10)), VIEWS, batch_size=2, seed=0)
    with pytest.raises(DataError, match="none of the 10 images"):
        batches[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_grey_and_a_colour_image_share_a_batch(photos: Path) -> None:
    images = FolderImages(photos)
    modes = {images.read(image_id).mode for image_id in range(len(images))}
    assert modes == {"L", "RGB"}
    batch = batches_of(images, batch_size=64)[0]
    assert batch.view_a.shape == (64, 3, 12, 12)


def test_the_second_view_has_its_own_pipeline() -> None:
    views = replace(
        MOCO_V3_RESNET50.views,
        image_size=16,
        order=("crop", "solarize"),
        solarize_probabilities=(0.0, 1.0),
    )
    bright = SequenceImages([Image.new("RGB", (20, 20), (200, 220, 240))] * 4)
    batch = Batches(bright, views, batch_size=4, seed=0)[0]
    assert batch.view_a.amin() >= 200
    assert batch.view_b.amax() <= 55  # inverted
