from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.data.batch_loading import load_batches
from moco.data.batches import Batch, Batches, Skipped, finished, to_device
from moco.data.images import Images, Pixels, UnreadableImageError
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import open_images
from moco.data.view_samples import sample_views
from moco.errors import DataError
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50

VIEWS = replace(MOCO_V2.views, image_size=12)
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 15, 18, 3), dtype=np.uint8)
CPU = torch.device("cpu")


class MadeImages:
    """Fifty images in memory, some of which cannot be read."""

    def __init__(self, count: int = 50, bad: Sequence[int] = ()) -> None:
        self.count, self.bad = count, set(bad)

    def __len__(self) -> int:
        return self.count

    def name(self, image_id: int) -> str:
        return f"{image_id}.png"

    def read(self, image_id: int) -> Pixels:
        if image_id in self.bad:
            raise UnreadableImageError(f"bad {image_id}")
        return PIXELS[image_id]


def batches_of(
    images: Images,
    *,
    batch_size: int = 8,
    seed: int = 0,
    finish: bool = True,
    process: int = 0,
    processes: int = 1,
) -> Batches:
    return Batches(
        images,
        VIEWS,
        batch_size=batch_size,
        seed=seed,
        finish=finish,
        process=process,
        processes=processes,
    )


def assert_same(one: Batch, other: Batch) -> None:
    assert one.step == other.step
    assert torch.equal(one.image_ids, other.image_ids)
    assert torch.equal(one.view_a, other.view_a)
    assert torch.equal(one.view_b, other.view_b)
    assert one.skipped == other.skipped


def test_a_batch_has_two_uint8_views_of_each_image() -> None:
    batch = batches_of(MadeImages())[3]
    assert batch.step == 3
    assert batch.changes is None
    for view in (batch.view_a, batch.view_b):
        assert view.shape == (8, 3, 12, 12)
        assert view.dtype == torch.uint8
    assert batch.image_ids.shape == (8,)
    assert batch.image_ids.dtype == torch.int64
    differs = (batch.view_a != batch.view_b).flatten(1).any(dim=1)
    assert bool(differs.all())


def test_views_are_the_same_whether_finished_while_loading_or_on_the_device() -> None:
    early, late = batches_of(MadeImages())[5], batches_of(MadeImages(), finish=False)[5]
    assert late.changes is not None
    assert not torch.equal(early.view_a, late.view_a)
    assert_same(finished(late, VIEWS), early)
    view_a, view_b, image_ids = to_device(late, VIEWS, CPU)
    assert torch.equal(view_a, early.view_a)
    assert torch.equal(view_b, early.view_b)
    assert torch.equal(image_ids, early.image_ids)


@pytest.mark.parametrize(("count", "batch_size"), [(50, 8), (48, 8), (50, 50), (7, 2)])
def test_each_epoch_shows_each_image_at_most_once_and_drops_the_rest(
    count: int, batch_size: int
) -> None:
    batches = batches_of(MadeImages(count), batch_size=batch_size)
    steps = count // batch_size
    assert batches.steps_per_epoch == steps
    left_out = set()
    for epoch in range(8):
        seen = [
            int(image_id)
            for step in range(epoch * steps, (epoch + 1) * steps)
            for image_id in batches[step].image_ids
        ]
        assert len(seen) == len(set(seen)) == steps * batch_size
        assert set(seen) <= set(range(count))
        left_out |= set(range(count)) - set(seen)
    assert len(left_out) > count % batch_size or not count % batch_size  # not always the same ones


