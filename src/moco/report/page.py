"""Parts of a page as HTML: tables, pictures, pairs, neighbours. One file that holds it all."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667; --edge: #d5d9df; --line: #2360c5;
  --good: #16794c; --bad: #b3261e; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa4b2; --edge: #3a414b;
  --line: #7aa7f5; --good: #5cc490; --bad: #f2837a; --paper: #16191d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.soft, figcaption, td.soft { color: var(--soft); } .verdict { font-size: 1.1rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; border-bottom: 1px solid var(--edge);
  vertical-align: top; }
td.figure { font-variant-numeric: tabular-nums; } tr.best td { font-weight: 600; }
td small { font-weight: 400; color: var(--soft); white-space: nowrap; }
svg { width: 100%; height: auto; font-size: 12px; fill: var(--soft); }
.grid { stroke: var(--edge); } .line { fill: none; stroke: var(--line); stroke-width: 2; }
.reference { stroke: var(--soft); stroke-dasharray: 5 4; }
.strip { display: flex; flex-wrap: wrap; gap: .8rem; } .pair { display: flex; gap: 2px; }
img { display: block; width: 84px; height: 84px; object-fit: cover; border-radius: 3px;
  image-rendering: auto; }
.neighbours { display: grid; grid-template-columns: repeat(2, max-content); gap: .4rem 2rem; }
.same img { outline: 3px solid var(--good); } .other img { outline: 3px solid var(--bad); }
.row { display: flex; gap: 8px; padding: 3px; } .query { margin-right: 10px; }
.row img { width: 62px; height: 62px; }
"""


@dataclass(frozen=True)
class Cell:
    """An image on the page, framed by whether its class is the asked one; None without labels."""

    picture: Image.Image
    name: str
    same_class: bool | None = None


def page(title: str, sections: Sequence[str]) -> str:
    """Return the whole HTML document; `sections` are HTML already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">"
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{_text(title)}</h1>{''.join(sections)}</body></html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """Return a headed section of HTML parts."""
    return f"<section><h2>{_text(heading)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{kind}">{_text(text)}</p>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    """Return a table of plain text; text after a line break in a cell is set small."""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = []
    for number, row in enumerate(rows):
        cells = []
        for cell in row:
            large, _, small = cell.partition("\n")
            note = f"<br><small>{_text(small)}</small>" if small else ""
            cells.append(f'<td class="figure">{_text(large)}{note}</td>')
        kind = ' class="best"' if number == best else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody>'
        "</table></div>"
    )


def pairs(images: Sequence[tuple[Cell, Cell]]) -> str:
    """Return pairs of pictures side by side: the two views of an image."""
    shown = "".join(
        f'<div class="pair">{_picture(left)}{_picture(right)}</div>' for left, right in images
    )
    return f'<div class="strip">{shown}</div>'


def neighbour_rows(rows: Sequence[tuple[Cell, Sequence[Cell], Sequence[Cell]]]) -> str:
    """Return for each asked image its neighbours before and after training."""
    parts = ["<div class='wide'><div class='neighbours'><b>untrained</b><b>trained</b>"]
    for asked, before, after in rows:
        for neighbours in (before, after):
            cells = "".join(_picture(cell) for cell in neighbours)
            parts.append(
                f'<div class="row"><div class="query">{_picture(asked)}</div>{cells}</div>'
            )
    return "".join(parts) + "</div></div>"


def _text(text: str) -> str:
    """Return plain text as HTML; marks that would steer the reader's eye are shown as escapes."""
    visible = (
        letter if letter.isprintable() else f"\\x{ord(letter):02x}"
        for letter in text.replace("\n", " ")
    )
    return escape("".join(visible), quote=True)


def _picture(cell: Cell) -> str:
    kind = {None: "plain", True: "same", False: "other"}[cell.same_class]
    name = _text(cell.name)
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
