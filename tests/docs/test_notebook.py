"""The tutorial notebook runs from its first cell to its last, by Jupyter's own machinery."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT

NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
PROGRAM = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def cells() -> list[dict[str, Any]]:
    return list(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"])


def printed(notebook: Path) -> str:
    outputs = [
        output
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
    ]
    assert not [output for output in outputs if output["output_type"] == "error"]
    return "".join(text for output in outputs for text in output.get("text", []))


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nbclient", "ipykernel", "elpv_dataset", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.setenv("MOCO_TUTORIAL_IMAGES", "200")
    monkeypatch.setenv("MOCO_TUTORIAL_EPOCHS", "24")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = tmp_path / "made.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, NOTEBOOK, made], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = printed(made)
    assert "chance: ln(" in text
    assert "a key of 10 steps ago" in text
    assert text.count("linear 0.") == 3


def test_what_is_stored_of_the_tutorial_is_small_and_has_no_photograph() -> None:
    """The photographs' licence does not let us hand them on."""
    assert NOTEBOOK.stat().st_size < 100_000
    assert "chance: ln(" in printed(NOTEBOOK)
    pictures = [cell for cell in cells() if "pictures" in cell["metadata"].get("tags", [])]
    assert len(pictures) == 1
    assert pictures[0]["outputs"] == []


def test_the_tutorial_names_pages_that_exist() -> None:
    text = "".join(line for cell in cells() for line in cell["source"])
    named = [part for part in text.replace("`", " ").split() if part.startswith("docs/")]
    assert named
    for name in named:
        assert (ROOT / name.rstrip(",;")).exists(), name
