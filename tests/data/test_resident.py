"""Images kept on the device give the batches of loading processes, to the bit."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moco.cli.main import main
from moco.data import resident as resident_module
from moco.data.batch_loading import load_batches
from moco.data.batches import Batch, Batches, to_device
from moco.data.images import Images, Pixels, UnreadableImageError
from moco.data.resident import ResidentImages, load_resident, resident_batches
from moco.data.sources.opening import open_images
from moco.errors import DataError, InterruptedRunError, UsageError
from moco.plan import Plan, make_plan
from moco.recipes import MOCO_V2
from moco.rehearsal import rehearse
from moco.specs import ViewsSpec

train = importlib.import_module("moco.pretraining").train
CPU = torch.device("cpu")
VIEWS = replace(MOCO_V2.views, image_size=12)
AS_CUT = pytest.mark.parametrize("at_once", [False, True], ids=["one_by_one", "at_once"])


class MadeImages:
    """Images of one size in memory, some of which cannot be read."""

    def __init__(self, pixels: NDArray[Any], bad: Sequence[int] = ()) -> None:
        self.pixels, self.bad = pixels, set(bad)

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, image_id: int) -> str:
        return f"{image_id}.png"

    def read(self, image_id: int) -> Pixels:
        if image_id in self.bad:
            raise UnreadableImageError(f"bad {image_id}")
        image: Pixels = self.pixels[image_id]
        return image


def noise(*shape: int, kind: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, dtype=kind)


COLOURS = MadeImages(noise(50, 15, 18, 3), bad=[3, 4, 5, 17])


def batches_of(images: Images, views: ViewsSpec = VIEWS, **options: Any) -> Batches:
    return Batches(images, views, **{"batch_size": 8, "seed": 5, **options})


def kept(images: Images, views: ViewsSpec = VIEWS) -> ResidentImages:
    return load_resident(images, views, CPU)


def assert_same(ours: Batch, other: Batch, views: ViewsSpec = VIEWS) -> None:
    assert ours.step == other.step
    assert torch.equal(ours.image_ids, other.image_ids)
    assert torch.equal(ours.view_a, other.view_a)
    assert torch.equal(ours.view_b, other.view_b)
    assert ours.skipped == other.skipped
    for one, two in zip(to_device(ours, views, CPU), to_device(other, views, CPU), strict=True):
        assert torch.equal(one, two)


@AS_CUT
@pytest.mark.parametrize(
    "images",
    [
        COLOURS,
        MadeImages(noise(50, 15, 18, 1)),  # grey in a run of three channels
        MadeImages(noise(50, 15, 18, 3, kind=np.uint16)),
        MadeImages(noise(50, 12, 12, 3)),
        MadeImages(noise(20, 40, 9, 3), bad=[19, 0]),  # around the end
    ],
    ids=["colour", "grey", "16_bits", "square", "long"],
)
def test_batches_are_those_of_the_ordinary_pipeline(images: Images, *, at_once: bool) -> None:
    batches = batches_of(images)
    for ours in resident_batches(batches, kept(images), start=0, stop=14, at_once=at_once):
        assert_same(ours, batches[ours.step])


@AS_CUT
@pytest.mark.parametrize("channels", [1, 5])
def test_so_are_those_of_measurements(channels: int, *, at_once: bool) -> None:
    images = MadeImages(noise(30, 15, 18, channels))
    views = replace(VIEWS, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels)
    batches = batches_of(images, views)
    stored = kept(images, views)
    assert stored.pixels.shape == (30, 15, 18, channels)
    for ours in resident_batches(batches, stored, start=2, stop=5, at_once=at_once):
        assert_same(ours, batches[ours.step], views)


@AS_CUT
def test_views_that_grow_are_cut_at_the_size_of_their_epoch(*, at_once: bool) -> None:
    batches = batches_of(COLOURS, size_at=lambda epoch: (8, 8, 12)[epoch])
    sides = []
    for ours in resident_batches(batches, kept(COLOURS), start=0, stop=18, at_once=at_once):
        assert_same(ours, batches[ours.step])
        sides.append(ours.view_a.shape[-1])
    assert sides[0] == 8
    assert sides[-1] == 12


@AS_CUT
def test_they_are_those_of_two_loading_processes_from_any_step_on(*, at_once: bool) -> None:
    batches = batches_of(COLOURS, finish=True)
    made = load_batches(batches, start=4, stop=15, workers=2, pin_memory=False)
    ours = resident_batches(batches, kept(COLOURS), start=4, stop=15, at_once=at_once)
    steps = 0
    for one, two in zip(ours, made, strict=True):
        assert one.changes is None
        assert_same(one, two)
        steps += 1
    assert steps == 11


def test_the_shares_of_two_processes_are_those_of_the_ordinary_pipeline() -> None:
    for process in (0, 1):
        batches = batches_of(COLOURS, process=process, processes=2)
        (ours,) = resident_batches(batches, kept(COLOURS), start=3, stop=4)
        assert len(ours.view_a) == 4
        assert_same(ours, batches[3])


def test_cifars_files_shuffled_in_windows_keep_their_order(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        records = noise(16, 3073) // number
        records[:, 0] %= 10
        records.tofile(tmp_path / f"data_batch_{number}.bin")
    images = open_images(tmp_path)
    assert len(images) == 48
    batches = batches_of(images, window=1)
    assert not np.array_equal(batches.wanted_at(0)[1], batches_of(images).wanted_at(0)[1])
    for ours in resident_batches(batches, kept(images), start=0, stop=6, at_once=True):
        assert_same(ours, batches[ours.step])


def test_images_are_read_in_parts_that_are_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kept(COLOURS)
    for images_at_once in (1, 7, 49):
        monkeypatch.setattr(resident_module, "STAGED_BYTES", images_at_once * 15 * 18 * 3)
        in_parts = kept(COLOURS)
        assert torch.equal(in_parts.pixels, whole.pixels)
        assert in_parts.unusable == whole.unusable == {n: f"bad {n}" for n in (3, 4, 5, 17)}


def test_the_source_gives_its_own_copy_back(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "images.npz", images=noise(20, 15, 18, 3))
    images = open_images(tmp_path / "images.npz")
    images.read(3)
    assert vars(images)["_stack"] is not None
    kept(images)
    assert vars(images)["_stack"] is None
    assert images.read(3).shape == (15, 18, 3)


def test_what_cannot_be_kept_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"8 bits, and views.deep is set; leave --resident out"):
        kept(COLOURS, replace(VIEWS, deep=True))
    several = MadeImages(np.array([*noise(4, 15, 18, 3), noise(9, 9, 3)], dtype=object))
    with pytest.raises(UsageError, match=r"4.png has 9 x 9 pixels, others 15 x 18; leave --res"):
        kept(several)
    with pytest.raises(UsageError, match=r"up to 100 views, 100 times 12 pixels, got 1201"):
        kept(MadeImages(noise(3, 2, 1201, 3)))
    with pytest.raises(DataError, match=r"none of the 2 images can be used; 0.png: bad 0"):
        kept(MadeImages(noise(2, 15, 18, 3), bad=[0, 1]))


def test_more_than_half_of_the_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 50 * 15 * 18 * 3
    monkeypatch.setattr(resident_module, "free_memory", lambda _: 2 * needed)
    kept(COLOURS)
    with pytest.raises(UsageError, match=r"take 40 kB; half of what is free on cpu is 20 kB; le"):
        load_resident(COLOURS, VIEWS, CPU, holders=2)
    monkeypatch.setattr(resident_module, "free_memory", lambda _: 2 * needed - 2)
    with pytest.raises(UsageError, match="moco data pack"):
        kept(COLOURS)


def test_a_sources_own_error_names_its_image() -> None:
    class Broken(MadeImages):
        def read(self, image_id: int) -> Pixels:
            return super().read(image_id) if image_id < 9 else np.zeros(3)[7]

    with pytest.raises(DataError, match=r"image 9.png cannot be loaded: IndexError"):
        kept(Broken(noise(20, 15, 18, 3)))


def planned(tiny: list[str], run: Path, *, resident: bool) -> Plan:
    images = MadeImages(noise(48, 15, 18, 3), bad=[7])
    return make_plan(
        images,
        recipe="moco-v2",
        settings=tiny,
        epochs=4,
        run=run,
        device="cpu",
        workers=0,
        precision="float32",
        bad_limit=0.5,
        resident=resident,
    )


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_run_may_stop_in_one_form_and_go_on_in_the_other(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    whole = train(planned(tiny_settings, tmp_path / "whole", resident=False))
    for first in (True, False):
        run = tmp_path / f"from_{first}"
        taken = iter(range(1, 13))
        with pytest.raises(InterruptedRunError):
            train(
                planned(tiny_settings, run, resident=first),
                stop=lambda steps=taken: 75 if next(steps) == 5 else None,
            )
        train(planned(tiny_settings, run, resident=not first))
        assert losses(run) == losses(whole)
        skipped = [(path / "skipped.jsonl").read_text() for path in (run, whole)]
        assert skipped[0] == skipped[1] != ""


def test_resident_images_have_no_loading_processes(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    plan = make_plan(COLOURS, settings=tiny_settings, run=tmp_path / "r", resident=True)
    assert plan.workers == 0
    with pytest.raises(UsageError, match="leave out --workers 2, or --resident"):
        make_plan(COLOURS, settings=tiny_settings, run=tmp_path / "r", resident=True, workers=2)


def test_processes_of_a_machine_share_its_memory(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco.plan.local_processes", lambda: 2)
    monkeypatch.setattr(resident_module, "free_memory", lambda _: 2 * 50 * 15 * 18 * 3)
    with pytest.raises(UsageError, match="half of what is free on cpu is 20 kB"):
        make_plan(COLOURS, settings=tiny_settings, run=tmp_path, device="cpu", resident=True)


def test_a_dry_run_counts_the_time_to_read_them(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco.rehearsal.MOST_STEPS", 3)
    plan = planned(tiny_settings, tmp_path / "run", resident=True)
    assert plan.resident is not None
    assert plan.resident.seconds > 0
    slow = replace(plan, resident=replace(plan.resident, seconds=1000.0))
    assert 1000 < rehearse(slow).setup_seconds < 1100


def test_the_command_says_where_images_lie(
    tiny_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("moco.rehearsal.MOST_STEPS", 3)
    np.save(tmp_path / "images.npy", noise(48, 15, 18, 3))
    words = [word for setting in tiny_settings for word in ("--set", setting)]
    words += ["--recipe", "moco-v2", "--epochs", "1", "--device", "cpu", "--resident"]
    words = ["pretrain", str(tmp_path / "images.npy"), *words, "--run", str(tmp_path / "run")]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "on cpu, all images there, 39 kB" in shown
    assert "loading is cutting images that are on the device" in shown
    assert main(words) == 0
    assert len(losses(tmp_path / "run")) == 3
    assert main([*words, "--workers", "1"]) == 2
    assert "leave out --workers 1" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_cuts_the_batches_of_a_cpu() -> None:
    device = torch.device("cuda")
    batches = batches_of(COLOURS)
    on_gpu = load_resident(COLOURS, VIEWS, device)
    for ours in resident_batches(batches, on_gpu, start=0, stop=7):
        assert ours.view_a.device.type == "cuda"
        assert torch.equal(ours.view_a.cpu(), batches[ours.step].view_a)
        assert torch.equal(ours.view_b.cpu(), batches[ours.step].view_b)
