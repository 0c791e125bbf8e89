"""What a run writes and prints: no secret of the environment, no letter of a name that acts."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import sys
import threading
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import command
from PIL import Image

from moco.report.browser_page import packaged

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG-bPxRfiCYPLANTED",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdefPLANTED",
    "HF_TOKEN": "hf_PLANTEDabcdefghijklmnopqrstuv",
    "SOMETHING_ELSE": "qZ7-random-PLANTED-0815",
}
NAMES = (
    '"><script>alert(1)</script>.png',
    "<img src=x onerror=alert(2)>.png",
    "' onmouseover='alert(3).png",
    "new\nline\r.png",
    "\x1b[31mred\x1b[0m\x07.png",
    "\x9b31m one byte.png",
    "right\u202eto left\u2066.png",
    "&lt;script&gt;.png",
    "</title><svg onload=alert(4)>.png",
    "half a letter \udcff\udc80.png",
    "javascript:alert(5).png",
    "{{7*7}} ${7*7} [link](http://a.org) [red]x[/red].png",
)
STEERING = {*map(chr, range(32)), *map(chr, range(127, 160))} - {"\n"}
BIDI = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
listening: list[str] = []
is_watched = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not is_watched or event not in ("socket.bind", "socket.connect", "socket.getaddrinfo"):
        return
    # loading processes hand tensors over by way of files that only this user may open
    if getattr(arguments[0], "family", None) != socket.AF_UNIX:
        listening.append(f"{event} {arguments[1:]}")


sys.addaudithook(watch)


def own_listeners() -> set[str]:
    """Return the listening TCP sockets that this process holds."""
    held = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            held.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in held:
                found.add(fields[1])
    return found


class Run:
    """A demo of images with hostile names, its environment full of secrets."""

    def __init__(self, at: Path) -> None:
        global is_watched
        self.at, self.heard = at, set[str]()
        self.images = at / 'images <b onclick="x">\u202e'
        ended = threading.Event()

        def listen() -> None:
            while not ended.wait(0.02):
                self.heard |= own_listeners()

        thread = threading.Thread(target=listen)
        thread.start()
        is_watched = True
        try:
            words = ["--run", at / "run\x1b[31m", "--epochs", "1", "--device", "cpu"]
            self.code, self.output, self.errors = command(
                *("demo", "--images", self.images, *words, "--json", at / "demo.json")
            )
            folders = ["--train", self.images, "--test", self.images]
            code, output, errors = command(
                *("evaluate", "knn", at / "run\x1b[31m", *folders, "--json", at / "knn.json")
            )
        finally:
            is_watched = False
            ended.set()
            thread.join()
        self.code, self.output, self.errors = (
            self.code or code,
            self.output + output,
            self.errors + errors,
        )

    @property
    def page(self) -> str:
        return (self.at / "run\x1b[31m" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    at = tmp_path_factory.mktemp("leaks")
    draw = np.random.default_rng(0)
    for number, folder in enumerate(("<i>dark\x1b[1m", "light\n\u202e'\"")):
        place = at / 'images <b onclick="x">\u202e' / folder
        place.mkdir(parents=True)
        for name in NAMES:
            for copy in range(2):
                pixels = draw.integers(0, 100 + 150 * number, (24, 24, 3), dtype=np.uint8)
                path = place / f"{copy}{name}"
                path.parent.mkdir(parents=True, exist_ok=True)  # "</title>" is a folder and a name
                Image.fromarray(pixels).save(path, "PNG")
    (place / "\x1b[31mbroken\n.png").write_text("404")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in SECRETS.items():
            environment.setenv(name, value)
        return Run(at)


def test_the_run_succeeded_and_shows_the_names(run: Run) -> None:
    assert run.code == 0, run.errors
    assert "skipped" in run.output + run.errors
    tags = Tags()
    tags.feed(run.page)
    shown = {value[1:] for value in tags.values("alt")}  # without the copy's number
    assert len({name for name in shown if any(part in name for part in ("alert", "7*7"))}) >= 4


def test_no_secret_reaches_a_file_or_the_output(run: Run) -> None:
    content = {path: path.read_bytes() for path in run.at.rglob("*") if path.is_file()}
    names = {path.name for path in content}
    assert names >= {"report.html", "recipe.yaml", "metrics.jsonl", "status.json", "demo.json"}
    assert names >= {"model.safetensors", "train_state.pt", "recipe.json", "knn.json"}
    for path in list(content):
        if path.suffix == ".pt":
            with zipfile.ZipFile(path) as archive:
                content[path] += b"".join(archive.read(name) for name in archive.namelist())
    content[Path("output")] = (run.output + run.errors).encode("utf-8", "surrogateescape")
    for name, secret in SECRETS.items():
        for path, found in content.items():
            assert secret.encode() not in found, (name, path)
            assert name.encode() not in found, (name, path)


class Tags(HTMLParser):
    """Collects every tag with its attributes, and the text outside them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [
            attributes[attribute] or "" for _, attributes in self.found if attribute in attributes
        ]


def sources_of(*texts: str) -> str:
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def test_the_page_has_only_our_own_tags_and_nothing_is_fetched(run: Run) -> None:
    tags = Tags()
    tags.feed(run.page)
    ours = "html head meta title style body h1 h2 section p b small br table thead tbody tr th td"
    ours += " div svg g line text path circle img main script figure figcaption h3 ul li i span"
    assert {tag for tag, _ in tags.found} <= set(ours.split())
    for tag, attributes in tags.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("href", "xlink:href", "action", "srcset", "srcdoc", "style")
            if name == "src":
                assert (value or "").startswith("data:image/jpeg;base64,")
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in tags.found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",  # frames, fonts, connections
        "img-src": "data:",
        "style-src": sources_of(packaged("page.css"), packaged("charts.css")),
        "script-src": sources_of(packaged("charts.js")),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert run.page.index("Content-Security-Policy") < run.page.index("<title>")


def test_no_letter_on_the_page_or_the_terminal_steers_the_reader(run: Run) -> None:
    for text in (run.page, run.output, run.errors):
        assert not set(text) & (STEERING | BIDI)
        assert text.encode("utf-8")  # no half of a letter either
    assert "\\x1b[31m" in run.output + run.errors


def test_machine_readable_files_are_json_whatever_the_names(run: Run) -> None:
    for path in run.at.rglob("*.json"):
        json.loads(path.read_text())
    for path in run.at.rglob("*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells who listens")
def test_nothing_listens_or_calls_out_during_a_run(run: Run) -> None:
    assert listening == []
    assert run.heard == set()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells who listens")
def test_a_listener_would_be_seen() -> None:
    global is_watched
    is_watched = True
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            assert own_listeners()
    finally:
        is_watched = False
    assert any("socket.bind" in line for line in listening)
    listening.clear()
