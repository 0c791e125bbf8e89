from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from moco.found_recipe import find_recipe
from moco.recipe import Recipe
from moco.recipe_files import field_names, recipe_to_dict
from moco.recipe_words import commented_yaml, recipe_changes
from moco.recipes import EXPECTED_SCORES, MOCO_V1, MOCO_V2, MOCO_V2_800, RECIPES
from moco.small import small_recipe

each_recipe = pytest.mark.parametrize("name", [*RECIPES, "small"])


def recipe_of(name: str) -> Recipe:
    return small_recipe(300, "cpu")[0] if name == "small" else RECIPES[name]


def change_lines(old: Recipe, new: Recipe) -> list[str]:
    return [line for change in recipe_changes(old, new) for line in change.lines]


def test_v1_to_v2_is_four_changes() -> None:
    assert len(recipe_changes(MOCO_V1, MOCO_V2)) == 4
    assert change_lines(MOCO_V1, MOCO_V2) == [
        "encoder.head: linear -> mlp",
        "views:",
        "  order: [crop, gray, jitter, horizontal_flip] -> "
        "[crop, jitter, gray, blur, horizontal_flip]",
        "  jitter_probability: 1.0 -> 0.8",
        "  jitter: [0.4, 0.4, 0.4, 0.4] -> [0.4, 0.4, 0.4, 0.1]",
        "optimizer.schedule: step -> cosine",
        "temperature: 0.07 -> 0.2",
    ]


def test_one_change_is_a_line_and_none_is_nothing() -> None:
    assert change_lines(MOCO_V2, MOCO_V2_800) == ["epochs: 200 -> 800"]
    assert change_lines(MOCO_V2_800, MOCO_V2) == ["epochs: 800 -> 200"]
    assert recipe_changes(MOCO_V2, replace(MOCO_V2, name="mine", source="me")) == []


@each_recipe
def test_what_is_shown_can_be_given_back(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    path = tmp_path / "mine.yaml"
    path.write_text(commented_yaml(recipe, "a head: # of 'any' kind"))
    found = find_recipe(path)
    assert (found.name, found.recipe) == (name, recipe)
    assert yaml.safe_load(path.read_text()) == recipe_to_dict(recipe)


@pytest.mark.parametrize(
    "source", ["a: b", "#", "two\nlines", "'", "\u2028 é \x00", "- x", "yes", ""]
)
def test_any_source_can_be_given_back(source: str, tmp_path: Path) -> None:
    recipe = replace(MOCO_V2, source=source)
    path = tmp_path / "mine.yaml"
    path.write_text(commented_yaml(recipe, "head"))
    assert find_recipe(path).recipe == recipe


def test_every_field_is_explained_by_its_docstring() -> None:
    lines = commented_yaml(MOCO_V1, "head").splitlines()
    assert lines[0] == "# head"
    assert max(map(len, lines)) <= 80
    fields = [place for place, line in enumerate(lines) if line.strip() and "#" not in line]
    assert len(fields) == len(list(field_names(Recipe))) + 5
    first_fields = {place for place in fields if lines[place - 1].endswith(":")}
    assert not first_fields
    assert all(lines[place - 1].lstrip().startswith("# ") for place in fields)
    place = lines.index("temperature: 0.07")
    assert lines[place - 1] == "# tau of Eq. 1."


def test_without_its_source_a_recipe_is_shown_without_comments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_: object) -> str:
        raise OSError

    monkeypatch.setattr(inspect, "getsource", gone)
    shown = commented_yaml(MOCO_V2, "head")
    assert yaml.safe_load(shown) == recipe_to_dict(MOCO_V2)
    assert shown.count("#") == 1


def test_the_scores_are_the_published_ones() -> None:  # ALGORITHM.md, section 13
    assert {name: score.in_words for name, score in EXPECTED_SCORES.items()} == {
        "moco-v1": "60.6 % linear, ImageNet",
        "moco-v2": "67.5 % linear, ImageNet",
        "moco-v2-800": "71.1 % linear, ImageNet",
        "moco-v3-resnet50": "68.9 % linear, ImageNet",
        "moco-v3-resnet50-300": "72.8 % linear, ImageNet",
        "moco-v3-resnet50-1000": "74.6 % linear, ImageNet",
        "moco-v3-vit-small": "73.2 % linear, ImageNet",
        "moco-v3-vit-base": "76.7 % linear, ImageNet",
        "cifar10-resnet18": "82.6 % kNN, CIFAR-10",
        "cifar10-resnet18-symmetric": "85.3 % kNN, CIFAR-10",
    }
    assert set(EXPECTED_SCORES) <= set(RECIPES)
