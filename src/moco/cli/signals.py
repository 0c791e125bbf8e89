"""Signals ask a run to stop after its step and save; a second INT stops it at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopSignals:
    """While in use, TERM, HUP, INT, USR1 and USR2 only set what `asked` returns.

    `asked` is None, or the exit code to stop with: 130 for INT, 75 for the others, and for a run
    whose launcher is gone. A HUP that is ignored already, as under nohup, stays so. Once a stop was
    asked for, further signals but INT are ignored to the end of the process: it is about to end
    with its code, and launchers like to ask twice.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._before: dict[int, object] = {}

    def asked(self) -> int | None:
        """Return the exit code to stop with, None to go on."""
        if self.code is None and self.launcher not in (None, os.getppid()):
            self.code = 75  # nobody would end it any more
        return self.code

    def __enter__(self) -> StopSignals:
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            number = getattr(signal, name, None)  # Windows has two of them
            if number is None:
                continue
            if name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            is_over = self.code is not None and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if is_over else handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.code == 130:
            raise KeyboardInterrupt
        self.code = 130 if number == signal.SIGINT else 75
