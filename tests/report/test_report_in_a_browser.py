"""The page of `moco report` as a reader has it: pointed at, printed, attacked; in a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, Browser
from browser_tab import Tab
from report_runs import RECIPE, made_run

from moco.cli.main import main

HOSTILE = "</script><script>document.title='run'</script>\"'><img src=x onerror=alert(1)>\u2028\n"
CONTRASTS = """(() => {
  const luminance = (rgb) => rgb.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = colour(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("script")) continue;
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(colour(ink).slice(0, 3)), luminance(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([contrast, element.className.baseVal ?? element.className, element.textContent]);
  }
  for (const curve of document.querySelectorAll(".curve")) {
    const a = luminance(colour(getComputedStyle(curve).stroke)), b = luminance(behind(curve));
    found.push([1.5 * (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), "curve", ""]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()"""
"""Of all text with what is behind it, lowest first; times 1.5 of lines, which need 3, not 4.5."""


def reported(out: Path, *runs: Path, more: tuple[str, ...] = ()) -> Path:
    assert main(["report", *map(str, runs), "--out", str(out), *more]) == 0
    return out


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Return the page of one run, with everything that a page can have."""
    at = tmp_path_factory.mktemp("one")
    run = made_run(at / "run")
    (run / "knn.json").write_text(json.dumps({"sweep": [], "measure": "top1", "top1": 0.5}))
    return reported(at / "page.html", run, more=("--images", str(photos)))


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of three runs that differ in their learning rate."""
    at = tmp_path_factory.mktemp("three")
    rates = {"low": 0.01, "middle": 0.03, "high": 0.1}
    runs = [
        made_run(
            at / name,
            recipe=replace(RECIPE, optimizer=replace(RECIPE.optimizer, learning_rate=rate)),
        )
        for name, rate in rates.items()
    ]
    return reported(at / "page.html", *runs)


def is_quiet(tab: Tab, file: Path) -> bool:
    assert not tab.errors
    assert tab.requests == [file.as_uri()]
    return True


def test_nothing_leaves_the_page_and_the_console_is_silent(one: Path, browser: Browser) -> None:
    tab = browser.open(one, *DESKTOP)
    assert tab.count("figure.chart") > 15
    assert tab.count("#views img") == 24
    for chart in json.loads(tab.run("document.getElementById('curves-data').textContent"))[
        "charts"
    ]:
        tab.hover(f"[data-chart={chart['key']}] svg", across=0.6)
    assert tab.pdf().startswith(b"%PDF")
    assert is_quiet(tab, one)
    tab.close()


def test_pointing_shows_the_values_there_in_all_charts(one: Path, browser: Browser) -> None:
    tab = browser.open(one, *DESKTOP)
    at_end = tab.text("[data-chart=loss] .reading b")
    assert at_end == "4.749"  # of step 199: 4 + 2 exp(-199 / 200) + 0.01
    assert tab.text("[data-chart=loss] .at").startswith("step 199")
    tab.hover("[data-chart=loss] svg", across=44 / 360)  # the plot's left edge
    assert tab.text("[data-chart=loss] .reading b") == "6"
    assert tab.text("[data-chart=loss] .at") == "step 0 (epoch 0.0)"
    assert tab.text("[data-chart=rank] .at") == "step 0 (epoch 0.0)"
    assert tab.text("[data-chart=rank] .reading b") == "22.4"  # the first is of step 24
    assert tab.text("[data-chart=consistency] .at") == "key age in steps 40"  # another axis
    middle = 44 + (360 - 44 - 10) / 2
    tab.hover("[data-chart=pretext] svg", across=middle / 360)
    step = int(tab.text("[data-chart=pretext] .at").split()[1])
    assert abs(step - 99.5) <= 1
    assert abs(float(tab.text("[data-chart=pretext] .reading b").split()[0]) - step / 10) <= 0.11
    tab.hover("[data-chart=pretext] svg", across=(44 + (360 - 44 - 10) * 45 / 199) / 360)
    assert tab.text("[data-chart=rank] .reading b") == "24.9"  # of step 49, nearer than 24
    tab.hover("h1")
    assert tab.text("[data-chart=loss] .reading b") == at_end
    assert tab.count("figure .cursor line") == 0
    tab.close()


def test_the_contents_lead_to_the_sections(one: Path, browser: Browser) -> None:
    tab = browser.open(one, *PHONE)
    links = "[...document.querySelectorAll('nav a')].map(link => link.getAttribute('href'))"
    assert tab.run(links) == ["#curves", "#evaluations", "#views", "#run"]
    tab.click("nav a[href='#run']")
    tab.wait_for("Math.abs(document.querySelector('#run').getBoundingClientRect().top) < 60")
    assert is_quiet(tab, one)
    tab.close()


def test_a_finger_shows_values_too_and_a_phone_scrolls_one_way(one: Path, browser: Browser) -> None:
    tab = browser.open(one, *PHONE)
    assert tab.run("document.documentElement.scrollWidth") == PHONE[0]
    tab.tap("[data-chart=loss] svg", across=44 / 360)
    assert tab.text("[data-chart=loss] .at") == "step 0 (epoch 0.0)"
    small = "[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)"
    assert min(tab.run(small)) >= 11  # pixels: legible
    assert is_quiet(tab, one)
    tab.close()


def test_keys_alone_reach_and_read_a_chart(one: Path, browser: Browser) -> None:
    tab = browser.open(one, *DESKTOP)
    active = "document.activeElement.closest('figure')?.dataset.chart"
    for _ in range(10):
        tab.press("Tab")
        if tab.run(active) == "loss":
            break
    assert tab.run(active) == "loss"
    tab.press("Home")
    assert tab.text("[data-chart=loss] .at") == "step 0 (epoch 0.0)"
    tab.press("ArrowRight")
    assert tab.text("[data-chart=loss] .at").startswith("step 1 ")
    tab.press("ArrowRight", shift=True)
    assert tab.text("[data-chart=loss] .at").startswith("step 11 ")
    spoken = tab.run("document.activeElement.getAttribute('aria-valuetext')")
    assert spoken.startswith("step 11 (epoch 0.2): loss 5.9")
    tab.press("Escape")
    assert tab.text("[data-chart=loss] .at").startswith("step 199")
    tab.press("Tab")
    assert tab.run(active) == "similarity"
    tab.close()


def test_runs_compare_and_are_hidden_by_mouse_and_keys(three: Path, browser: Browser) -> None:
    tab = browser.open(three, *DESKTOP)
    assert tab.count("[data-chart=rate] .curve") == 3
    rates = "[...document.querySelectorAll('[data-chart=rate] .reading b')].map(e => e.innerText)"
    assert tab.run(rates) == ["0.01", "0.03", "0.1"]
    assert "optimizer.learning_rate" in tab.text("main")
    tab.click("button[data-toggle='1']")
    assert tab.count("[data-chart=rate] .curve") == 2
    assert tab.count("[data-chart=rate] .reading li") == 2
    assert tab.run("document.querySelector('[data-toggle=\"1\"]').ariaPressed") == "false"
    tab.hover("[data-chart=rate] svg")
    assert tab.count("[data-chart=rate] .cursor circle") == 2
    tab.run("document.querySelector('[data-toggle=\"1\"]').focus()")
    tab.press(" ")
    assert tab.count("[data-chart=rate] .curve") == 3
    assert is_quiet(tab, three)
    tab.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_all_text_stands_out(
    size: tuple[int, int], dark: bool, one: Path, three: Path, browser: Browser
) -> None:
    for file in (one, three):
        tab = browser.open(file, *size, dark=dark)
        assert tab.run("document.documentElement.scrollWidth") == size[0]
        worst, kind, text = tab.run(CONTRASTS)[0]
        assert worst >= 4.5, (kind, text)
        assert is_quiet(tab, file)
        tab.close()


def test_paper_is_light_and_unfolds_what_is_folded(one: Path, browser: Browser) -> None:
    tab = browser.open(one, *DESKTOP, dark=True)
    tab.show(dark=True, printed=True)
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run(CONTRASTS)[0][0] >= 4.5
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run("[...document.querySelectorAll('details')].every(each => each.open)")
    tab.close()


def test_without_scripts_the_page_still_says_it_all(one: Path, browser: Browser) -> None:
    html = one.read_text()
    tab = browser.open(one, *DESKTOP)
    values = "[...document.querySelectorAll('.reading b')].map(value => value.textContent)"
    assert re.findall("<b>(.*?)</b>", html) == tab.run(values)  # the script has the same rule
    tab.close()
    tab = browser.open(one, *DESKTOP, scripts=False)
    assert "<b>4.749</b>" in html
    assert html.count('class="curve"') > 15
    assert not tab.errors
    tab.close()


def test_what_files_say_stays_text(
    tmp_path: Path, photos: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE.replace("/", "\\").replace("\0", "")
    run = made_run(
        tmp_path / name,
        recipe=replace(RECIPE, name="<b>'x", source=HOSTILE),
        status={"state": "failed", "reason": HOSTILE, "versions": {HOSTILE: HOSTILE}},
    )
    other = made_run(tmp_path / f"{name}2", recipe=replace(RECIPE, name=HOSTILE))
    figures = {"sweep": HOSTILE, "measure": HOSTILE, "layer": HOSTILE, "top1": HOSTILE}
    (run / f"{name}.json").write_text(json.dumps(figures))
    compared = {"models": [{"name": HOSTILE}], "leads": {}, "words": {"knn": [HOSTILE]}}
    (run / "compared.json").write_text(json.dumps(compared))
    checkpoints = {"checkpoints": [{"path": HOSTILE}, 5], "chosen": {}}
    (run / "checkpoints.json").write_text(json.dumps(checkpoints))
    images = tmp_path / "images"
    images.mkdir()
    (images / f"{name}.png").write_bytes(next(photos.rglob("*.png")).read_bytes())
    for runs in ((run,), (run, other)):
        file = reported(tmp_path / "page.html", *runs, more=("--images", str(images)))
        tab = browser.open(file, *PHONE)
        assert "<script>document.title" in tab.text("h1" if len(runs) == 1 else ".legend")
        assert tab.run("document.title") != "run"
        assert tab.count("main b:not(.reading b, .kicker b)") == 0
        assert tab.run("[...document.images].every(i => i.src.startsWith('data:'))")
        assert tab.run("document.documentElement.scrollWidth") == PHONE[0]
        assert is_quiet(tab, file)
        tab.close()
    assert "\u2028" not in capsys.readouterr().out
