"""Counts and names in messages."""

from __future__ import annotations


def counted(count: int, what: str = "image") -> str:
    """Return 1 image, or 2,000 images."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def plain_text(name: str) -> str:
    """Return a name, which may hold anything, as letters that do nothing to a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
