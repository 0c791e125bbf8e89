"""What the pages hold: fenced and indented blocks, code spans, links, headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
REMARK = re.compile(r"<!-- (not run|comes with): (?:moco )?(.+) -->")
FENCE = re.compile(r"^```(\w*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block, or one that four spaces indent."""

    page: str
    line: int
    """Of its first line of content, counted from 1."""
    language: str
    lines: tuple[str, ...]
    not_run: str = ""
    """Why its commands are not run, from a comment before it."""
    comes_with: str = ""
    """A command that the block is about, which an earlier version has not, from such a comment."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def commands(self) -> list[str]:
        """What one types, without remarks: behind `$ ` in a console block, every line elsewhere."""
        lines = re.sub(r"\\\n\s*", "", self.text).split("\n")
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        without = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in lines)
        return [line for line in without if line]

    @property
    def shown(self) -> dict[str, list[str]]:
        """What a console block shows of the output of each of its commands."""
        outputs: dict[str, list[str]] = {}
        held: list[str] = []
        for line in re.sub(r"\\\n\s*", "", self.text).split("\n"):
            if line.startswith("$ "):
                held = outputs.setdefault(re.sub(r"\s+#.*$", "", line[2:]).strip(), [])
            elif line.strip() != "...":
                held.append(line)
        return outputs


def blocks_of(page: Path) -> list[Block]:
    """Return a page's blocks in their order."""
    blocks: list[Block] = []
    language, start, held = "", 0, list[str]()
    remarks: dict[str, str] = {}
    is_fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if is_fenced and fence:
            why, command = remarks.get("not run", ""), remarks.get("comes with", "")
            blocks.append(Block(page.name, start, language, tuple(held), why, command))
            held, remarks, is_fenced = [], {}, False
        elif is_fenced:
            held.append(line)
        elif fence:
            language, start, is_fenced = fence[1], number + 1, True
        elif line.startswith("    ") and not line.lstrip().startswith(("-", "*")):
            if blocks and blocks[-1].line + len(blocks[-1].lines) == number:  # one line more
                before = blocks.pop()
                blocks.append(Block(page.name, before.line, "", (*before.lines, line.strip())))
            else:
                blocks.append(Block(page.name, number, "", (line.strip(),)))
        elif found := REMARK.match(line):
            remarks[found[1]] = found[2]
    assert not is_fenced, f"{page.name}: a fence at line {start} is never closed"
    return blocks


def prose_of(page: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def spans_of(page: Path) -> list[str]:
    """Return what stands between single backticks."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose_of(page))]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
        for heading in headings
    }


def words_of(command: str) -> list[str]:
    """Return a command's words as a shell makes them, remarks left out."""
    return shlex.split(command, comments=True)


def gist(line: str) -> str:
    """Return a line's words without figures, time left and what a setting is.

    Of a table's row the first cell counts.
    """
    line = re.sub(r" = .*|\d+ \w+ left$|\bmin\b|\(outside\)", "", line)
    cell = re.split("[│┃]", line)[1] if re.match(r"\s*[│┃]", line) else line
    return " ".join(re.findall(r"[a-z]{3,}", cell.lower()))
