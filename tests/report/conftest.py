"""One browser for all tests of pages; without one they are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, why_no_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a headless Chromium."""
    if reason := why_no_browser():
        pytest.skip(reason)
    with Browser() as started:
        yield started
