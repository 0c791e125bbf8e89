"""Seconds in words; no torch in here."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return seconds as 45 s, 12 min, 3 h 20 min or 2 d 4 h."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if hours < 2:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {round(seconds % 3600 / 60)} min"
    return f"{hours // 24} d {hours % 24} h"
