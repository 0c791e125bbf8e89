"""Published scores agree with what is written of them elsewhere, and their commands are ours."""

from __future__ import annotations

import shlex

import pytest

from moco.cli.commands import build_parser
from moco.cli.evaluate_options import EVALUATIONS
from moco.evaluation.published import PUBLISHED, Published, published
from moco.recipe_files import set_fields
from moco.recipes import EXPECTED_SCORES, RECIPES


@pytest.mark.parametrize("name", sorted(EXPECTED_SCORES))
def test_each_recipe_has_the_score_that_moco_recipes_tells(name: str) -> None:
    expected = EXPECTED_SCORES[name]
    kind = "knn" if expected.measure == "kNN" else "linear"
    plain = [row for row in published(kind, name) if not row.settings]  # type: ignore[arg-type]
    assert expected.top1 in [row.value for row in plain]
    assert {row.data for row in plain} == {expected.data}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.protocol.name} {row.model}")
def test_the_commands_are_ours(row: Published) -> None:
    words = shlex.split(row.command)
    middle = words.index("&&")
    trained = build_parser().parse_args(words[1:middle])
    assert trained.settings == list(row.settings)
    recipe = set_fields(RECIPES[trained.recipe], trained.settings)
    assert f"{recipe.epochs} epochs" in row.model
    if row.protocol.kind in EVALUATIONS:
        judged = build_parser().parse_args(words[middle + 2 :])
        assert (str(judged.run), judged.test.parent) == (str(trained.run), trained.images.parent)


def test_the_cifar_rows_vote_as_the_notebook_does() -> None:
    rows = published("knn", "cifar10-resnet18")
    assert [row.value for row in rows] == [0.826, 0.863, 0.887]
    words = shlex.split(rows[0].command)
    judged = build_parser().parse_args(words[words.index("&&") + 2 :])
    assert (judged.layer, judged.neighbours, judged.temperature) == ("head", 200, 0.1)
