from __future__ import annotations

import math
import random
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from moco.errors import CheckpointError, UsageError
from moco.recipe import Recipe
from moco.recipe_files import (
    OTHER_NAMES,
    field_names,
    read_recipe,
    recipe_difference,
    recipe_from_dict,
    recipe_to_dict,
    resolve_field,
    set_fields,
    write_recipe,
)
from moco.recipe_words import recipe_changes
from moco.recipes import MOCO_V1, MOCO_V2, RECIPES
from moco.small import small_recipe

FIELDS = list(field_names(Recipe))
# for each field: what a user writes, what the recipe then holds
SET = {
    "name": ("mine", "mine"),
    "source": ("a paper", "a paper"),
    "encoder.backbone": ("resnet18", "resnet18"),
    "encoder.stem": ("small", "small"),
    "encoder.width": ("2", 2.0),
    "encoder.stage_blocks": ("[1, 1, 1, 1]", (1, 1, 1, 1)),
    "encoder.head": ("mlp", "mlp"),
    "encoder.head_layers": ("3", 3),
    "encoder.head_width": ("4096", 4096),
    "encoder.predictor": ("mlp_bn", "mlp_bn"),
    "encoder.dim": ("64", 64),
    "encoder.zero_init_residual": ("true", True),
    "encoder.freeze_patch_projection": ("true", True),
    "encoder.token_drop": ("0.5", 0.5),
    "mechanism": ("end_to_end", "end_to_end"),
    "dictionary.size": ("4096", 4096),
    "dictionary.exclude_same_image": ("true", True),
    "dictionary.filled_only": ("true", True),
    "dictionary.fill_first": ("true", True),
    "dictionary.bank_momentum": ("0.3", 0.3),
    "dictionary.key_precision": ("bfloat16", "bfloat16"),
    "views.image_size": ("64", 64),
    "views.first_size": ("160", 160),
    "views.size_step": ("16", 16),
    "views.full_size_from": ("0.5", 0.5),
    "views.order": ("[crop, blur, quarter_turns]", ("crop", "blur", "quarter_turns")),
    "views.crop_scale": ("[0.1, 0.9]", (0.1, 0.9)),
    "views.gray_probability": ("0.5", 0.5),
    "views.jitter_probability": ("1e-1", 0.1),
    "views.jitter": ("[0, 0.1, 0.2, 0.3]", (0.0, 0.1, 0.2, 0.3)),
    "views.blur_probabilities": ("[0, 0.1]", (0.0, 0.1)),
    "views.blur_radius": ("[1, 2e0]", (1.0, 2.0)),
    "views.solarize_probabilities": ("[0, 0.5]", (0.0, 0.5)),
    "views.flip_probability": ("1", 1.0),
    "views.channels": ("3", 3),  # with views.mean and views.std, or not at all
    "views.deep": ("true", True),
    "views.mean": ("[0, 0, 0]", (0.0, 0.0, 0.0)),
    "views.std": ("[1, 1, 1]", (1.0, 1.0, 1.0)),
    "views.evaluation_resize": ("300", 300),
    "views.evaluation_size": ("200", 200),
    "optimizer.algorithm": ("adamw", "adamw"),
    "optimizer.learning_rate": ("1e-3", 0.001),
    "optimizer.weight_decay": ("5e-4", 0.0005),
    "optimizer.sgd_momentum": ("0", 0.0),
    "optimizer.schedule": ("cosine", "cosine"),
    "optimizer.milestones": ("[3, 5, 7]", (3, 5, 7)),
    "optimizer.warmup_epochs": ("2", 2.0),
    "start.held_epochs": ("0.5", 0.5),
    "start.rise_epochs": ("1", 1.0),
    "temperature": ("0.2", 0.2),
    "last_temperature": ("0.5", 0.5),
    "key_momentum": ("0.99", 0.99),
    "key_momentum_schedule": ("cosine", "cosine"),
    "symmetric": ("yes", True),
    "loss_scale": ("2", 2.0),
    "batch_norm_groups": ("4", 4),
    "shuffle_keys": ("false", False),
    "shard_window": ("16", 16),
    "epochs": ("3", 3),
    "batch_size": ("128", 128),
}
each_field = pytest.mark.parametrize("field", FIELDS)


def value_of(recipe: Recipe, field: str) -> Any:
    found: Any = recipe
    for part in field.split("."):
        found = getattr(found, part)
    return found


def test_the_table_above_names_every_field() -> None:
    assert list(SET) == FIELDS


