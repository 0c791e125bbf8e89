"""Slips of the finger in recipes: each is refused, and what was meant is offered first."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from moco.cli.commands import build_parser
from moco.cli.main import main
from moco.errors import UsageError
from moco.found_recipe import NAMES, find_recipe
from moco.recipe import Recipe
from moco.recipe_files import field_names, set_fields
from moco.recipes import MOCO_V2

TYPOS = 200
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def typo(word: str, draw: random.Random) -> str:
    """Return the word with a letter left out, doubled, swapped with the next or another."""
    place = draw.randrange(len(word))
    match draw.randrange(4):
        case 0:
            return word[:place] + word[place + 1 :]
        case 1:
            return word[:place] + word[place] + word[place:]
        case 2:
            return word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
        case _:
            return word[:place] + draw.choice(LETTERS) + word[place + 1 :]


def choices() -> dict[str, tuple[str, ...]]:
    """Return the words that each field with a choice takes, by its full name."""
    found = {}
    for name in field_names(Recipe):
        kind: Any = Recipe
        for part in name.split("."):
            kind = get_type_hints(kind)[part]
        if get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        if get_origin(kind) is Literal:
            found[name] = get_args(kind)
    return found


def settings_with_typos() -> Iterator[tuple[str, str, str]]:
    """Yield (field, value, what was meant), 200 in all, every field and every choice among them."""
    draw, fields, of_choice = random.Random(5), list(field_names(Recipe)), choices()
    words = [(name, word) for name, values in of_choice.items() for word in values]
    tasks = [(name, None) for name in fields] + words
    while len(tasks) < TYPOS:
        tasks.append((draw.choice(fields), None))
    known = {name.rpartition(".")[2] for name in fields} | {"base"}
    for name, word in tasks:
        wrong = name_part = name.rpartition(".")[2]
        if word is None:
            while wrong in known or not wrong:
                wrong = typo(name_part, draw)
            yield name.removesuffix(name_part) + wrong, "1", name
        else:
            wrong = word
            while wrong in of_choice[name] or not wrong or wrong in ("n", "y", "no", "on", "off"):
                wrong = typo(word, draw)
            yield name, f"[{wrong}]" if name == "views.order" else wrong, word


def offered(error: UsageError) -> str:
    """Return the first name that the error offers."""
    found = re.search(r"did you mean '?([\w.-]+)'?", str(error))
    return found.group(1) if found else ""


def test_each_of_200_typos_is_refused_and_what_was_meant_comes_first(tmp_path: Path) -> None:
    cases = list(settings_with_typos())
    assert len(cases) == TYPOS
    missed = []
    for number, (field, value, meant) in enumerate(cases):
        with pytest.raises(UsageError) as of_command:
            set_fields(MOCO_V2, [f"{field}={value}"])
        path = tmp_path / "mine.yaml"
        section, _, name = field.rpartition(".")
        nested = f"{section}:\n  {name}" if section and number % 2 else field
        path.write_text(f"base: moco-v2\n{nested}: {value}\n")
        with pytest.raises(UsageError) as of_file:
            find_recipe(path)
        line = 3 if "\n" in nested else 2
        assert str(of_file.value).startswith(f"{path}:{line}: "), of_file.value
        for error in (of_command.value, of_file.value):
            assert "\n" not in str(error)
            if offered(error) != meant:
                missed.append((field, value, meant, str(error)[-200:]))
    assert len(missed) <= 0.05 * 2 * TYPOS, missed


def test_typos_in_the_names_of_recipes() -> None:
    draw, missed = random.Random(6), []
    for name in NAMES * 3:
        wrong = name
        while wrong in NAMES:
            wrong = typo(name, draw)
        with pytest.raises(UsageError) as caught:
            find_recipe(wrong)
        if offered(caught.value) != name:
            missed.append((wrong, str(caught.value)))
    # between moco-v1 and moco-v2, or with and without -300, one letter decides
    assert all("did you mean 'moco-v" in told for _, told in missed), missed


def options(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from options(inner, (*words, name))
        yield from ((words, text) for text in action.option_strings if text.startswith("--"))


NEEDED = {
    ("pretrain",): ["x"],
    **{
        ("evaluate", kind): ["x", "--train", "x", "--test", "x"]
        for kind in ("knn", "linear", "retrieval", "few-labels", "finetune")
    },
    ("doctor",): ["x"],
    ("import",): ["x"],
    ("embed",): ["x", "y", "--out", "z.npz"],
    ("compare",): ["x", "--train", "x", "--test", "x"],
    ("report",): ["x"],
    ("export",): ["x", "--to", "timm", "--out", "y"],
    ("evaluate", "label-free"): ["x", "--images", "x"],
    ("data", "check"): ["x"],
    ("data", "stats"): ["x"],
    ("data", "pack"): ["x", "y"],
    ("data", "preview"): ["x"],
    ("study",): ["mechanisms", "--images", "x", "--test", "x", "--run", "x"],
    ("bench", "time-to"): ["x", "--knn", "0.5"],
    ("recipes", "show"): ["moco-v2"],
    ("recipes", "diff"): ["moco-v1", "moco-v2"],
}


def test_typos_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    draw, missed, count = random.Random(7), [], 0
    every = list(options(build_parser()))
    for words, option in every:
        if len(words) == 0 or words in (("data",), ("evaluate",), ("bench",), ("recipes",)):
            continue
        wrong = option
        while (words, wrong) in every or wrong == "--":
            wrong = "--" + typo(option.removeprefix("--"), draw)
        assert main([*words, *NEEDED.get(words, []), wrong, "x"]) == 2, (words, wrong)
        told, count = capsys.readouterr().err, count + 1
        assert told.count("\n") == 1
        if f"did you mean {option}?" not in told:
            missed.append((words, wrong, told))
    assert count > 60
    assert len(missed) <= 0.05 * count, missed


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("temprature=0.2", "temperature"),
        ("encoder.head=mpl", "mlp"),
        ("views.order=[cropp]", "crop"),
    ],
)
def test_the_command_says_the_same(
    setting: str, meant: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", str(photos), "--run", str(tmp_path / "run"), "--set", setting]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("moco: error: ")
    assert told.rstrip().endswith(f"did you mean '{meant}'?")
    assert not (tmp_path / "run").exists()
