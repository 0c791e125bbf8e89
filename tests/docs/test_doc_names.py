"""Every file, function, recipe field, option and command that a page names exists."""

from __future__ import annotations

import argparse
import ast
import re
from functools import cache
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, Block, anchors_of, blocks_of, prose_of, spans_of, words_of

from moco.cli.commands import build_parser
from moco.cli.parser import Parser
from moco.recipe import Recipe
from moco.recipe_files import field_names, resolve_field

SOURCES = [
    path
    for place in ("src", "tests", "benchmarks", "examples")
    for path in (ROOT / place).rglob("*.py")
]
NOT_OURS = {  # words of other packages, and keys that are put together where they are written
    *("max_memory_allocated", "set_float32_matmul_precision", "mmap_mode", "from_numpy"),
    "recall_at_k",
}
OPTIONS_NOT_OURS = {  # of torchrun, pytest, git, TensorBoard, and of the papers' own scripts
    *("--nproc-per-node", "--max-restarts", "--signals-to-handle", "--nnodes", "--rdzv-endpoint"),
    *(
        "--logdir",
        "--bind_all",
        "--shutdown-timeout",
        "--mlp",
        "--moco-t",
        "--aug-plus",
        "--cos",
        "--format",
        "--inplace",
    ),
}
ENDINGS = {
    *("py", "sh", "ipynb", "md", "yaml", "json", "jsonl", "html", "png", "txt"),
    *("zip", "tar", "npy", "npz", "parquet", "js", "css", "svg", "csv"),
}
PARSER = build_parser()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def definitions() -> dict[str, set[str]]:
    """Return the names in each module (by its last part) and each class of the package."""
    found: dict[str, set[str]] = {"moco": set()}
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        stem = path.parent.name if path.stem == "__init__" else path.stem
        found.setdefault(stem, set()).update(names_in(tree))
        found.setdefault(path.parent.name, set()).add(path.stem)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(names_in(node))
    return found


def names_in(tree: ast.AST) -> set[str]:
    """Return all names that are defined, bound, imported or set as attributes in a tree."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name.rpartition(".")[2])
            case ast.Constant(value=str(word)) if word.isidentifier():
                names.add(word)
    return names


@cache
def vocabulary() -> set[str]:
    """Return every word of our programs, and of our files' names."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    return {word for text in [*texts, *files()] for word in re.findall(r"\w+", text)}


@cache
def all_words() -> str:
    """Return the same in one line: a test is also named by a part of its name."""
    return " ".join(sorted(vocabulary()))


@cache
def files() -> set[str]:
    """Return the repository's files as paths from its root."""
    return {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.*")
        if not {".git", ".venv", "runs", "__pycache__"} & set(path.relative_to(ROOT).parts)
    }


@cache
def options() -> set[str]:
    """Return every option of every command, and of the scripts in benchmarks."""
    found, waiting = set(OPTIONS_NOT_OURS), [PARSER]
    while waiting:
        for action in waiting.pop()._actions:
            found.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                waiting += [below for below in action.choices.values() if isinstance(below, Parser)]
    for path in (ROOT / "benchmarks").iterdir():
        found.update(re.findall(r"--[a-z][a-z0-9-]+", path.read_text(encoding="utf-8")))
    return found


def is_a_file(name: str) -> bool:
    return any(path == name or path.endswith(f"/{name}") for path in files())


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    for span in spans_of(page):
        for name in re.findall(r"(?<![\w/*.-])[\w./-]+\.(?:py|sh|ipynb|md)\b", span):
            assert is_a_file(name), f"`{span}`: there is no {name}"
        for name in re.findall(r"\b(?:docs|examples|tests|benchmarks|src)/[\w./-]+", span):
            if not re.search(r"[A-Z]{2}", name):
                assert (ROOT / name).exists(), f"`{span}`: there is no {name}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose_of(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors_of(place), f"{target}: no such heading"


@each_page
def test_functions_and_fields_that_are_named_exist(page: Path) -> None:
    fields = set(field_names(Recipe))
    parts = {field.partition(".")[0] for field in fields if "." in field}
    for span in spans_of(page):
        for chain in re.findall(r"(?<![\w/.\"'-])[A-Za-z_]\w*(?:\.\w+)+", span):
            owner, name = chain.split(".")[-2:]
            if name in ENDINGS:
                continue
            if owner in parts and chain in fields:
                continue
            if owner in parts | set(definitions()) and chain.split(".")[0] in {
                *("moco", owner),
                *parts,
            }:
                known = definitions().get(owner, set())
                assert name in known, f"`{span}`: {owner} has no {name}"
        if page.name == "json.md":  # its keys are put together; the commands' tests look at them
            continue
        for word in re.findall(r"(?<![\w.-])(?:[a-z]+(?:_[a-z0-9]+)+|(?:[A-Z][a-z]+){2,})\b", span):
            assert word in NOT_OURS or word in all_words(), f"`{span}`: nothing here has {word}"


@each_page
def test_options_and_settings_exist(page: Path) -> None:
    commands = [
        command for block in blocks_of(page) if is_there(block) for command in block.commands
    ]
    for text in [*spans_of(page), *commands]:
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", text):
            assert option in options(), f"{text}: no command has {option}"
        for name in re.findall(r"--set '?([a-z][\w.]*)=", text):
            if name != "field" and "finetune" not in text:
                resolve_field(name)


def is_there(block: Block) -> bool:
    """Say whether there is the command that a block comes with, if any."""
    return not block.comes_with or block.comes_with in PARSER._choices()


def moco_commands() -> list[tuple[Block, str]]:
    found = []
    for page in PAGES:
        for block in filter(is_there, blocks_of(page)):
            for command in block.commands:
                words = re.sub(r"^(make|python) .*", "", command)
                words = re.split(r"\s{3,}", words)[0]  # a remark without its #
                if words.startswith("moco ") and "..." not in words and "[-" not in words:
                    found.append((block, words))
    return found


@pytest.mark.parametrize(
    ("block", "command"),
    [pytest.param(*case, id=f"{case[0].page}:{case[0].line}") for case in moco_commands()],
)
def test_commands_are_understood(block: Block, command: str) -> None:
    typed = re.split(r" [|>] ", command)[0]
    _parsed, unknown = PARSER.parse_known_args(words_of(typed)[1:])
    assert not unknown, f"{block.page}: {command}: no such option"


def test_there_are_commands_to_understand() -> None:
    assert len(moco_commands()) > 40


@each_page
def test_what_is_not_run_says_why(page: Path) -> None:
    for block in blocks_of(page):
        if block.not_run:
            assert len(block.not_run.split()) >= 4, f"{block.page}:{block.line}: {block.not_run}"