def test_what_was_written_before_keys_had_a_precision_reads_as_float32() -> None:
    values = recipe_to_dict(MOCO_V1)
    del values["dictionary"]["key_precision"]
    assert recipe_from_dict(values) == MOCO_V1


@each_field
def test_every_field_can_be_set_and_nothing_else_moves(field: str) -> None:
    text, expected = SET[field]
    changed = set_fields(MOCO_V1, [f"{field}={text}"])
    assert value_of(changed, field) == expected
    assert type(value_of(changed, field)) is type(expected)
    if field == "views.channels":
        assert changed == MOCO_V1
        return
    assert [name for name in FIELDS if value_of(changed, name) != value_of(MOCO_V1, name)] == [
        field
    ]
    difference = recipe_difference(MOCO_V1, changed)
    assert difference.startswith(f"{field} ")
    assert "\n" not in difference
    counted = [] if field in ("name", "source") else [field]
    assert [change.part for change in recipe_changes(MOCO_V1, changed)] == counted


@each_field
def test_the_last_part_is_enough_where_it_is_unique(field: str) -> None:
    short = field.rpartition(".")[2]
    assert resolve_field(field) == field
    assert resolve_field(short) == field  # all are unique today


def test_an_ambiguous_short_name_is_refused_with_all_it_could_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "moco.recipe_files.field_names", lambda _: iter(["encoder.size", "dictionary.size"])
    )
    with pytest.raises(UsageError, match=r"encoder\.size or dictionary\.size"):
        resolve_field("size")


def typos(name: str, draw: random.Random, count: int) -> list[str]:
    """Return one-letter slips: a letter left out, two swapped, one replaced."""
    found: set[str] = set()
    while len(found) < count:
        place = draw.randrange(len(name))
        slip = draw.choice(["delete", "swap", "substitute"])
        if slip == "delete":
            wrong = name[:place] + name[place + 1 :]
        elif slip == "swap":
            wrong = name[:place] + name[place : place + 2][::-1] + name[place + 2 :]
        else:
            wrong = name[:place] + draw.choice(string.ascii_lowercase) + name[place + 1 :]
        if wrong != name and "." not in wrong[:1] and wrong not in FIELDS:
            found.add(wrong)
    return sorted(found)


@pytest.mark.parametrize("written", ["in full", "last part"])
def test_typos_are_answered_with_the_right_name(written: str) -> None:
    draw, tried, missed = random.Random(1), 0, []
    for field in FIELDS:
        name = field if written == "in full" else field.rpartition(".")[2]
        for typo in typos(name, draw, min(12, 3 * len(name))):
            tried += 1
            with pytest.raises(UsageError) as caught:
                set_fields(MOCO_V1, [f"{typo}=1"])
            if f"'{field}'" not in str(caught.value):
                missed.append((typo, str(caught.value)))
    assert len(missed) <= 0.05 * tried, missed


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_names_used_elsewhere_are_answered_with_ours(name: str) -> None:
    assert OTHER_NAMES[name] in FIELDS
    for written in (name, name.upper()):
        if written in FIELDS:
            continue
        with pytest.raises(UsageError, match=f"did you mean '{OTHER_NAMES[name]}'"):
            set_fields(MOCO_V1, [f"{written}=1"])


@pytest.mark.parametrize("setting", ["encoder=resnet18", "views={}"])
def test_a_name_that_holds_fields_is_answered_with_them(setting: str) -> None:
    name = setting.partition("=")[0]
    with pytest.raises(UsageError, match=rf"'{name}' holds fields; set one of {name}\."):
        set_fields(MOCO_V1, [setting])


@pytest.mark.parametrize("setting", ["zzzzzzqqq=1", "=1"])
def test_a_name_like_no_field_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="unknown field"):
        set_fields(MOCO_V1, [setting])


@pytest.mark.parametrize("setting", ["temperature", "", "temperature:0.2"])
def test_a_setting_without_equals_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="field=value"):
        set_fields(MOCO_V1, [setting])


WRONG = {
    str: ["1", "true", "null", "[a]", "{a: b}", "2001-01-01"],
    bool: ["1", "0", "null", "maybe", "1.0", "[true]"],
    int: ["true", "1.5", "2.0", "1e2", "null", "many", "[1]", "{a: 1}", "'8'", ""],
    float: ["true", "null", "many", "[0.5]", "{a: 1}", "2001-01-01", ""],
    tuple: ["1", "0.5", "crop", "null", "true", "{a: 1}", "[null]", "[true]", "[[1]]", "[{}]", ""],
}


