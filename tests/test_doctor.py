"""The doctor on made rows: what it names, in which order, and that bad rows make it say nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_rows import HEALTHY_SIGNALS, IMAGES, RECIPE, metrics, signals

from moco.doctor.diagnosis import Diagnosis, diagnose
from moco.doctor.rules import LEARNS_WELL, RULES, STATES
from moco.recipe import Recipe
from moco.recipe_files import read_setting, resolve_field, set_fields
from moco.recipes import CIFAR10_RESNET18, MOCO_V2, MOCO_V3_RESNET50

NAMES = [rule.name for rule in RULES]


def judged(
    recipe: Recipe = RECIPE,
    *,
    steps: int = 200,
    of_steps: Mapping[str, Any] | None = None,
    images: int | None = IMAGES,
    **changed: Any,
) -> Diagnosis:
    """Return the diagnosis of a healthy run in which some signals, or figures, are changed."""
    rows = metrics(recipe, steps, **(of_steps or {}))
    return diagnose(recipe, rows, signals(steps, **changed), images=images)


def test_a_healthy_run_is_called_healthy_and_nothing_else() -> None:
    found = judged()
    assert found.verdict == "healthy"
    assert [finding.name for finding in found.findings] == ["healthy"]
    assert not found.is_sick
    assert f"chance {math.log(1025):.3f}" in found.findings[0].evidence


SICK: dict[str, tuple[dict[str, Any], list[str]]] = {
    "queue not updated": ({"queue_filled": 0.2}, []),
    "learning rate too high": ({"weight_change": 0.3}, []),
    "temperature out of range": ({}, ["temperature=0.005"]),
    "key encoder frozen": (
        {"consistency": [[10, 1.0], [50, 1.0]], "key_drift": 0.4},
        ["key_momentum=1"],
    ),
    "dictionary stale": ({"consistency": [[10, 0.7]]}, ["key_momentum=0"]),
    "leak through batch norm": ({}, ["batch_norm_groups=1"]),
    "augmentation too weak": ({"view_difference": 0.01}, []),
    "queue too large for the data": ({"same_image_keys": 3.2}, ["dictionary.size=16000"]),
    "collapsed": ({"feature_deviation": 0.0}, []),
    "low rank": ({"effective_rank": 1.2}, []),
}


@pytest.mark.parametrize("name", SICK)
def test_each_sickness_is_named_with_evidence_and_a_setting_to_change(name: str) -> None:
    changed, settings = SICK[name]
    found = judged(set_fields(RECIPE, settings), **changed)
    main = found.findings[0]
    assert (found.verdict, main.name, found.is_sick) == (name, name, True)
    assert [other.name for other in found.findings if other.is_sick] == [name]
    assert main.evidence
    assert main.reference
    for setting in main.remedy.replace(",", " ").split("--set ")[1:]:
        word = setting.split()[0]
        resolve_field(word.partition("=")[0])


def test_remedies_that_are_settings_are_ones_that_a_recipe_takes() -> None:
    for name in ("key encoder frozen", "temperature out of range", "leak through batch norm"):
        changed, settings = SICK[name]
        sick = set_fields(RECIPE, settings)
        remedy = judged(sick, **changed).findings[0].remedy
        setting = remedy.removeprefix("--set ").split()[0].rstrip(",")
        read_setting(setting)
        assert judged(set_fields(sick, [setting]), **changed).verdict != name


def test_not_learning_takes_long_to_be_said() -> None:
    chance = {"loss": RECIPE.chance_loss}
    assert judged(steps=990, of_steps=chance).verdict == "healthy"
    assert judged(steps=1010, of_steps=chance).verdict == "not learning"
    assert judged(steps=1010, of_steps={"loss": 0.97 * RECIPE.chance_loss}).verdict == "healthy"


def test_waiting_for_data_hides_neither_health_nor_sickness() -> None:
    found = judged(waiting_share=0.7)
    assert found.verdict == "healthy, data bound"
    assert not found.is_sick
    found = judged(waiting_share=0.7, view_difference=0.0)
    assert found.verdict == "augmentation too weak, data bound"
    assert [finding.name for finding in found.findings] == ["augmentation too weak", "data bound"]


def test_two_slow_readings_are_not_data_bound() -> None:
    rows = signals()
    rows[-1]["waiting_share"] = rows[-2]["waiting_share"] = 0.9
    assert diagnose(RECIPE, metrics(), rows, images=IMAGES).verdict == "healthy"


def test_a_queue_that_fills_is_normal_and_told_with_the_loss() -> None:
    large = replace(RECIPE, dictionary=replace(RECIPE.dictionary, size=65536))
    found = judged(large, images=1_000_000, queue_filled=0.195)
    assert found.verdict == "still filling"
    assert not found.is_sick
    assert "ln(K+1)" in found.findings[0].evidence
    assert judged(large, steps=1100, images=1_000_000).verdict == "healthy"


@pytest.mark.parametrize("steps", [0, 1, 20, 40])
def test_it_is_too_early_at_first(steps: int) -> None:
    found = judged(steps=steps)
    assert found.verdict == "too early to say"
    assert not found.is_sick


def test_the_first_rule_of_the_table_gives_the_verdict() -> None:
    everything = {
        "queue_filled": 0.2,
        "weight_change": 0.3,
        "consistency": [[10, 0.5]],
        "view_difference": 0.0,
        "same_image_keys": 4.0,
        "feature_deviation": 0.01,
        "effective_rank": 1.0,
        "waiting_share": 0.9,
    }
    sick = set_fields(RECIPE, ["temperature=0.005", "batch_norm_groups=1"])
    names = [finding.name for finding in judged(sick, **everything).findings]
    assert names == [name for name in NAMES if name in names]
    assert names[0] == "queue not updated"
    assert len(names) == 10
    assert names[-1] == "data bound"


def test_a_collapsed_run_is_named_by_what_it_was_seen_to_die_of() -> None:
    rows = signals()
    rows[1]["consistency"] = [[10, 0.2]]  # at step 74
    for row in rows[2:]:
        row.update(feature_deviation=0.0, consistency=[[10, 1.0]])
    found = diagnose(RECIPE, metrics(), rows, images=IMAGES)
    assert found.verdict == "dictionary stale"
    cause, symptom = found.findings
    assert (cause.since_step, cause.until_step) == (74, 74)
    assert (symptom.name, symptom.since_step, symptom.until_step) == ("collapsed", 124, None)


def test_a_run_that_has_recovered_is_healthy() -> None:
    rows = signals()
    rows[1]["consistency"] = [[10, 0.2]]
    found = diagnose(RECIPE, metrics(), rows, images=IMAGES)
    assert (found.verdict, found.is_sick) == ("healthy", False)
    past = found.findings[1]
    assert (past.name, past.is_sick, past.since_step, past.until_step) == (
        "dictionary stale",
        False,
        74,
        74,
    )


@pytest.mark.parametrize(
    ("changed", "of_steps"), [({"effective_rank": 5.9}, {}), ({}, {"loss": math.log(1025) * 0.99})]
)
def test_what_was_learnt_still_shows_a_sickness_that_has_gone(
    changed: dict[str, float], of_steps: dict[str, float]
) -> None:
    rows = signals(**changed)
    assert diagnose(RECIPE, metrics(**of_steps), rows, images=IMAGES).verdict == "healthy"
    rows[1]["consistency"] = [[10, 0.2]]  # at step 74, before the rate decayed
    found = diagnose(RECIPE, metrics(**of_steps), rows, images=IMAGES)
    assert (found.verdict, found.is_sick) == ("dictionary stale", True)
    assert (found.findings[0].since_step, found.findings[0].until_step) == (74, 74)


def test_since_when() -> None:
    rows = signals()
    rows[0]["view_difference"] = rows[2]["view_difference"] = rows[3]["view_difference"] = 0.0
    (main,) = diagnose(RECIPE, metrics(), rows, images=IMAGES).findings
    assert main.since_step == 124


V3 = set_fields(
    MOCO_V3_RESNET50, ["batch_size=64", "key_momentum=1", "key_momentum_schedule=constant"]
)
END_TO_END = set_fields(RECIPE, ["mechanism=end_to_end"])
MEMORY_BANK = set_fields(RECIPE, ["mechanism=memory_bank", "key_momentum=0"])
NO_QUEUE = {
    "queue_filled": None,
    "oldest_key_steps": None,
    "oldest_key_epochs": None,
    "same_image_keys": None,
}


def test_others_than_queues_are_judged_by_what_applies_to_them() -> None:
    fresh = replace(V3, key_momentum=0.99)
    assert judged(fresh, **NO_QUEUE, consistency=[[10, 0.1]]).verdict == "healthy"
    assert judged(fresh, **NO_QUEUE, leak_ordered_top1=1.0).verdict == "healthy"
    frozen = judged(V3, **NO_QUEUE, consistency=[[10, 1.0]])
    assert frozen.verdict == "key encoder frozen"
    none = {**NO_QUEUE, "consistency": [], "key_drift": None}
    assert judged(END_TO_END, **none).verdict == "healthy"
    one_group = set_fields(END_TO_END, ["batch_norm_groups=1"])
    assert judged(one_group, **none).verdict == "leak through batch norm"
    assert judged(MEMORY_BANK, **none).verdict == "healthy"


def test_v3s_own_chance_loss_and_temperature_are_its_measure() -> None:
    recipe = replace(V3, key_momentum=0.99)
    assert (
        judged(recipe, **NO_QUEUE, of_steps={"loss": 1.4 * recipe.chance_loss}).verdict == "healthy"
    )
    assert judged(MOCO_V3_RESNET50, **NO_QUEUE).verdict == "healthy"
    hot = set_fields(MOCO_V3_RESNET50, ["temperature=30"])
    assert judged(hot, **NO_QUEUE).verdict == "temperature out of range"


def test_a_momentum_that_ends_at_one_is_no_frozen_encoder() -> None:
    rows = metrics(V3)
    for row in rows[-20:]:
        row["key_momentum"] = 1.0
    for row in rows[:-20]:
        row["key_momentum"] = 0.9999
    changed = signals(**NO_QUEUE, consistency=[[10, 1.0]])
    assert diagnose(V3, rows, changed, images=IMAGES).verdict == "healthy"


def test_without_batch_norm_nothing_leaks_through_it() -> None:
    sick = set_fields(RECIPE, ["batch_norm_groups=1"])
    found = judged(sick, leak_ordered_top1=None, leak_shuffled_top1=None)
    assert found.verdict == "healthy"


def test_a_queue_that_leaves_an_images_own_keys_out_may_be_larger_than_the_data() -> None:
    large = set_fields(RECIPE, ["dictionary.size=16000"])
    apart = set_fields(large, ["dictionary.exclude_same_image=true"])
    assert judged(large, steps=400).verdict == "queue too large for the data"
    assert judged(apart, steps=400).verdict == "healthy"
    assert judged(large, steps=400, images=None).verdict == "healthy"  # not known to be


def test_steps_that_were_left_out_say_nothing() -> None:
    rows = metrics()
    for row in rows[-60::3]:
        row.update(loss=None, positive_similarity=None, negative_similarity=None)
    assert diagnose(RECIPE, rows, signals(), images=IMAGES).verdict == "healthy"


BAD = [None, "x", [], {}, True, math.nan, math.inf, -math.inf, 10**400, [[]], [["a", 1]], "1"]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_signals_that_are_no_numbers_find_nothing(value: object) -> None:
    changed = dict.fromkeys(HEALTHY_SIGNALS, value)
    found = judged(**changed)
    assert found.verdict == "healthy"
    of_steps = dict.fromkeys(set(metrics()[0]) - {"step"}, value)
    found = judged(of_steps=of_steps, **changed)
    assert not found.is_sick


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_rows_without_a_step_are_passed_over(value: object) -> None:
    bad = [{"step": value, **HEALTHY_SIGNALS, "feature_deviation": 0.0}]
    assert diagnose(RECIPE, metrics(), [*signals(), *bad], images=IMAGES).verdict == "healthy"
    assert diagnose(RECIPE, bad, bad).verdict == "too early to say"


def test_rows_in_any_order_give_the_same() -> None:
    rows = signals()
    rows[-1]["feature_deviation"] = 0.0
    found = diagnose(RECIPE, metrics()[::-1], rows[::-1], images=IMAGES)
    assert found == diagnose(RECIPE, metrics(), rows, images=IMAGES)
    assert found.verdict == "collapsed"


def test_every_rule_says_what_it_looks_at_and_no_two_have_one_name() -> None:
    every = [*RULES, *STATES, LEARNS_WELL]
    assert len({rule.name for rule in every}) == len(every)
    for rule in every:
        assert rule.sickness.endswith(".")
        assert rule.looks_at
        assert rule.threshold
        assert rule.reference


def test_the_papers_recipes_are_sick_by_themselves_in_nothing() -> None:
    for recipe in (MOCO_V2, MOCO_V3_RESNET50, CIFAR10_RESNET18):
        assert not judged(recipe, images=1_281_167).is_sick


def test_the_page_for_users_has_every_rule_in_its_order() -> None:
    page = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    wanted = [
        f"| {rule.name} | {rule.sickness} | {rule.looks_at} | {rule.threshold} | {rule.reference} |"
        for rule in (*RULES, *STATES, LEARNS_WELL)
    ]
    assert rows == wanted


def test_what_takes_more_rows_than_there_are_is_not_said() -> None:
    assert judged(steps=80, waiting_share=0.9).verdict == "healthy"
    assert judged(steps=130, waiting_share=0.9).verdict == "healthy, data bound"
    large = set_fields(RECIPE, ["dictionary.size=65536"])
    at_chance = {"loss": large.chance_loss}
    full = judged(large, steps=1100, images=20_000_000, of_steps=at_chance)
    filling = judged(large, steps=1100, images=20_000_000, of_steps=at_chance, queue_filled=0.99)
    assert (full.verdict, filling.verdict) == ("healthy", "still filling")  # not an epoch yet
    assert judged(large, steps=1100, images=None, of_steps=at_chance).verdict == "not learning"
    told = {"of_steps": at_chance, "queue_filled": 0.99}
    assert judged(large, steps=1100, images=None, **told).verdict == "still filling"


def test_a_rate_that_is_too_high_is_to_be_lowered() -> None:
    assert "learning_rate=0.006," in judged(weight_change=0.3).findings[0].remedy
    lars = set_fields(RECIPE, ["optimizer.algorithm=lars"])
    assert judged(lars, weight_change=0.1).verdict == "healthy"
    assert judged(lars, weight_change=0.3).verdict == "learning rate too high"
