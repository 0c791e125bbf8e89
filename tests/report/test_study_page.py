"""A study's table and figure from made-up scores: nothing is trained."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moco.evaluation.labelled import matching_images
from moco.recipes import CIFAR10_RESNET18
from moco.report.study_page import claim_rows, markdown, table_rows, write_results
from moco.studies.catalogue import STUDIES
from moco.studies.cells import Bench
from moco.studies.grid import Grid, Results
from moco.studies.spec import MEASURES

BASE = replace(CIFAR10_RESNET18, batch_size=8, batch_norm_groups=2, epochs=3)


def made_up(study: str, run: Path, folders: Path, seeds: int = 3) -> Results:
    train, test = matching_images(folders / "train", folders / "test")
    bench = Bench(train=train, test=test, run=run, device="cpu", workers=0, precision="float32")
    settings = STUDIES[study].settings_of(BASE, 10_000)
    grid = Grid(study=STUDIES[study], bench=bench, base=BASE, seeds=seeds, settings=settings)
    cells: dict[tuple[str, int], dict[str, Any]] = {}
    for place, setting in enumerate(settings):
        for seed in range(seeds):
            value = 0.4 + 0.05 * place + 0.01 * seed
            cells[setting.name, seed] = {"failed": "", **dict.fromkeys(MEASURES, value)}
    untrained = [dict.fromkeys(MEASURES[:3], 0.3 + 0.01 * seed) for seed in range(seeds)]
    pixels = dict.fromkeys(MEASURES[:3], 0.35)
    return Results(grid, cells=cells, untrained=list(untrained), pixels=dict(pixels))


def test_the_table_has_means_and_deviations(tmp_path: Path, class_folders: Path) -> None:
    rows = table_rows(made_up("v1-to-v2", tmp_path, class_folders))
    # 40, 41, 42 %: mean 41, deviation 1
    assert rows[0] == ["v1", "60.6", *["41.0 ± 1.0"] * 4]
    assert rows[4] == ["+MLP+aug+cos", "67.5", *["61.0 ± 1.0"] * 4]
    assert rows[5] == ["untrained with statistics", "", *["31.0 ± 1.0"] * 3, ""]
    assert rows[6] == ["raw pixels", "", *["35.0"] * 3, ""]


def test_one_seed_has_no_deviation(tmp_path: Path, class_folders: Path) -> None:
    rows = table_rows(made_up("v1-to-v2", tmp_path, class_folders, seeds=1))
    assert rows[0] == ["v1", "60.6", *["40.0"] * 4]


def test_verdicts_follow_the_figures(tmp_path: Path, class_folders: Path) -> None:
    results = made_up("key-momentum", tmp_path, class_folders)
    texts = {row[0]: row[2:] for row in claim_rows(results) if row[1] == "linear"}
    assert texts["key momentum 0 fails: worse than 0.99"] == ["+10.0 (+10.0 to +10.0)", "shows"]
    name = results.grid.settings[2].name  # 0.99 now below 0: the same figures the other way round
    for seed in range(3):
        results.cells[name, seed]["linear"] = 0.3 + 0.01 * seed
    (row,) = [row for row in claim_rows(results) if "fails" in row[0] and row[1] == "linear"]
    assert row[2:] == ["-10.0 (-10.0 to -10.0)", "the opposite shows"]
    for seed, value in enumerate((0.2, 0.41, 0.6)):  # leads -20, 0, +18 points
        results.cells[name, seed]["linear"] = value
    (row,) = [row for row in claim_rows(results) if "fails" in row[0] and row[1] == "linear"]
    assert row[3] == "not seen"


def test_diverged_runs_are_left_out_and_named(tmp_path: Path, class_folders: Path) -> None:
    results = made_up("key-momentum", tmp_path, class_folders)
    results.cells["key momentum 0", 2] = {"failed": "the loss is nan"}
    assert table_rows(results)[0][:3] == ["key momentum 0 (1 diverged)", "fails", "40.5 ± 0.7"]
    assert "- key momentum 0, seed 2: the loss is nan" in markdown(results)


@pytest.mark.parametrize("study", ["mechanisms", "key-momentum"])
def test_files_are_written_even_half_way(study: str, tmp_path: Path, class_folders: Path) -> None:
    results = made_up(study, tmp_path, class_folders)
    results.pixels = {}
    first = results.grid.settings[0].name
    results.cells = {cell: scores for cell, scores in results.cells.items() if cell[0] == first}
    write_results(results)
    assert json.loads(results.grid.file.read_text())["settings"][1]["seeds"] == []
    root = ElementTree.parse(results.grid.file.with_suffix(".svg")).getroot()
    assert root.tag.endswith("svg")
    with Image.open(results.grid.file.with_suffix(".png")) as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20
    page = results.grid.file.with_suffix(".md").read_text()
    assert "raw pixels" not in page
    assert f"3 of {results.grid.runs} runs" in page
