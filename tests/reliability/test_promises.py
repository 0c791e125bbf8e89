"""Each promise in docs/promises.md names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]


def test_there_are_promises() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS)
def test_the_test_of_a_promise_exists(row: str) -> None:
    promise, figure, named = (cell.strip() for cell in row.strip("|").split("|"))
    assert promise
    assert figure
    match = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", named)
    assert match, f"{named} is no test"
    tree = ast.parse((ROOT / match[1]).read_text(encoding="utf-8"))
    assert match[2] in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
