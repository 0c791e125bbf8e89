"""Commands and programs on the pages run from top to bottom, in one folder, on tiny images.

What is not as the page has it stands in `INSTEAD`, `SHORTER` and `NOT_RUN`; a block that is not run
says why on the page, in a remark `<!-- not run: why -->` above it.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doc_pages import PAGES as ALL_PAGES
from doc_pages import ROOT, Block, blocks_of, gist, words_of
from PIL import Image

from moco.cli.commands import build_parser
from moco.cli.main import main

PAGES = [
    pytest.param("README.md", marks=pytest.mark.slow),
    "docs/ten_minutes.md",
    "docs/choosing.md",
    "docs/healthy_run.md",
]
INSTEAD = [  # the images are made here
    "python examples/cifar10_folders.py cifar10",
    "python examples/solar_folders.py solar",
]
NOT_RUN = {  # by their first words
    "make": "it builds an environment of its own",
    "pip install": "the tests' environment has it",
    "torchrun": "tests/cli/test_torchrun.py does",
    "moco demo": "tests/cli/test_demo.py does",
    "moco bench": "tests/cli/test_bench_*.py do; they measure for minutes",
    "moco study": "tests/cli/test_study_command.py does",
}

TINY = (
    *("encoder.backbone=resnet18", "encoder.width=0.125", "encoder.stage_blocks=[1, 1, 1, 1]"),
    *("views.image_size=16", "views.evaluation_resize=16", "views.evaluation_size=16"),
    *("batch_size=16", "batch_norm_groups=2", "dictionary.size=16", "optimizer.warmup_epochs=0"),
)
PARSER = build_parser()
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
SHORT_TUNING = [
    word
    for setting in ("epochs=1", "fewest_steps=0", "warmup_epochs=0")
    for word in ("--set", setting)
]
SHORTER = {  # more words, by a command's first ones
    "pretrain": [
        *("--epochs", "1", "--signals-every", "2", "--workers", "0", "--device", "cpu"),
        *SETTINGS,
    ],
    "evaluate finetune": SHORT_TUNING,
    "evaluate few-labels": ["--draws", "2"],
}
SHORTER_IN_PYTHON = [(r"epochs=\d+", "epochs=1, settings=TINY, device='cpu'")]
FOLDERS = ["PHOTOS", "IMAGES", "cifar10/train", "cifar10/test", "solar/train", "solar/test"]
SAME_LINES = 0.75
"""Of the lines of output that a page shows, so many must be there, figures aside: a few differ on
tiny images."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all folders of images that pages name."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for name in FOLDERS:
        for label, colour in (("defective", (40, 60, 200)), ("sound", (200, 60, 40))):
            place = folder / name / label
            place.mkdir(parents=True)
            for number in range(16):
                pixels = np.clip(draw.normal(colour, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number:02}.png")
    return folder


@pytest.fixture
def at_work(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder beside which the images lie, our examples in it."""
    for place in [*images.iterdir(), ROOT / "examples"]:
        (tmp_path / place.name).symlink_to(place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_there(command: str) -> bool:
    """Say whether there is such a command; none asked for is there."""
    return not command or command in PARSER._choices()


def is_left_out(command: str) -> bool:
    return command.startswith((*INSTEAD, *NOT_RUN))


def run_command(command: str) -> str:
    """Run what a reader types and return what it prints."""
    typed, _, file = command.partition(" > ")
    words = words_of(typed)
    assert words[0] == "moco", f"{command}: say in NOT_RUN why it is not run"
    for first, more in SHORTER.items():
        if all(word in words for word in first.split()):
            words = [*words, *more]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(words[1:])
    assert code == 0, f"{command}: exit code {code}"
    if file:
        Path(words_of(file)[0]).write_text(printed.getvalue(), encoding="utf-8")
    return printed.getvalue()


def run_program(block: Block, names: dict[str, Any]) -> None:
    text = block.text
    for shown, shorter in SHORTER_IN_PYTHON:
        text = re.sub(shown, shorter, text)
    place = f"{block.page}, line {block.line}"
    exec(compile("\n" * (block.line - 1) + text, place, "exec"), names)


def check_output(command: str, shown: list[str], printed: str) -> None:
    """Compare what a page shows of a command's output with what it prints."""
    actual = {gist(line) for line in printed.splitlines()}
    told = [line for line in shown if gist(line)]
    missing = [line for line in told if gist(line) not in actual]
    assert len(missing) <= (1 - SAME_LINES) * len(told), f"{command} does not print {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_tells_to_do_works(
    page: str, at_work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco.rehearsal.MOST_STEPS", 2)
    for name in ("compare", "scores"):
        monkeypatch.setattr(f"moco.evaluation.{name}.RESAMPLES", 50)
    names: dict[str, Any] = {"TINY": TINY}
    count = 0
    for block in blocks_of(ROOT / page):
        if block.not_run or block.language in ("yaml", "text") or not is_there(block.comes_with):
            continue
        if block.language == "python":
            run_program(block, names)
            count += 1
            continue
        for command in block.commands:
            if not is_left_out(command):
                check_output(command, block.shown.get(command, []), run_command(command))
                count += 1
    assert count >= 2, f"{page}: only {count} things to run were found"


def test_nothing_is_left_out_that_no_page_has() -> None:
    commands = [
        command for page in ALL_PAGES for block in blocks_of(page) for command in block.commands
    ]
    for first in [*INSTEAD, *NOT_RUN]:
        assert any(command.startswith(first) for command in commands), f"{first} is on no page"
