"""What is compared: whole pipelines on the same files, with the same pixels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.benchmark import files as files_module
from moco.benchmark import input as input_module
from moco.benchmark.files import Likeness, compare_pixels, made_files, own_files
from moco.benchmark.input import compare_input, our_contenders
from moco.benchmark.ours import device_part
from moco.data.batches import Batches
from moco.data.device_views import apply_changes
from moco.data.views import normalize
from moco.errors import DataError, UsageError
from moco.recipes import MOCO_V2

CPU = torch.device("cpu")
RECIPE = replace(MOCO_V2, views=replace(MOCO_V2.views, image_size=32))
ROWS = ["ours_cpu_part", "ours_packed", "ours_whole", "ours_device_part_cpu", "official"]


def test_compares_every_pipeline_in_every_round(photos: Path) -> None:
    found = compare_input(RECIPE, photos, rounds=2, seconds=1e-6, device=CPU)
    names = [row.contender.name for row in found.rows]
    assert names[:5] == ROWS
    for row in found.rows:
        assert len(row.rates) == len(row.ratios) == 2
        assert min(row.rates) > 0
        assert min(row.rates) <= row.rate <= max(row.rates)
    official = found.rows[4]
    assert official.ratios == [1.0, 1.0]
    ours = found.rows[0]
    expected = [a / b for a, b in zip(ours.rates, official.rates, strict=True)]
    assert ours.ratios == expected
    assert found.images == 48
    assert found.likeness.worst < 0.5


def test_a_loading_process_runs_the_training_runs_own_code(photos: Path, tmp_path: Path) -> None:
    files = own_files(photos)
    loading, packed, whole, device, *none = our_contenders(files, tmp_path, RECIPE.views, CPU)
    assert not none
    batches = Batches(files.images, RECIPE.views, batch_size=48, seed=0)
    for number in (0, 3):
        batch = batches[number]
        crops = loading.run(number)
        assert torch.equal(crops[0], batch.view_a)
        assert torch.equal(crops[1], batch.view_b)
        assert batch.changes is not None
        views = [
            normalize(apply_changes(crop, changes, RECIPE.views), RECIPE.views)
            for crop, changes in zip(crops, batch.changes, strict=True)
        ]
        for made, expected in zip(whole.run(number), views, strict=True):
            assert torch.equal(made, expected)
    assert packed.run(0)[0].dtype == torch.uint8
    assert device.run(0)[0].dtype == torch.float32
    assert files.images.cache_bytes == 0


def test_the_devices_part_has_other_draws_in_each_pass(photos: Path) -> None:
    part = device_part(own_files(photos).images, RECIPE.views, CPU)
    first, second, again = part.run(0), part.run(1), part.run(0)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], again[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_a_row_of_its_own(photos: Path) -> None:
    found = compare_input(RECIPE, photos, rounds=1, seconds=1e-3, device=torch.device("cuda"))
    (row,) = [row for row in found.rows if row.contender.name == "ours_device_part"]
    assert not row.contender.is_per_core
    assert row.contender.images == 256
    assert row.contender.run(0)[0].device.type == "cuda"


def test_own_images_are_picked_alike_every_time_and_read_by_both(photos: Path) -> None:
    files = own_files(photos)
    assert len(files.paths) == len(files.images) == 48
    assert files.paths == own_files(photos).paths
    assert [photos / files.images.name(i) for i in range(48)] == files.paths
    assert {path.parent.name for path in files.paths} == {"even", "odd"}


def test_files_that_cannot_be_read_are_passed_over(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "even/00.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "short.png").write_bytes((photos / "even/02.png").read_bytes()[:60])
    assert [path.name for path in own_files(tmp_path).paths] == ["good.png"]
    (tmp_path / "good.png").unlink()
    with pytest.raises(DataError, match="none of 2 images"):
        own_files(tmp_path)


def test_only_folders_of_files_are_taken(photos: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", photos / "even/00.png"):
        with pytest.raises(DataError, match="name a folder"):
            own_files(path)


@pytest.mark.parametrize(("rounds", "seconds"), [(0, 1.0), (1, 0.0), (1, float("nan")), (1, 1e9)])
def test_senseless_numbers_are_refused(rounds: int, seconds: float, photos: Path) -> None:
    with pytest.raises(UsageError, match="must be"):
        compare_input(RECIPE, photos, rounds=rounds, seconds=seconds, device=CPU)


def test_made_photographs_have_the_official_pixels(tmp_path: Path) -> None:
    likeness = compare_pixels(made_files(tmp_path), MOCO_V2.views)
    assert likeness.decoded < 0.1
    assert likeness.crops < 0.3


def test_other_pixels_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = made_files(tmp_path)
    real = files_module.cut
    monkeypatch.setattr(files_module, "cut", lambda *given: real(*given).roll(1, 2))
    assert compare_pixels(files, MOCO_V2.views).crops > 1
    monkeypatch.setattr(files_module, "cut", real)
    monkeypatch.setattr(
        files.images, "read", lambda i: np.asarray(Image.open(files.paths[i]))[::-1]
    )
    assert compare_pixels(files, MOCO_V2.views).decoded > 1


def test_nothing_is_timed_where_pixels_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_module, "compare_pixels", lambda *_: Likeness(0.0, 2.0))
    with pytest.raises(ValueError, match="not the official pipeline's"):
        compare_input(RECIPE, None, rounds=1, seconds=1e-6, device=CPU)
