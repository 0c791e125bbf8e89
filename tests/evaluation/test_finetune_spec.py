from __future__ import annotations

import pytest

from moco.errors import UsageError
from moco.evaluation.finetune_spec import (
    FINETUNE,
    FINETUNE_VIT_V3,
    FROM_SCRATCH,
    VIT_V3_TRANSFER,
    FinetuneSpec,
)
from moco.recipes import RECIPES
from moco.specs import ViewsSpec


def test_the_transfer_rows_are_the_table_of_v3s_code() -> None:
    rows = {
        name: (s.weight_decay, s.erase, s.drop_path, s.mixup, s.cutmix)
        for name, s in VIT_V3_TRANSFER.items()
    }
    assert rows == {
        "cifar10": (0.1, 0.0, 0.1, 0.8, 1.0),
        "cifar100": (0.1, 0.0, 0.1, 0.5, 1.0),
        "flowers": (0.3, 0.25, 0.1, 0.0, 0.0),
        "pets": (0.1, 0.0, 0.0, 0.8, 0.0),
    }
    for spec in VIT_V3_TRANSFER.values():
        assert (spec.epochs, spec.warmup_epochs, spec.batch_size) == (100, 3.0, 8 * 128)
        assert spec.learning_rate == pytest.approx(3e-4 * 1024 / 512)
        assert spec.crop_scale == (0.05, 1.0)
        assert (spec.validation_share, spec.patience, spec.layer_decay) == (0.0, 0, 1.0)
        assert spec.not_stated


def test_v3s_imagenet_recipe_has_150_epochs_and_says_what_is_not_stated() -> None:
    assert FINETUNE_VIT_V3.epochs == 150
    assert any("ViT-S" in line for line in FINETUNE_VIT_V3.not_stated)


def test_few_images_make_more_epochs() -> None:
    assert FINETUNE.all_epochs(steps_per_epoch=22) == FINETUNE.epochs
    assert FINETUNE.all_epochs(steps_per_epoch=3) == 134
    assert FINETUNE_VIT_V3.all_epochs(steps_per_epoch=1) == 150


def test_views_keep_cuts_and_turns_alone() -> None:
    views = FINETUNE.train_views(RECIPES["moco-v2"].views)
    assert views.order == ("crop", "horizontal_flip")
    assert views.crop_scale == (0.2, 1.0)
    turned = ViewsSpec(order=("crop", "jitter", "quarter_turns", "vertical_flip"))
    assert FINETUNE.train_views(turned).order == ("crop", "quarter_turns", "vertical_flip")
    assert FINETUNE_VIT_V3.train_views(turned).crop_scale == (0.08, 1.0)


def test_scratch_differs_in_the_layers_rates_alone() -> None:
    assert FROM_SCRATCH.layer_decay == 1.0
    assert FINETUNE.layer_decay < 1.0


@pytest.mark.parametrize(
    "field",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"layer_decay": 0.0},
        {"layer_decay": 1.1},
        {"label_smoothing": 1.0},
        {"validation_share": 1.0},
        {"erase": 1.5},
        {"mixup": -1.0},
        {"patience": -1},
        {"drop_path": 1.0},
    ],
)
def test_figures_that_make_no_sense_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(field))):
        FinetuneSpec(source="test", **field)  # type: ignore[arg-type]
