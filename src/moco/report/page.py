"""Parts of a page as HTML: tables, pictures, pairs, neighbours. One file that holds it all."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from moco.report.browser_page import text


@dataclass(frozen=True)
class Cell:
    """An image on the page, framed by whether its class is the asked one; None without labels."""

    picture: Image.Image
    name: str
    same_class: bool | None = None


def section(heading: str, *parts: str, key: str = "") -> str:
    """Return a headed section of HTML parts; `key` names it for links and scripts."""
    name = f' id="{text(key)}"' if key else ""
    return f"<section{name}><h2>{text(heading)}</h2>{''.join(parts)}</section>"


def paragraph(words: str, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{kind}">{text(words)}</p>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    """Return a table of plain text; text after a line break in a cell is set small."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = []
    for number, row in enumerate(rows):
        cells = []
        for cell in row:
            large, _, small = cell.partition("\n")
            note = f"<br><small>{text(small)}</small>" if small else ""
            cells.append(f'<td class="figure">{text(large)}{note}</td>')
        kind = ' class="best"' if number == best else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody>'
        "</table></div>"
    )


def fact_table(
    rows: Mapping[str, Sequence[str]], columns: Sequence[str] = (), *, caption: str
) -> str:
    """Return a table with a title before each row; it scrolls in itself where it is too wide.

    Args:
        columns: above the values; none for a single one.
        caption: what it is, for those who hear the page.
    """
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{_breakable(title)}</th>'
        + "".join(f'<td class="long">{text(value)}</td>' for value in values)
        + "</tr>"
        for title, values in rows.items()
    )
    top = f"<thead><tr><td></td>{head}</tr></thead>" if columns else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="facts">{top}<tbody>{body}</tbody></table></div>'
    )


def _breakable(name: str) -> str:
    """Return a setting's name as HTML that a narrow page breaks after a dot or underscore."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", text(name))


def pairs(images: Sequence[tuple[Cell, Cell]]) -> str:
    """Return pairs of pictures side by side: the two views of an image."""
    shown = "".join(
        f'<div class="pair">{_picture(left)}{_picture(right)}</div>' for left, right in images
    )
    return f'<div class="strip">{shown}</div>'


def neighbour_rows(rows: Sequence[tuple[Cell, Sequence[Cell], Sequence[Cell]]]) -> str:
    """Return for each asked image its neighbours before and after training."""
    halves: dict[str, list[str]] = {"untrained": [], "trained": []}
    for asked, *both in rows:
        for half, neighbours in zip(halves.values(), both, strict=True):
            cells = "".join(_picture(cell) for cell in neighbours)
            half.append(f'<div class="row"><div class="query">{_picture(asked)}</div>{cells}</div>')
    shown = "".join(f"<div><b>{title}</b>{''.join(half)}</div>" for title, half in halves.items())
    return f'<div class="neighbours">{shown}</div>'


def _picture(cell: Cell) -> str:
    kind = {None: "plain", True: "same", False: "other"}[cell.same_class]
    name = text(cell.name)
    return (
        f'<div class="{kind}"><img alt="{name}" title="{name}" '
        f'src="data:image/jpeg;base64,{_encoded(cell.picture)}"></div>'
    )


def _encoded(picture: Image.Image, side: int = 168) -> str:
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    if max(small.size) < 84:  # tiny images are enlarged here, sharply, rather than by the browser
        factor = -(-84 // max(small.size))
        small = small.resize(
            (small.width * factor, small.height * factor), Image.Resampling.NEAREST
        )
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode("ascii")
