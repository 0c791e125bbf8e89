"""How a map is packed for its script: names, places and classes come out as they went in."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_map import COUNT, made_source

from moco.data.images import Pixels
from moco.report import map_data
from moco.report.browser_page import visible
from moco.report.map_colours import CLASS_COLOURS, STILL_SIDE, still_picture
from moco.report.map_data import Classes, classes_of, encoded_names, map_blocks, unit_places


def decoded(shared: list[int], rest: str) -> list[str]:
    """Names as the script puts them together: letters beyond the first 65,536 count twice."""
    names, before = [], b""
    for same, line in zip(shared, rest.split("\n"), strict=True):
        before = before[: 2 * same] + line.encode("utf-16-le", "surrogatepass")
        names.append(before.decode("utf-16-le"))
    return names


@given(st.lists(st.text("ab/é😀\n\ud800", max_size=12), min_size=1, max_size=20))
def test_names_come_out_as_they_are_shown(names: list[str]) -> None:
    coded = encoded_names(names)
    assert decoded(coded.shared, coded.rest) == [visible(name) for name in names]


def test_names_are_shortened_as_far_as_they_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:03d}{'x' * 150}{number:03d}.png" for number in range(100)]
    coded = encoded_names(names)
    assert decoded(coded.shared, coded.rest) == names
    monkeypatch.setattr(map_data, "MOST_NAME_BYTES", 7000)
    coded = encoded_names(names)
    short = decoded(coded.shared, coded.rest)
    assert len(json.dumps(coded.rest)) <= 7000
    assert {len(name) for name in short} == {60}
    assert all(a[:3] == b[:3] and a[-7:] == b[-7:] for a, b in zip(short, names, strict=True))
    assert all("…" in name for name in short)


def test_the_most_frequent_class_comes_first() -> None:
    classes = classes_of(["b", "c", "a", "c", "b", "c"])
    assert classes == Classes(("c", "b", "a"), (3, 2, 1), (1, 0, 2, 0, 1, 0))


def test_places_keep_their_shape() -> None:
    places = torch.tensor([[0.0, 10.0], [4.0, 10.0], [4.0, 12.0]], dtype=torch.double)
    expected = [[0, 0.25], [1, 0.25], [1, 0.75]]
    assert unit_places(places).tolist() == expected
    assert unit_places(torch.zeros(3, 2).double()).tolist() == [[0.5, 0.5]] * 3


def test_blocks_hold_rows_and_cosines(tmp_path: Path) -> None:
    mapped = made_source(tmp_path).mapped()
    html = map_blocks(mapped, classes_of(mapped.labels), colours=12)

    def block(name: str) -> bytes:
        found = re.search(f'id="{name}">([^<]*)<', html)
        assert found
        return base64.b64decode(found[1])

    rows = np.frombuffer(block("map-near"), "<u2").reshape(COUNT, 8)
    assert rows.tolist() == mapped.trained.rows.tolist()
    before = np.frombuffer(block("map-near-before"), "<u2").reshape(COUNT, 8)
    assert before.tolist() == mapped.untrained.rows.tolist()
    cosines = np.frombuffer(block("map-cosines"), "<u2").reshape(COUNT, 8) / 32767.5 - 1
    assert np.abs(cosines - mapped.trained.similarities.numpy()).max() < 2e-5


class Noise:
    """Images that JPEG makes little smaller."""

    def __len__(self) -> int:
        return COUNT

    def name(self, image_id: int) -> str:
        return f"{image_id}.png"

    def read(self, image_id: int) -> Pixels:
        return np.random.default_rng(image_id).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def test_the_bytes_of_a_map_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = replace(made_source(tmp_path).mapped(), images=Noise())
    classes = classes_of(mapped.labels)
    whole = len(map_blocks(mapped, classes, colours=12))
    for less in (2000, whole // 2, 3 * whole // 4):
        monkeypatch.setattr(map_data, "MOST_BYTES", whole - less)
        assert whole // 20 < len(map_blocks(mapped, classes, colours=12)) <= whole - less + 200


def test_the_still_picture_has_a_dot_of_its_class_at_each_place() -> None:
    import io

    from PIL import Image

    places = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    address = still_picture(places, Classes(("a", "b"), (2, 1), (0, 1, 0)))
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")
    colours = [tuple(bytes.fromhex(light[1:])) for light, _ in CLASS_COLOURS[:2]]
    end = STILL_SIDE - 2
    assert picture.getpixel((1, end)) == (*colours[0], 255)  # the lower left
    assert picture.getpixel((end, 1)) == (*colours[1], 255)
    assert picture.getpixel((STILL_SIDE // 2, STILL_SIDE // 2)) == (*colours[0], 255)
    assert picture.getpixel((100, 100))[3] == 0  # type: ignore[index]
