"""Who is told how a run goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from moco.contrast import Contrast
from moco.plan import Plan


class DiagnosisInWords(Protocol):
    """What the doctor says of a run so far, as far as a display needs it."""

    @property
    def verdict(self) -> str:
        """A word or a few, such as "healthy"."""

    @property
    def words(self) -> str:
        """The same as a sentence."""

    @property
    def is_sick(self) -> bool:
        """Whether something is wrong with the learning."""


class Report(Protocol):
    """Who is told how a run goes; the command line shows it, the default says nothing."""

    def planned(self, plan: Plan, contrast: Contrast) -> None:
        """The run is about to begin."""

    def note(self, text: str) -> None:
        """Something the user should know, one line."""

    def stepped(self, row: Mapping[str, Any], plan: Plan) -> None:
        """Figures up to this step are known; called every `READ_EVERY_STEPS` steps."""

    def examined(self, diagnosis: DiagnosisInWords) -> None:
        """The doctor looked at the run; called when the signals were read."""

    def ended(self) -> None:
        """No more steps follow."""


class SilentReport:
    """Says nothing."""

    def planned(self, plan: Plan, contrast: Contrast) -> None: ...

    def note(self, text: str) -> None: ...

    def stepped(self, row: Mapping[str, Any], plan: Plan) -> None: ...

    def examined(self, diagnosis: DiagnosisInWords) -> None: ...

    def ended(self) -> None: ...