@each_field
def test_a_value_of_the_wrong_type_is_refused_by_the_field_name(field: str) -> None:
    kind = type(value_of(MOCO_V1, field))
    for text in WRONG[kind]:
        with pytest.raises(UsageError) as caught:
            set_fields(MOCO_V1, [f"{field}={text}"])
        assert str(caught.value).startswith(field), text
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "jitter=[0.4, 0.4, 0.4]",
        "crop_scale=[0.5]",
        "mean=[0, 0, 0, 0]",
        "order=[crop, blurr]",
        "stem=smal",
        "schedule=cosinee",
        "algorithm=lamb",
    ],
)
def test_wrong_lengths_and_choices_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        set_fields(MOCO_V1, [setting])


@pytest.mark.parametrize(
    "text", ["2001-99-99", "[1", "{", "*a", "!!python/object:os.system x", "9" * 400]
)
def test_a_value_yaml_cannot_read_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        set_fields(MOCO_V1, [f"temperature={text}"])


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("1E-1", 0.1), ("1", 1.0)])
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    assert set_fields(MOCO_V1, [f"temperature={text}"]).temperature == value


NUMBERS = [field for field in FIELDS if type(value_of(MOCO_V1, field)) is float]
LISTS = ["views.crop_scale", "views.jitter", "views.blur_radius", "views.mean", "views.std"]


@pytest.mark.parametrize("field", [*NUMBERS, *LISTS])
def test_not_a_number_and_infinity_are_refused(field: str) -> None:
    value = value_of(MOCO_V1, field)
    for bad in (".nan", ".inf", "-.inf", "nan", "inf"):
        texts = [bad]
        if isinstance(value, tuple):  # at each place of the list
            places = range(len(value))
            texts = [str([bad if at == i else value[i] for i in places]) for at in places]
        for text in texts:
            with pytest.raises(UsageError, match=field):
                set_fields(MOCO_V1, [f"{field}={text.replace(repr(bad), bad)}"])


def test_settings_are_applied_together() -> None:
    changed = set_fields(MOCO_V1, ["batch_size=100", "batch_norm_groups=10", "dictionary.size=100"])
    assert (changed.batch_size, changed.dictionary.size) == (100, 100)


def test_the_last_of_two_settings_of_a_field_counts() -> None:
    assert set_fields(MOCO_V1, ["epochs=3", "epochs=5"]).epochs == 5


@pytest.mark.parametrize("name", [*RECIPES, "small"])
def test_round_trips(name: str, tmp_path: Path) -> None:
    recipe = small_recipe(300, "cpu")[0] if name == "small" else RECIPES[name]
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    text = yaml.safe_dump(recipe_to_dict(recipe))
    assert recipe_from_dict(yaml.safe_load(text)) == recipe
    write_recipe(tmp_path / "recipe.yaml", recipe)
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert not recipe_difference(recipe, recipe)


def test_small_and_large_numbers_survive_yaml(tmp_path: Path) -> None:
    for rate in (1e-7, 1.5e-30, 123456.789, math.pi):
        optimizer = replace(MOCO_V1.optimizer, learning_rate=rate)
        recipe = replace(MOCO_V1, optimizer=optimizer)
        write_recipe(tmp_path / "recipe.yaml", recipe)
        assert read_recipe(tmp_path / "recipe.yaml").optimizer.learning_rate == rate


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"text", b"name: a", b"\xff\xfe\x00", b"{", b"name: {}\nsource: b"]
)
def test_a_file_that_is_no_recipe_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"recipe\.yaml"):
        read_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(CheckpointError, match=r"none\.yaml"):
        read_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"encoder": {"backbon": "resnet18"}}, "encoder.backbon.*did you mean"),
        ({"encoder": "resnet18"}, "encoder must hold fields"),
        ({"batch_size": True}, "batch_size must be a whole number"),
    ],
)
def test_plain_values_are_checked_like_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_from_dict(recipe_to_dict(MOCO_V1) | change)


def test_difference_names_each_field_with_both_values() -> None:
    changed = set_fields(MOCO_V1, ["temperature=0.2", "encoder.dim=64"])
    assert recipe_difference(MOCO_V1, changed) == "encoder.dim 128 -> 64, temperature 0.07 -> 0.2"
    assert "encoder.head linear -> mlp" in recipe_difference(MOCO_V1, MOCO_V2)
