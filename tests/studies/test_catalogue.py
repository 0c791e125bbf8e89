"""What each study compares, written out from the papers; nothing else may differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moco.errors import UsageError
from moco.recipe import Recipe
from moco.recipe_files import recipe_difference
from moco.recipes import CIFAR10_RESNET18, MOCO_V1, MOCO_V2, MOCO_V3_VIT_SMALL
from moco.specs import OptimizerSpec
from moco.studies.catalogue import (
    KEY_MOMENTUM,
    MECHANISMS,
    QUEUE_SIZE,
    SHUFFLE_BN,
    STUDIES,
    V1_TO_V2,
    dictionary_sizes,
)
from moco.studies.spec import MEASURES, Setting

IMAGENET = 1_281_167
SMALL = replace(
    CIFAR10_RESNET18,
    batch_size=64,
    batch_norm_groups=4,
    dictionary=replace(CIFAR10_RESNET18.dictionary, size=1024),
    epochs=10,
)


def changed(base: Recipe, setting: Setting) -> dict[str, str]:
    """Return what the setting's recipe has instead, by field."""
    parts = recipe_difference(base, setting.recipe)
    found = {}
    for part in parts.replace("], [", "]; [").split(", ") if parts else []:
        if " -> " in part:
            name, _, _ = part.partition(" ")
            found[name] = part.rpartition(" -> ")[2]
    return found


def fields_changed(base: Recipe, setting: Setting) -> set[str]:
    return set(changed(base, setting))


def test_the_ladder_at_the_papers_batch_is_the_papers() -> None:
    assert dictionary_sizes(MOCO_V1, IMAGENET) == (256, 1024, 4096, 16384, 65536)
    assert dictionary_sizes(SMALL, 10_000) == (64, 256, 1024, 4096)
    assert dictionary_sizes(replace(MOCO_V1, batch_size=512), IMAGENET)[-1] == 512 * 64


def test_mechanisms_differ_in_mechanism_and_dictionary_alone() -> None:
    settings = MECHANISMS.settings_of(SMALL, 10_000)
    points = [(setting.series, setting.x) for setting in settings]
    assert points == [
        *(("MoCo", size) for size in (64, 256, 1024, 4096)),
        *(("end-to-end", negatives) for negatives in (63, 127, 255)),
        *(("memory bank", size) for size in (64, 256, 1024, 4096)),
    ]
    allowed = {
        "MoCo": {"dictionary.size"},
        "memory bank": {"dictionary.size", "mechanism"},
        "end-to-end": {"mechanism", "batch_size", "batch_norm_groups", "optimizer.learning_rate"},
    }
    for setting in settings:
        assert fields_changed(SMALL, setting) <= allowed[setting.series]
        assert setting.recipe.candidates - 1 == setting.x
    assert {setting.recipe.mechanism for setting in settings if setting.series == "MoCo"} == {
        "queue"
    }


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("sgd", (0.06, 0.12, 0.24)), ("lars", (0.06, 0.12, 0.24)), ("adamw", (0.06, 0.084853, 0.12))],
)
def test_end_to_end_scales_rate_and_groups_with_the_batch(
    algorithm: str, expected: tuple[float, ...]
) -> None:
    optimizer = replace(SMALL.optimizer, algorithm=algorithm)  # type: ignore[arg-type]
    settings = MECHANISMS.settings_of(replace(SMALL, optimizer=optimizer), 10_000)
    scaled = [setting.recipe for setting in settings if setting.series == "end-to-end"]
    assert [recipe.batch_size for recipe in scaled] == [64, 128, 256]
    assert [recipe.batch_norm_groups for recipe in scaled] == [4, 8, 16]
    rates = [recipe.optimizer.learning_rate for recipe in scaled]
    assert rates == pytest.approx(expected, rel=1e-4)
    assert {recipe.epochs for recipe in scaled} == {10}


def test_a_batch_of_more_than_half_the_images_is_left_out() -> None:
    settings = MECHANISMS.settings_of(SMALL, 300)
    negatives = [setting.x for setting in settings if setting.series == "end-to-end"]
    assert negatives == [63, 127]


def test_key_momentum() -> None:
    base = replace(SMALL, key_momentum=0.996, key_momentum_schedule="cosine")
    settings = KEY_MOMENTUM.settings_of(base, 10_000)
    assert [setting.recipe.key_momentum for setting in settings] == [0, 0.9, 0.99, 0.999, 0.9999]
    assert [setting.paper for setting in settings] == ["fails", "55.2", "57.8", "59.0", "58.9"]
    for setting in settings:
        assert fields_changed(base, setting) == {"key_momentum", "key_momentum_schedule"}
        assert setting.recipe.key_momentum_schedule == "constant"


