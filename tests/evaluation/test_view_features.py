"""Features of the evaluation view and of both random views, the same as training's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from moco.data.sources.folder import FolderImages
from moco.data.view_samples import sample_views
from moco.data.views import normalize
from moco.encoders import build_encoder
from moco.errors import DataError
from moco.evaluation import view_features as module
from moco.evaluation.features import extract_features
from moco.evaluation.view_features import extract_view_features
from moco.specs import EncoderSpec, ViewsSpec

CPU = torch.device("cpu")
VIEWS = ViewsSpec(
    image_size=16,
    order=("crop", "jitter", "gray", "blur", "horizontal_flip"),
    evaluation_resize=18,
    evaluation_size=16,
)


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    spec = EncoderSpec(backbone="resnet18", width=0.125, stage_blocks=(1, 1, 1, 1), dim=16)
    return build_encoder(spec).eval()


@torch.no_grad()
def test_views_are_those_of_a_run_with_the_seed(
    encoder: nn.Module, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEATURE_BATCH", 3)
    images, ids = FolderImages(photos), [5, 1, 9, 30]
    found = extract_view_features(encoder, images, ids, VIEWS, device=CPU, seed=7)
    assert found.image_ids.tolist() == ids
    plain = extract_features(encoder, images, VIEWS, device=CPU).rows[ids]
    torch.testing.assert_close(found.plain, plain)
    for place, image_id in enumerate(ids):
        made = sample_views(images, image_id, VIEWS, seed=7)
        for rows, view in zip((found.view_a, found.view_b), made, strict=True):
            own = encoder(normalize(view[None], VIEWS))[0]
            torch.testing.assert_close(rows[place], own)
    assert not torch.allclose(found.view_a, found.view_b, rtol=0.01)
    assert not found.plain.requires_grad


def test_the_seed_decides(encoder: nn.Module, photos: Path) -> None:
    images = FolderImages(photos)
    first, again, other = (
        extract_view_features(encoder, images, [0, 1], VIEWS, device=CPU, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.view_a, again.view_a)
    assert torch.equal(first.plain, other.plain)
    assert not torch.allclose(first.view_a, other.view_a, rtol=0.01)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_network_or_the_random_state_changes(
    encoder: nn.Module, photos: Path, training: bool
) -> None:
    encoder.train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    random_state = torch.get_rng_state()
    extract_view_features(encoder, FolderImages(photos), [0, 1, 2], VIEWS, device=CPU)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert {part.training for part in encoder.modules()} == {training}
    assert torch.equal(torch.get_rng_state(), random_state)


def test_what_cannot_be_read_is_named_and_the_rest_keeps_its_rows(
    encoder: nn.Module, photos: Path, tmp_path: Path
) -> None:
    paths = sorted(photos.rglob("*.png"))[:4]
    for number, path in enumerate(paths):
        (tmp_path / f"{number}.png").write_bytes(b"404" if number == 1 else path.read_bytes())
    images = FolderImages(tmp_path)
    told: list[tuple[int, int]] = []
    found = extract_view_features(
        encoder,
        images,
        range(4),
        VIEWS,
        device=CPU,
        report=lambda done, total: told.append((done, total)),
    )
    assert found.image_ids.tolist() == [0, 2, 3]
    assert [name for name, _ in found.skipped] == ["1.png"]
    assert told == [(4, 4)]
    whole = extract_view_features(encoder, images, [2, 3], VIEWS, device=CPU)
    torch.testing.assert_close(found.view_b[1:], whole.view_b)
    with pytest.raises(DataError, match=r"none of the 1 images can be read; 1\.png"):
        extract_view_features(encoder, images, [1], VIEWS, device=CPU)
