"""The map of images as a reader has it: pointed at, touched, walked over with keys, attacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Browser
from browser_tab import Tab
from made_map import CLASSES, COUNT, HOSTILE, LONER, Made, made_source, map_page, nearest_by_numpy

from moco.report.map_data import unit_places
from moco.report.mapped_images import MappedImages

SPAN = 1.06  # of the whole map, in embedding_map.js


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def mapped(made: Made) -> MappedImages:
    return made.mapped()


@pytest.fixture(scope="session")
def map_file(mapped: MappedImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return map_page(tmp_path_factory.mktemp("map") / "page.html", mapped)


def place_of(mapped: MappedImages, row: int) -> tuple[float, float]:
    """Where a dot is on the field, across and down, by the features and not by the script."""
    across, up = unit_places(mapped.plane.places)[row]
    return (across - 0.5) / SPAN + 0.5, 0.5 - (up - 0.5) / SPAN


def lonely(mapped: MappedImages) -> list[int]:
    """Rows of dots that none other is near to, so that a pixel decides nothing."""
    places = unit_places(mapped.plane.places)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places))
    return [int(row) for row in np.argsort(-distances.min(axis=1))[:5]]


def shown(tab: Tab) -> dict[str, Any]:
    found: dict[str, Any] = tab.run(
        "(() => { const of = (name) => [...document.querySelectorAll("
        "`.map-near[data-of=${name}] button`)].map(b => [Number(b.dataset.row), b.innerText, "
        "b.title, b.className]);"
        "return {name: document.querySelector('.map-name').textContent,"
        "kind: document.querySelector('.map-kind').textContent,"
        "trained: of('trained'), untrained: of('untrained')}; })()"
    )
    return found


def check(tab: Tab, made: Made, mapped: MappedImages, row: int) -> None:
    """Compare what stands beside the map with numpy's neighbours."""
    found, names = shown(tab), [mapped.images.name(each) for each in range(COUNT)]
    assert (found["name"], found["kind"]) == (names[row], mapped.labels[row])
    for which in ("trained", "untrained"):
        rows = np.array([made.rows[which][name] for name in names])
        expected = nearest_by_numpy(rows, row)
        assert [each[0] for each in found[which]] == [other for other, _ in expected]
        for (other, figure, title, kind), (_, cosine) in zip(found[which], expected, strict=True):
            assert title == f"{names[other]}, {mapped.labels[other]}"
            assert kind == ("same" if mapped.labels[other] == mapped.labels[row] else "other")
            if which == "trained":
                assert float(figure) == pytest.approx(cosine, abs=6e-4)


def test_pointing_shows_an_image_and_its_neighbours(
    made: Made, mapped: MappedImages, map_file: Path, browser: Browser
) -> None:
    tab = browser.open(map_file, *DESKTOP)
    check(tab, made, mapped, 0)
    for row in lonely(mapped):
        tab.hover(".map-field", *place_of(mapped, row))
        check(tab, made, mapped, row)
    tab.hover(".map-key")
    check(tab, made, mapped, 0)  # what was only pointed at is let go
    row = lonely(mapped)[0]
    tab.click(".map-field", *place_of(mapped, row))
    tab.hover(".map-key")
    check(tab, made, mapped, row)
    first = shown(tab)["trained"][0][0]
    tab.click(".map-near[data-of=trained] button")
    check(tab, made, mapped, first)
    assert not tab.errors
    assert tab.requests == [map_file.as_uri()]
    tab.close()


def test_pictures_are_those_of_the_images(
    mapped: MappedImages, map_file: Path, browser: Browser
) -> None:
    tab = browser.open(map_file, *DESKTOP)
    pixel = (
        "(() => { const c = document.querySelector('%s'); const side = c.width >> 1;"
        "return [...c.getContext('2d').getImageData(side, side, 1, 1).data]; })()"
    )
    for row in lonely(mapped)[:3]:
        tab.click(".map-field", *place_of(mapped, row))
        nearest = int(mapped.trained.rows[row, 0])
        for of, selector in (
            (row, ".map-shown canvas"),
            (nearest, ".map-near[data-of=trained] canvas"),
        ):
            wanted = mapped.images.read(of)[8, 10].astype(int)
            found = np.array(tab.run(pixel % selector))
            assert found[3] == 255
            assert np.abs(found[:3] - wanted).max() < 16, (of, found, wanted)
    tab.close()


def test_a_finger_chooses_and_a_phone_scrolls_one_way(
    made: Made, mapped: MappedImages, map_file: Path, browser: Browser
) -> None:
    tab = browser.open(map_file, *PHONE, dark=True)
    assert tab.run("document.documentElement.scrollWidth") == PHONE[0]
    row = lonely(mapped)[1]
    tab.tap(".map-field", *place_of(mapped, row))
    tab.wait_for(
        f"document.querySelector('.map-name').textContent === {json.dumps(mapped.images.name(row))}"
    )
    check(tab, made, mapped, row)
    assert not tab.errors
    tab.close()