def test_queue_size_with_the_papers_figures() -> None:
    settings = QUEUE_SIZE.settings_of(MOCO_V1, IMAGENET)
    assert [setting.paper for setting in settings] == ["", "", "59.0", "", "60.6"]
    assert all(fields_changed(MOCO_V1, setting) <= {"dictionary.size"} for setting in settings)


def test_shuffling_is_the_only_difference() -> None:
    shuffled, unshuffled = SHUFFLE_BN.settings_of(SMALL, 10_000)
    assert shuffled.recipe == SMALL
    assert changed(SMALL, unshuffled) == {"shuffle_keys": "False"}
    with pytest.raises(UsageError, match="batch_norm_groups=N"):
        SHUFFLE_BN.settings_of(replace(SMALL, batch_norm_groups=1), 10_000)


def test_v1_to_v2_takes_the_papers_steps_one_by_one() -> None:
    settings = V1_TO_V2.settings_of(MOCO_V2, IMAGENET)
    assert [setting.name for setting in settings] == [
        "v1",
        "+MLP",
        "+aug",
        "+MLP+aug",
        "+MLP+aug+cos",
    ]
    assert [setting.paper for setting in settings] == ["60.6", "66.2", "63.4", "67.3", "67.5"]
    v1, mlp, aug, both, cosine = (setting.recipe for setting in settings)
    named = {"name": "x", "source": "y"}
    assert replace(v1, **named) == replace(MOCO_V1, **named)  # type: ignore[arg-type]
    assert replace(cosine, **named) == replace(MOCO_V2, **named)  # type: ignore[arg-type]
    assert mlp == replace(v1, encoder=MOCO_V2.encoder, temperature=0.2)
    assert aug == replace(v1, views=MOCO_V2.views)
    assert both == replace(mlp, views=MOCO_V2.views)


def test_v1_to_v2_keeps_the_images_of_the_base() -> None:
    base = replace(SMALL, optimizer=OptimizerSpec(algorithm="adamw", schedule="warmup_cosine"))
    settings = V1_TO_V2.settings_of(base, 10_000)
    for setting in settings:
        views = setting.recipe.views
        assert (views.image_size, views.crop_scale) == (32, (0.08, 1.0))
        assert (views.mean, views.evaluation_size) == (base.views.mean, 32)
        assert "blur" not in views.order
        assert setting.recipe.optimizer.algorithm == "adamw"
        assert setting.recipe.optimizer.milestones == (6, 8)  # 60 % and 80 % of 10 epochs
    jitters = [setting.recipe.views.jitter[3] for setting in settings]
    assert jitters == [0.4, 0.4, 0.1, 0.1, 0.1]
    schedules = [setting.recipe.optimizer.schedule for setting in settings]
    assert schedules == ["step", "step", "step", "step", "cosine"]


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_claims_are_about_settings_of_the_study(study: object) -> None:
    study = STUDIES[study.name]  # type: ignore[attr-defined]
    settings = study.settings_of(SMALL, 10_000)
    names = [setting.name for setting in settings]
    assert len(set(names)) == len(names)
    claims = study.claims(settings)
    assert claims
    for claim in claims:
        assert claim.better
        assert claim.worse
        assert {*claim.better, *claim.worse} <= set(names)
        assert not set(claim.better) & set(claim.worse)
        assert claim.measure in MEASURES


def test_claims_say_which_side_is_better() -> None:
    sides = {
        claim.text: (claim.better, claim.worse)
        for study in (KEY_MOMENTUM, SHUFFLE_BN, QUEUE_SIZE)
        for claim in study.claims(study.settings_of(SMALL, 10_000))
    }
    assert sides["key momentum 0 fails: worse than 0.99"] == (
        ("key momentum 0.99",),
        ("key momentum 0",),
    )
    assert sides["without shuffling the pretext score rises"] == (
        ("without shuffling",),
        ("with shuffling",),
    )
    assert sides["without shuffling the features get worse"] == (
        ("with shuffling",),
        ("without shuffling",),
    )
    assert sides["MoCo: a larger dictionary helps"] == (("MoCo, K 4,096",), ("MoCo, K 64",))


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_recipe_without_a_queue_is_refused(study: object) -> None:
    with pytest.raises(UsageError, match="mechanism in_batch"):
        STUDIES[study.name].settings_of(MOCO_V3_VIT_SMALL, 10_000)  # type: ignore[attr-defined]
