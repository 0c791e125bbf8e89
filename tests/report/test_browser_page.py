"""The frame of a page in a real browser: what runs in it, and what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, Browser

from moco.report.browser_page import Part, data_block, page, text

HOSTILE = (
    "</script><script>document.title='run'</script>\u2028\u2029<!--<img src=//example.org/x>'\"&\n"
)


def written(tmp_path: Path, html: str) -> Path:
    file = tmp_path / "page.html"
    file.write_text(html, encoding="utf-8")
    return file


def test_data_reach_the_script_whatever_they_hold(tmp_path: Path, browser: Browser) -> None:
    script = "window.given = JSON.parse(document.getElementById('data').textContent);"
    part = Part(data_block("data", {HOSTILE: [1.5, None]}), script)
    tab = browser.open(written(tmp_path, page(HOSTILE, [part, part])), *DESKTOP)
    assert tab.run("window.given") == {HOSTILE: [1.5, None]}
    assert tab.text("h1") == tab.run("document.title")
    assert tab.text("h1").startswith("</script><script>document.title='run'</script>\\x2028")
    assert tab.count("script, img") == 0
    assert tab.requests == [(tmp_path / "page.html").as_uri()]
    assert not tab.errors
    tab.close()


@pytest.mark.parametrize(
    "enemy",
    [
        "<script>document.title = 'run'</script>",
        "<svg onload=\"document.title = 'run'\"></svg>",
        "<script src=https://example.org/x.js></script>",
        "<img src=https://example.org/x.png>",
        "<style>@import 'https://example.org/x.css';</style>",
        "<iframe src=https://example.org></iframe>",
    ],
)
def test_html_that_slipped_through_neither_runs_nor_asks(
    enemy: str, tmp_path: Path, browser: Browser
) -> None:
    file = written(tmp_path, page("title", [Part(enemy, "document.body.id = 'ours';")]))
    tab = browser.open(file, *DESKTOP)
    assert tab.run("document.body.id") == "ours"  # our own script ran
    assert tab.run("document.title") == "title"
    assert tab.requests == [file.as_uri()]
    assert tab.errors  # the browser says what it kept from running: so the driver hears it
    tab.close()


def test_each_script_and_style_stands_once_and_none_can_end_its_element() -> None:
    part = Part("<p></p>", "let only = 1;", ".only { color: red; }")
    html = page("title", [part, part])
    assert html.count("let only") == html.count(".only") == 1
    for enemy in ("x = '</script>'", "x <!-- y", "a\r\nb"):
        with pytest.raises(ValueError, match="must hold no tag"):
            page("title", [Part("", enemy)])


def test_text_is_one_line_without_marks_that_steer_the_eye() -> None:
    assert text("a\nb\u202e<\x00\udc80") == "a b\\x202e&lt;\\x00\\xdc80"


def test_the_driver_sees_window_scheme_and_keys(tmp_path: Path, browser: Browser) -> None:
    body = "<button id=one>one</button><button id=two>two</button>"
    script = "document.getElementById('two').onclick = () => { document.title = 'two'; };"
    tab = browser.open(written(tmp_path, page("title", [Part(body, script)])), *PHONE, dark=True)
    assert tab.run("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [
        390,
        True,
    ]
    assert tab.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    tab.press("Tab")
    tab.press("Tab")
    assert tab.run("document.activeElement.id") == "two"
    tab.press("Enter")
    assert tab.run("document.title") == "two"
    tab.close()