def test_the_order_depends_on_seed_and_epoch_and_on_no_batch_size() -> None:
    def order(epoch: int, *, batch_size: int = 10, seed: int = 0) -> list[int]:
        batches = batches_of(MadeImages(), batch_size=batch_size, seed=seed)
        steps = batches.steps_per_epoch
        made = [batches[step] for step in range(epoch * steps, (epoch + 1) * steps)]
        return [int(image_id) for batch in made for image_id in batch.image_ids]

    assert order(3) == order(3, batch_size=5) == order(3, batch_size=25)
    assert len({tuple(order(epoch, seed=seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4
    assert order(0) != sorted(order(0))


def test_views_change_with_the_epoch_and_the_seed() -> None:
    flat = [
        view
        for seed in (0, 1)
        for epoch in (0, 1)
        for view in sample_views(MadeImages(), 4, VIEWS, seed=seed, epoch=epoch)
    ]
    same = [(i, j) for i in range(8) for j in range(i) if torch.equal(flat[i], flat[j])]
    assert not same


def test_views_of_an_image_depend_on_nothing_else_in_its_batch() -> None:
    small, large = batches_of(MadeImages(), batch_size=4), batches_of(MadeImages(), batch_size=25)
    for batch in [small[step] for step in range(12)] + [large[0], large[1]]:
        for row, image_id in enumerate(batch.image_ids.tolist()):
            view_a, view_b = sample_views(MadeImages(), image_id, VIEWS, seed=0)
            assert torch.equal(view_a, batch.view_a[row])
            assert torch.equal(view_b, batch.view_b[row])


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


def test_batches_are_the_same_from_twenty_random_starts_and_in_any_order() -> None:
    straight = [batches_of(MadeImages())[step] for step in range(30)]
    again = batches_of(MadeImages())
    for step in np.random.default_rng(1).permutation(30)[:20].tolist():
        assert_same(again[step], straight[step])
        late = load_batches(again, start=step, stop=min(step + 3, 30), workers=0, pin_memory=False)
        for place, batch in enumerate(late, step):
            assert_same(batch, straight[place])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_worker_processes_change_nothing(photos: Path, start: int, workers: int) -> None:
    cached = open_images(photos, cache_bytes=20_000)
    alone = batches_of(open_images(photos), batch_size=16)
    before = torch.get_rng_state()
    loaded = load_batches(
        batches_of(cached, batch_size=16), start=start, stop=9, workers=workers, pin_memory=False
    )
    for step, batch in enumerate(loaded, start):
        assert_same(batch, alone[step])
    assert step == 8
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("finish", [True, False])
def test_the_shares_of_two_processes_are_the_batch_of_one(photos: Path, finish: bool) -> None:
    images = open_images(photos)
    whole = batches_of(images, batch_size=16, finish=finish)
    first, second = (
        batches_of(images, batch_size=16, finish=finish, process=rank, processes=2)
        for rank in (0, 1)
    )
    for step in (0, 3, 5):
        parts = [finished(first[step], VIEWS), finished(second[step], VIEWS)]
        expected = finished(whole[step], VIEWS)
        assert torch.equal(torch.cat([part.image_ids for part in parts]), expected.image_ids)
        assert torch.equal(torch.cat([part.view_a for part in parts]), expected.view_a)
        assert torch.equal(torch.cat([part.view_b for part in parts]), expected.view_b)


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
        assert {image.image_id for image in batch.skipped} >= wanted_ids & set(bad)
        for image in batch.skipped:
            assert image == Skipped(
                image.image_id, f"{image.image_id}.png", f"bad {image.image_id}"
            )
        if not wanted_ids & set(bad):
            assert not batch.skipped


def test_the_image_that_stands_in_has_its_own_views() -> None:
    batch = batches_of(MadeImages(bad=[3]), batch_size=50)[0]
    whole = batches_of(MadeImages(), batch_size=50)[0]
    row = whole.image_ids.tolist().index(3)
    view_a, view_b = sample_views(MadeImages(), 4, VIEWS, seed=0)
    assert batch.image_ids[row] == 4
    assert torch.equal(batch.view_a[row], view_a)
    assert torch.equal(batch.view_b[row], view_b)


def test_an_image_of_other_channels_is_skipped_with_the_reason() -> None:
    views = replace(VIEWS, channels=4, mean=(0.5,) * 4, std=(0.2,) * 4)
    with pytest.raises(DataError, match=r"none of the 50 images .* 3 channels"):
        Batches(MadeImages(), views, batch_size=2, seed=0)[0]


def test_no_readable_image_at_all_is_a_data_error() -> None:
    before = torch.get_rng_state()
    batches = Batches(MadeImages(10, bad=range(10)), VIEWS, batch_size=2, seed=0)
    with pytest.raises(DataError, match="none of the 10 images"):
        batches[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_grey_and_a_colour_image_share_a_batch(photos: Path) -> None:
    images = FolderImages(photos)
    channels = {images.read(image_id).shape[2] for image_id in range(len(images))}
    assert channels == {1, 3}
    batch = batches_of(images, batch_size=64)[0]
    assert batch.view_a.shape == (64, 3, 12, 12)


def test_the_second_view_has_its_own_pipeline(tmp_path: Path) -> None:
    views = replace(
        MOCO_V3_RESNET50.views,
        image_size=16,
        order=("crop", "solarize"),
        solarize_probabilities=(0.0, 1.0),
    )
    for number in range(4):
        Image.new("RGB", (20, 20), (200, 220, 240)).save(tmp_path / f"{number}.png")
    batch = finished(Batches(open_images(tmp_path), views, batch_size=4, seed=0)[0], views)
    assert batch.view_a.amin() >= 200
    assert batch.view_b.amax() <= 55  # inverted


class Shards(MadeImages):
    """Fifty images in shards, which know which of them were fetched ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[int] = []

    def labels(self) -> None:
        return None

    def fingerprint(self) -> str:
        return ""

    def shard_sizes(self) -> np.ndarray:
        return np.full(10, 5)

    def prefetch(self, shard: int) -> None:
        self.fetched.append(shard)


def test_windows_of_shards_are_shown_one_after_another_and_fetched_once_before() -> None:
    images = Shards()
    batches = Batches(images, VIEWS, batch_size=5, seed=0, window=2)
    seen = [batches[step].image_ids.tolist() for step in range(10)]
    assert sorted(image_id for ids in seen for image_id in ids) == list(range(50))
    for pair in zip(seen[::2], seen[1::2], strict=True):
        assert len({image_id // 5 for ids in pair for image_id in ids}) == 2
    assert sorted(images.fetched) == list(range(10))
    order = [image_id // 5 for ids in seen for image_id in ids]
    first_shown = sorted(range(10), key=order.index)
    assert {*images.fetched[:4]} == {*first_shown[:4]}
