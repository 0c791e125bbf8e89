"""What tests of exports do over and over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.export.exporting import Exported, export_model
from moco.export.format_names import README
from moco.export.source import ExportSource

TINY = (1, 1, 1, 1)
WRONGS = (
    "two statistics of a layer swapped",
    "statistics of two layers swapped",
    "colours in reverse",
    "nothing loaded",
)


def run_card(folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Run the card's lines in its directory, as they stand there, and return its model."""
    code = (folder / README).read_text().partition("```python\n")[2].partition("\n```")[0]
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(folder)
        exec(compile(code, str(folder / README), "exec"), names)
    model = names["model"]
    assert callable(model)
    return model


def exported(source: ExportSource, to: str, folder: Path) -> Exported:
    return export_model(source, to, folder / "out")


def features_of(answer: Any) -> torch.Tensor:
    """Return the features in what a library's model answers."""
    if hasattr(answer, "pooler_output"):
        return torch.as_tensor(answer.pooler_output.flatten(1))
    return torch.as_tensor(answer)
