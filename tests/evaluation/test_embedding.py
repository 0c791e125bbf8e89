from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import RECIPE, made_encoder
from torch import Tensor, nn

from moco.data.sources.folder import FolderImages
from moco.errors import DataError, StorageError, UsageError
from moco.evaluation import features as features_module
from moco.evaluation.embedding import Embedded, as_feature_set, embed, source_labels
from moco.evaluation.feature_parts import FeatureParts, PartsOf
from moco.evaluation.feature_set import FeatureSet, check_pair
from moco.evaluation.features import extract_features
from moco.evaluation.finetune_training import Compute

CPU = torch.device("cpu")
D = 64


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "FEATURE_BATCH", 8)


def about(source: FolderImages, **changes: Any) -> PartsOf:
    same = PartsOf(
        model="tiny",
        layer="backbone",
        views="16 px",
        images=source.fingerprint(),
        precision="float32",
        device="cpu",
        count=len(source),
        features=D,
        part_images=24,
    )
    return replace(same, **changes)


def embedded(
    folder: Path,
    parts: Path,
    *,
    network: nn.Module | None = None,
    report: Callable[[int, int], None] | None = None,
    lower: torch.dtype | None = None,
    **changes: Any,
) -> Embedded:
    images = FolderImages(folder)
    kept = FeatureParts(parts, about(images, **changes))
    try:
        found = embed(
            network or made_encoder(7).backbone,
            images,
            RECIPE.views,
            kept,
            compute=Compute(CPU, lower),
            report=report,
        )
    finally:
        kept.leave()
    assert found is not None
    return found