def test_keys_walk_from_dot_to_dot(
    made: Made, mapped: MappedImages, map_file: Path, browser: Browser
) -> None:
    tab = browser.open(map_file, *DESKTOP)
    tab.run("document.querySelector('.map-field').focus()")
    places, row = unit_places(mapped.plane.places), 0
    names = [mapped.images.name(each) for each in range(COUNT)]
    for key, axis, sign in (("ArrowRight", 0, 1), ("ArrowUp", 1, 1), ("ArrowLeft", 0, -1)):
        tab.press(key)
        now = names.index(shown(tab)["name"])
        along = sign * (places[:, axis] - places[row, axis])
        aside = np.abs(places[:, 1 - axis] - places[row, 1 - axis])
        ahead = along > 1e-4
        cone = ahead & (along > aside + 1e-4)
        can = cone if cone.any() else ahead
        assert (now != row) == bool(can.any())
        if can.any():
            assert along[now] + 2 * aside[now] <= (along + 2 * aside)[can].min() + 1e-3
        row = now
        check(tab, made, mapped, row)
    tab.press("+")
    tab.press("0")
    check(tab, made, mapped, row)
    assert not tab.errors
    tab.close()


def test_a_name_is_found_and_a_class_alone_is_pointed_at(
    mapped: MappedImages, map_file: Path, browser: Browser
) -> None:
    tab = browser.open(map_file, *DESKTOP)
    tab.run("document.querySelector('.map-find').focus()")
    for letter in "t/11":
        tab.press(letter)
    assert shown(tab)["name"] == LONER
    tab.run("document.querySelector('.map-find').value = ''")
    for letter in "zzz":
        tab.press(letter)
    assert shown(tab)["name"] == "no image has this in its name"
    options = tab.run("[...document.querySelectorAll('.map-class option')].map(o => o.innerText)")
    assert sorted(options) == sorted(
        ["all", *(f"{name.replace('/', '')} (20)" for name in CLASSES)]
    )
    tab.run(
        "(() => { const s = document.querySelector('.map-class'); s.selectedIndex = "
        "[...s.options].findIndex(o => o.innerText.startsWith('light'));"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert shown(tab)["kind"] == "light"
    for row in range(0, COUNT, 7):
        tab.hover(".map-field", *place_of(mapped, row))
        assert shown(tab)["kind"] == "light"
    assert not tab.errors
    tab.close()


def test_a_double_leads_to_its_dot(mapped: MappedImages, map_file: Path, browser: Browser) -> None:
    tab = browser.open(map_file, *DESKTOP)
    row = int(tab.run("document.querySelector('.alike [data-go]').dataset.go"))
    assert row in mapped.duplicates[0].rows
    tab.click(".alike [data-go]")
    assert shown(tab)["name"] == mapped.images.name(row)
    tab.close()


def test_hostile_names_stay_text(made: Made, map_file: Path, browser: Browser) -> None:
    tab = browser.open(map_file, *DESKTOP)
    tab.run("document.querySelector('.map-find').focus()")
    for letter in "onerr":
        tab.press(letter)
    assert shown(tab)["name"].endswith(HOSTILE.replace("/", ""))
    assert tab.run("document.title") == "run"
    assert tab.count(".map b.odd, .map-kind b, .map-name img, .map-name script") == 0
    assert "<b>odd<b>" in tab.text(".map-key")
    assert not tab.errors
    assert tab.requests == [map_file.as_uri()]
    tab.close()


def test_both_planes_can_be_seen(made: Made, tmp_path: Path, browser: Browser) -> None:
    pytest.importorskip("openTSNE")
    mapped = made.mapped("tsne")
    assert mapped.tsne is not None
    tab = browser.open(map_page(tmp_path / "page.html", mapped), *DESKTOP)
    row = lonely(mapped)[0]
    tab.click("[data-plane=pca]")
    tab.click(".map-field", *place_of(mapped, row))
    check(tab, made, mapped, row)
    tab.click("[data-plane=tsne]")
    across, up = unit_places(mapped.tsne)[row]
    tab.click(".map-field", (across - 0.5) / SPAN + 0.5, 0.5 - (up - 0.5) / SPAN)
    check(tab, made, mapped, row)
    assert not tab.errors
    tab.close()


def test_without_scripts_the_map_is_a_picture(map_file: Path, browser: Browser) -> None:
    tab = browser.open(map_file, *DESKTOP)
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    tab.load(map_file.as_uri())
    assert tab.count(".map-still") == 1
    assert tab.count(".map-tools") == tab.count(".map-panel") == 0
    tab.close()
