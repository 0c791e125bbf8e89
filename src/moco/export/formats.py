"""What a format is: when it can hold a backbone, how it is written, and how it is read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moco.export.check import Check
from moco.export.source import ExportSource


@dataclass(frozen=True)
class Format:
    """A kind of export."""

    name: str
    library: str
    """What loads it, for the model card's front matter."""
    refusal: Callable[[ExportSource], str]
    """Why it cannot hold a backbone, "" where it can."""
    write: Callable[[ExportSource, Path], None]
    """Put its files into a new directory."""
    check: Callable[[ExportSource, Path], Check]
    """Load them again, or compare names; raises WrongExportError."""
    snippet: Callable[[ExportSource], str]
    """Python that loads it, run in its directory: it leaves `model` behind."""
