from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import pytest

from moco import __version__
from moco.cli.commands import build_parser
from moco.cli.main import main
from moco.cli.parser import Parser
from moco.recipes import RECIPES


def commands(parser: Parser, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Parser]:
    """Return every command by its words, the bare one included."""
    found = {path: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                found |= commands(below, (*path, name))
    return found


COMMANDS = commands(build_parser())
each_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def cpu_seconds(words: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "moco", *words, "--help"], check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


@each_command
def test_help_is_there_at_once(words: tuple[str, ...]) -> None:
    best = 9.0
    for _ in range(3):
        best = min(best, cpu_seconds(words))
        if best <= 0.3:
            break
    assert best <= 0.5


def test_help_and_mistakes_load_nothing_heavy() -> None:
    program = """
import sys
from moco.cli.main import main
for words in {commands}:
    assert main([*words, "--help"]) == 0
assert main(["--version"]) == 0
assert main(["pretrian"]) == 2
import moco
moco.RECIPES, moco.Recipe, moco.MocoError, dir(moco)
heavy = {{"torch", "torchvision", "timm", "numpy", "PIL", "safetensors", "rich", "yaml"}}
heavy.add("matplotlib")
loaded = heavy & set(sys.modules)
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    program = program.format(commands=list(COMMANDS))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@each_command
def test_every_option_is_explained(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    for action in COMMANDS[words]._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert all(name in shown for name in action.choices)
            continue
        assert action.help, action.option_strings
        assert action.help != argparse.SUPPRESS
        assert all(option in shown for option in action.option_strings)
    assert "exit codes:" in shown
    for line in shown.splitlines():
        assert line == line.rstrip() or not line.strip()


def test_pretrain_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in ["small", *RECIPES])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"moco {__version__}\n"
