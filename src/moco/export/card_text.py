"""Text from outside in Markdown and YAML: shown as it is, and never read as either; no torch."""

from __future__ import annotations

import json
import re

LONGEST = 400
"""Letters of a text from a file; what is longer is no name."""


def plain(text: object) -> str:
    """Return a text on one line, of letters that can be seen."""
    return "".join(
        letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in str(text)
    )[:LONGEST]


def in_markdown(text: object) -> str:
    """Return a text for Markdown: none of it is a link, a tag, a table or emphasis."""
    return re.sub(r"([!-/:-@\[-`{-~])", _escaped, plain(text))


def in_yaml(text: object) -> str:
    """Return a text as a double-quoted scalar."""
    return json.dumps(plain(text))


def fenced(content: str, language: str = "") -> str:
    """Return text in a block of code that nothing inside it ends."""
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(
        "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in line)
        for line in content.rstrip("\n").split("\n")
    )
    return f"{fence}{language}\n{lines}\n{fence}"


def table(title: str, rows: list[tuple[str, str]]) -> str:
    """Return a table of two columns, whose cells are Markdown already."""
    lines = [f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)


def _escaped(found: re.Match[str]) -> str:
    letter = found.group(1)
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(letter, f"\\{letter}")
