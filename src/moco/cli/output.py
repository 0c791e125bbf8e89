"""Text on standard output, whatever letters it can hold; no torch in here."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print the text, letters that the output cannot hold or that steer a terminal as escapes."""
    if sys.stdout is None:  # closed by whoever started the command
        return
    print("\n".join(printable(line) for line in text.split("\n")))


def printable(text: str) -> str:
    """Return the text on one line, in letters that the output can hold; names need be neither."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    encoded = text.encode(encoding, "backslashreplace").decode(encoding)
    return "".join(
        letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in encoded
    )
