from __future__ import annotations

from html.parser import HTMLParser

from PIL import Image

from moco.report.browser_page import page
from moco.report.page import Cell, neighbour_rows, pairs, paragraph, table

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>.png'


class Tags(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(html)
    return parser.found


def test_hostile_names_and_texts_stay_text() -> None:
    cell = Cell(Image.new("L", (20, 20)), HOSTILE, same_class=True)
    html = page(
        HOSTILE,
        [
            paragraph(HOSTILE),
            table([HOSTILE], [[f"{HOSTILE}\n{HOSTILE}"]]),
            pairs([(cell, cell)]),
            neighbour_rows([(cell, [cell], [cell])]),
        ],
    )
    tags = tags_of(html)
    assert "script" not in {tag for tag, _ in tags}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert all(
        (attributes["src"] or "").startswith("data:image/jpeg;base64,")
        for tag, attributes in tags
        if tag == "img"
    )


def test_nothing_is_fetched_and_the_page_forbids_it() -> None:
    html = page("title", [paragraph("text")])
    assert "default-src 'none'" in html
    assert "http://" not in html
    assert "https://" not in html


def test_frames_say_whether_a_neighbour_has_the_asked_class() -> None:
    picture = Image.new("RGB", (200, 100))
    cells = [Cell(picture, "a", same) for same in (True, False, None)]
    html = neighbour_rows([(cells[2], cells[:1], cells[1:2])])
    kinds = [attributes.get("class") for tag, attributes in tags_of(html) if tag == "div"]
    assert kinds.count("same") == 1
    assert kinds.count("other") == 1
    assert kinds.count("plain") == 2  # the asked image stands in both halves