def stop_after(count: int) -> Callable[[int, int], None]:
    def report(done: int, _: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return report


class Counting(nn.Module):
    """Counts how many images go through a network."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = made_encoder(7).backbone, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return torch.as_tensor(self.inner(images))


def test_parts_are_what_the_images_give_at_once(photos: Path, tmp_path: Path) -> None:
    whole = extract_features(
        made_encoder(7).backbone, FolderImages(photos), RECIPE.views, device=CPU
    )
    told: list[tuple[int, int]] = []
    found = embedded(photos, tmp_path / "p", report=lambda *done: told.append(done))
    assert torch.equal(found.rows, whole.rows)
    assert torch.equal(found.image_ids, whole.image_ids)
    assert found.skipped == []
    assert told == [(done, 64) for done in range(8, 65, 8)]


@pytest.mark.parametrize("stopped_at", [8, 24, 40, 56, 64])
def test_a_stopped_embedding_goes_on_with_its_parts_to_the_same_bytes(
    stopped_at: int, photos: Path, tmp_path: Path
) -> None:
    whole = embedded(photos, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        embedded(photos, tmp_path / "p", report=stop_after(stopped_at))
    told: list[tuple[int, int]] = []
    counting = Counting()
    again = embedded(
        photos, tmp_path / "p", network=counting, report=lambda *done: told.append(done)
    )
    done = (stopped_at - 1) // 24 * 24  # a part is kept once its last batch was told
    assert counting.seen == 64 - done
    assert told[0] == (done + 8, 64)
    assert np.array_equal(again.rows.numpy(), whole.rows.numpy())
    assert [path.name for path in sorted((tmp_path / "p").iterdir())] == [
        *("about.json", "part_00000.json", "part_00001.json", "part_00002.json", "rows.float32")
    ]


def test_a_part_that_was_damaged_is_taken_again(photos: Path, tmp_path: Path) -> None:
    whole, parts = embedded(photos, tmp_path / "p").rows.clone(), tmp_path / "p"
    digest = hashlib.sha256(whole[24:47].numpy().tobytes()).hexdigest()
    elsewhere = {"sha256": digest, "skipped": [[70, "", ""]]}  # of no image of this part
    for damage in (
        lambda: flip(parts / "rows.float32", 24 * D * 4 + 5),
        lambda: (parts / "part_00001.json").write_text("{"),
        lambda: (parts / "part_00001.json").write_text(json.dumps(elsewhere)),
        lambda: (parts / "part_00001.json").write_text("[" * 100_000),
        lambda: os.truncate(parts / "rows.float32", 24 * D * 4),
    ):
        damage()
        counting = Counting()
        assert torch.equal(embedded(photos, parts, network=counting).rows, whole)
        assert counting.seen in (24, 40)


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


CHANGES: list[dict[str, Any]] = [
    {"model": "other"},
    {"layer": "head"},
    {"views": "18 px"},
    {"images": "other"},
    {"count": 63},
    {"precision": "bfloat16"},
    {"device": "cuda"},
    {"part_images": 16},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_parts_of_something_else_are_refused_and_left_alone(
    changes: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        embedded(photos, parts, report=stop_after(40))
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    name = next(iter(changes)).replace("_", " ")
    with pytest.raises(UsageError, match=f"has parts of other {name} .*, now .*name another --out"):
        embedded(photos, parts, **changes)
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


def test_other_images_are_other_parts(photos: Path, tmp_path: Path) -> None:
    embedded(photos, tmp_path / "p")
    folder = shutil.copytree(photos, tmp_path / "photos")
    os.rename(folder / "odd" / "01.png", folder / "odd" / "01 again.png")
    with pytest.raises(UsageError, match="has parts of other images"):
        embedded(folder, tmp_path / "p")


def test_images_that_cannot_be_read_are_left_out_and_named_after_a_stop_too(
    photos: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    names = [FolderImages(folder).name(number) for number in range(64)]
    bad = [*range(24, 48), 0, 63]  # a whole part among them
    for number in bad:
        (folder / names[number]).write_bytes(b"no image")
    with pytest.raises(KeyboardInterrupt):
        embedded(folder, tmp_path / "p", report=stop_after(56))
    found = embedded(folder, tmp_path / "p")
    assert [(image.image_id, image.name) for image in found.skipped] == [
        (number, names[number]) for number in sorted(bad)
    ]
    assert all(image.reason for image in found.skipped)
    good = [number for number in range(64) if number not in bad]
    assert found.image_ids.tolist() == good
    whole = embedded(photos, tmp_path / "whole")
    torch.testing.assert_close(found.rows, whole.rows[good], rtol=1e-4, atol=1e-5)


def test_nothing_readable_is_a_data_error(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.png").touch()
    with pytest.raises(DataError, match=r"none of the 30 images.*00\.png"):
        embedded(folder, tmp_path / "p")


def test_a_folder_of_something_else_is_left_alone(photos: Path, tmp_path: Path) -> None:
    parts = tmp_path / "p"
    parts.mkdir()
    (parts / "thesis.tex").write_text("all my work")
    with pytest.raises(UsageError, match=r"holds files of something else, such as thesis\.tex"):
        embedded(photos, parts)
    assert os.listdir(parts) == ["thesis.tex"]
    (parts / "about.json").write_text("[1]")
    with pytest.raises(UsageError, match=r"no readable about\.json"):
        embedded(photos, parts)


def test_links_and_pipes_lead_nowhere(photos: Path, tmp_path: Path) -> None:
    victim, parts = tmp_path / "victim", tmp_path / "p"
    victim.write_text("all my work")
    embedded(photos, parts)
    for make in (lambda path: path.symlink_to(victim), os.mkfifo):
        for name in ("rows.float32", "about.json", "part_00000.json"):
            kept = (parts / name).read_bytes()
            os.remove(parts / name)
            make(parts / name)
            if name == "part_00000.json":
                embedded(photos, parts)  # a part that is not done; its marker is replaced
            else:
                with pytest.raises((UsageError, StorageError)):
                    embedded(photos, parts)
                os.remove(parts / name)
                (parts / name).write_bytes(kept)
    assert victim.read_text() == "all my work"
    parts.rename(tmp_path / "q")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        embedded(photos, tmp_path / "file")


def test_a_disk_without_room_is_told_before_the_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * 64 * D * 4 - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="need 0 MB and 0 MB are free; make room"):
        embedded(photos, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    with pytest.raises(StorageError, match="No such file or directory"):
        embedded(photos, tmp_path / "none" / "p")


def test_bfloat16_is_near_and_the_network_stays_as_it_is(photos: Path, tmp_path: Path) -> None:
    network = made_encoder(7).backbone
    before = {name: value.clone() for name, value in network.state_dict().items()}
    whole = embedded(photos, tmp_path / "a", network=network)
    lower = embedded(photos, tmp_path / "b", network=network, lower=torch.bfloat16)
    assert not torch.equal(lower.rows, whole.rows)
    torch.testing.assert_close(lower.rows, whole.rows, rtol=0.05, atol=0.05)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def in_group(photos: str, parts: str) -> list[Tensor]:
    torch.set_num_threads(1)
    features_module.FEATURE_BATCH = 8
    images = FolderImages(Path(photos))
    counting = Counting()
    found = embed(
        counting,
        images,
        RECIPE.views,
        FeatureParts(Path(parts), about(images)),
        compute=Compute(CPU),
    )
    rows = torch.empty(0) if found is None else found.rows.clone()
    return [rows, torch.tensor(counting.seen)]


@pytest.mark.slow
def test_two_processes_share_the_parts_and_give_the_same_bytes(
    run_processes: Callable[..., list[Any]], photos: Path, tmp_path: Path
) -> None:
    alone = embedded(photos, tmp_path / "alone")
    first, second = run_processes(2, in_group, str(photos), str(tmp_path / "p"))
    assert torch.equal(first[0], alone.rows)
    assert not len(second[0])
    assert [int(first[1]), int(second[1])] == [40, 24]  # two parts of three, the last shorter


def test_labels_are_the_sources_or_none(class_folders: Path, photos: Path, tmp_path: Path) -> None:
    images = FolderImages(class_folders / "train")
    labels, classes = source_labels(images, "train", None)
    assert classes == ("blue", "red")
    assert labels.tolist() == [0] * 12 + [1] * 12
    flat = FolderImages(photos / "odd")
    labels, classes = source_labels(flat, "odd", None)
    assert (classes, len(labels)) == ((), 0)
    with pytest.raises(DataError, match="odd has no labels; leave --labels out"):
        source_labels(flat, "odd", "number")
    found = embedded(photos / "odd", tmp_path / "p")
    unlabelled = as_feature_set(found, flat, (labels, classes), encoder="e", title="odd")
    assert unlabelled.paths[0] == "01.png"
    with pytest.raises(DataError, match="odd has no labels; evaluation needs them"):
        check_pair(unlabelled, unlabelled)


def test_labels_follow_the_images_that_could_be_read(class_folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(class_folders / "train", tmp_path / "train")
    (folder / "blue" / "0.png").write_bytes(b"no image")
    images = FolderImages(folder)
    found = embedded(folder, tmp_path / "p")
    features: FeatureSet = as_feature_set(
        found, images, source_labels(images, "train", None), encoder="e", title="t"
    )
    assert len(features) == 23
    assert features.labels.tolist() == [0] * 11 + [1] * 12
    assert [path.split("/")[0] for path in features.paths] == ["blue"] * 11 + ["red"] * 12
