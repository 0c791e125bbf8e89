from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor

from moco.encoders import build_backbone
from moco.errors import UsageError
from moco.evaluation.finetune_spec import FinetuneSpec
from moco.evaluation.regularizers import erased, regularized, set_drop_path, with_box
from moco.specs import EncoderSpec

ROWS = 6


def flat_views(side: int = 32) -> Tensor:
    """Return images of which each has one level, its number from 1."""
    return torch.arange(1.0, ROWS + 1)[:, None, None, None].expand(ROWS, 3, side, side).clone()


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def spec(**more: float) -> FinetuneSpec:
    return FinetuneSpec(source="test", **more)  # type: ignore[arg-type]


def test_nothing_asked_for_changes_nothing() -> None:
    views, targets = flat_views(), torch.eye(ROWS)
    found, found_targets = regularized(views, targets, spec(), draws())
    assert torch.equal(found, flat_views())
    assert torch.equal(found_targets, torch.eye(ROWS))


@pytest.mark.parametrize(
    "strengths", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]
)
def test_targets_are_mixed_as_the_pixels_are(strengths: dict[str, float]) -> None:
    """The mean level of a mixed image is what its target says, whichever way it was mixed."""
    seen = set()
    for seed in range(40):
        views, targets = regularized(flat_views(), torch.eye(ROWS), spec(**strengths), draws(seed))
        levels = views.mean(dim=(1, 2, 3))
        torch.testing.assert_close(levels, targets @ torch.arange(1.0, ROWS + 1), rtol=0, atol=1e-4)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(ROWS))
        blended = bool((views[:, 0, 0, 0] % 1 > 1e-4).any())
        seen.add("mixup" if blended else "cutmix")
    assert seen == set(strengths)


def test_with_both_each_comes_half_of_the_time() -> None:
    both = spec(mixup=1.0, cutmix=1.0)
    cut = sum(
        bool((regularized(flat_views(8), torch.eye(ROWS), both, draws(seed))[0] % 1 == 0).all())
        for seed in range(400)
    )
    assert 160 < cut < 240


def test_a_box_has_its_share_of_the_area() -> None:
    own, other = torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64)
    shares = []
    for seed in range(300):
        mixed, share = with_box(own, other, 0.7, draws(seed))
        assert float(mixed.mean()) == pytest.approx(1 - share, abs=1e-6)
        assert share >= 0.7 - 0.01  # cut at the edges it is smaller
        shares.append(share)
    assert min(shares) < 0.72
    assert torch.equal(own, torch.zeros_like(own))


def test_erasing_replaces_boxes_by_noise_as_often_as_it_says() -> None:
    views = torch.full((500, 3, 32, 32), 7.0)
    found = erased(views, 0.25, draws())
    changed = (found != 7.0).any(dim=1)
    areas = changed.float().mean(dim=(1, 2))
    assert 0.19 < float((areas > 0).float().mean()) < 0.31
    assert float(areas.max()) < 0.36
    assert float(areas[areas > 0].min()) > 0.015
    noise = found[found != 7.0]
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert bool((views == 7.0).all())
    assert erased(views, 0.0, draws()) is views


def test_drop_path_rises_with_depth_and_needs_blocks() -> None:
    with torch.device("meta"):
        vit = build_backbone(EncoderSpec(backbone="moco_v3_vit_small"), 32)
    set_drop_path(vit, 0.1)
    paths = [layer for layer in vit.modules() if isinstance(layer, DropPath)]
    assert len(paths) == 24
    assert [path.drop_prob for path in paths[::2]] == pytest.approx(
        [0.1 * i / 11 for i in range(12)]
    )
    resnet = build_backbone(EncoderSpec(backbone="resnet18"))
    set_drop_path(resnet, 0.0)
    with pytest.raises(UsageError, match="vision transformer"):
        set_drop_path(resnet, 0.1)
