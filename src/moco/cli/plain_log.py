"""A run's lines where no terminal is: few enough for days; no torch in here."""

from __future__ import annotations

LOG_EVERY_SECONDS = 10.0
SHARE_OF_RUN = 0.02
"""Later, a line comes when the run is so much longer than at the last one."""
LONGEST_SILENCE_SECONDS = 600.0
NEWS_COME_SOONER = 4
"""So many times sooner than a line without: a new score, another verdict."""


class LogTimes:
    """When a line is due: often at first, so that one sees it run, and ever more rarely.

    Args:
        began: when the run did, in seconds by any clock.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.last: float | None = None

    def is_due(self, now: float, *, is_news: bool = False) -> bool:
        """Say whether a line is due; the first always is."""
        if self.last is None:
            return True
        wait = max(LOG_EVERY_SECONDS, SHARE_OF_RUN * (now - self.began))
        wait = min(wait, LONGEST_SILENCE_SECONDS)
        return now - self.last >= (wait / NEWS_COME_SOONER if is_news else wait)

    def written(self, now: float) -> None:
        """Take note of a line."""
        self.last = now
