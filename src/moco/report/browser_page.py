"""The frame of a page: one file that fetches nothing and runs no script but its own.

A section is a `Part`: HTML, and the script and style that it needs, once each on a page. The
page's Content-Security-Policy allows no address at all, pictures only as data, and of scripts and
styles only these, by their SHA-256: text that slipped through as HTML could neither run nor fetch
anything. So HTML of parts has no `style=` and no `on...=` attributes; scripts may set
`element.style.left` and such.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moco.plain_files import open_regular

ENDS_A_BLOCK = re.compile(r"</?(script|style)|<!--|\r|\0", re.IGNORECASE)
"""What in a script would end its element early, or be read as another text than was hashed."""


@dataclass(frozen=True)
class Part:
    """A section of a page.

    Attributes:
        html: finished HTML; whatever came from files is escaped in it (`text`, `data_block`).
        script: a classic script that runs when the page is there, "" without one.
        style: CSS that goes with it.
        link: the id of its element and what the page's list of contents calls it, if it is there.
    """

    html: str
    script: str = ""
    style: str = ""
    link: tuple[str, str] | None = None


def page(
    title: str,
    parts: Sequence[Part | str],
    *,
    heading: str | None = None,
    made_by: str = "moco",
) -> str:
    """Return the whole HTML document.

    Args:
        parts: in their order; a str is HTML that needs no script.
        heading: HTML in the place of the title's own heading.
        made_by: which command, by which `is_made_by` knows its page.

    Raises:
        ValueError: A script or style cannot stand in HTML.
    """
    given = [part if isinstance(part, Part) else Part(part) for part in parts]
    styles = _each_once([packaged("page.css"), *(part.style for part in given)])
    scripts = _each_once(part.script for part in given)
    top = f"<h1>{text(title)}</h1>" if heading is None else heading
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(styles, scripts)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{_generator(made_by)}"
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(title)}</title>{''.join(f'<style>{style}</style>' for style in styles)}"
        f"</head><body><main>{top}{_contents(given)}{''.join(part.html for part in given)}</main>"
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


def is_made_by(made_by: str, file: Path) -> bool:
    """Say whether a file is a page that this command wrote.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    with open_regular(file) as content:
        return _generator(made_by).encode() in content.read(4096)


def packaged(name: str) -> str:
    """Return a script or style that stands beside this module as a file of its own."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def data_block(identifier: str, values: Any) -> str:
    """Return values for a script: `JSON.parse(document.getElementById(identifier).textContent)`.

    All that could end the element or a line of it is written as an escape.

    Args:
        values: plain ones; numbers are finite or None.
    """
    content = json.dumps(values, separators=(",", ":"), allow_nan=False)  # ASCII: no U+2028
    for letter in "<>&":
        content = content.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{text(identifier)}">{content}</script>'


def bytes_block(identifier: str, values: NDArray[Any]) -> str:
    """Return numbers for a script, as base64 of their bytes, the low one of each first."""
    ordered = values.astype(values.dtype.newbyteorder("<"), copy=False)
    content = base64.b64encode(ordered.tobytes()).decode()
    return f'<script type="application/octet-stream" id="{text(identifier)}">{content}</script>'


def visible(given: str) -> str:
    """Return text on one line; marks that would steer the reader's eye are shown as escapes."""
    return "".join(
        letter if letter.isprintable() else f"\\x{ord(letter):02x}"
        for letter in given.replace("\n", " ")
    )


def text(given: str) -> str:
    """Return plain text as HTML, for an element or a quoted attribute."""
    return escape(visible(given), quote=True)


def _generator(made_by: str) -> str:
    return f'<meta name="generator" content="{text(made_by)}">'


def _contents(parts: Sequence[Part]) -> str:
    """Return links to the sections, nothing where a glance finds them."""
    links = [
        f'<li><a href="#{text(part.link[0])}">{text(part.link[1])}</a></li>'
        for part in parts
        if part.link and part.html
    ]
    if len(links) < 2:
        return ""
    return f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'


def _each_once(texts: Iterable[str]) -> list[str]:
    once = [each for each in dict.fromkeys(texts) if each]
    for each in once:
        if ENDS_A_BLOCK.search(each):
            raise ValueError("a script or style of a page must hold no tag, comment mark or return")
    return once


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    def sources(texts: Sequence[str]) -> str:
        return " ".join(f"'sha256-{_digest(each)}'" for each in texts) or "'none'"

    return (
        f"default-src 'none'; img-src data:; style-src {sources(styles)}; "
        f"script-src {sources(scripts)}; base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
