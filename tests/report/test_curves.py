"""Which curves a page has of which runs, and what stands on their axes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from report_runs import RECIPE, made_run

from moco.report.curves import curves_part
from moco.report.run_files import read_runs


def charts_of(*runs: Path) -> tuple[dict[str, Any], str]:
    part = curves_part(read_runs(runs))
    block = part.html.partition('id="curves-data">')[2].partition("</script>")[0]
    return {chart["key"]: chart for chart in json.loads(block)["charts"]}, part.html


def test_every_figure_of_a_run_has_its_chart_and_nothing_else_has_one(tmp_path: Path) -> None:
    charts, html = charts_of(made_run(tmp_path / "run"))
    assert set(charts) == {
        *("loss", "similarity", "pretext", "knn", "rate", "momentum", "rank", "deviation"),
        *("alignment", "uniformity", "views", "consistency", "drift", "oldest", "filled", "same"),
        *("leak", "gradient", "change", "speed", "waiting", "memory"),
    }
    assert html.count("<figure") == len(charts)
    assert len(charts["speed"]["lines"][0]["at"]) == 200  # of metrics.jsonl, where both have it
    assert charts["knn"]["lines"][0]["at"] == [49, 99, 149, 199]
    assert [line["name"] for line in charts["consistency"]["lines"]] == [
        *("after step 200", "after step 125", "after step 25")
    ]
    assert charts["consistency"]["lines"][0]["mean"] == [0.99, 0.9501, 0.9]
    silent = made_run(tmp_path / "silent")
    (silent / "signals.jsonl").unlink()
    assert set(charts_of(silent)[0]) == {
        *("loss", "similarity", "pretext", "knn", "rate", "momentum", "speed")
    }


def test_the_loss_has_its_chance_level_and_the_pretext_task_is_no_class_accuracy(
    tmp_path: Path,
) -> None:
    other = replace(RECIPE, dictionary=replace(RECIPE.dictionary, size=4096))
    runs = [made_run(tmp_path / "a"), made_run(tmp_path / "b", recipe=other)]
    _, html = charts_of(runs[0])
    assert ">chance 6.932</text>" in html  # ln(1024 + 1)
    assert "not class accuracy" in html
    _, html = charts_of(*runs)
    assert '<g class="level c0" data-run="0">' in html
    assert '<g class="level c1" data-run="1">' in html
    assert ">chance 8.318</text>" in html  # ln(4096 + 1)
    _, html = charts_of(*runs, made_run(tmp_path / "c"))
    assert html.count('<g class="level') == 2  # what two share is drawn once, whoever is hidden
    assert '<g class="level">' in html
    near = replace(RECIPE, dictionary=replace(RECIPE.dictionary, size=1030))
    _, html = charts_of(runs[0], made_run(tmp_path / "near", recipe=near))
    assert html.count(">chance ") == 1  # names would stand on each other


def test_runs_whose_epochs_have_other_numbers_of_steps_share_an_axis_of_epochs(
    tmp_path: Path,
) -> None:
    runs = [made_run(tmp_path / "a"), made_run(tmp_path / "b", status={"steps_per_epoch": 100})]
    charts, html = charts_of(*runs)
    ends = {line["name"]: line["at"][-1] for line in charts["loss"]["lines"]}
    assert ends == {"a": 199 / 50, "b": 199 / 100}
    assert charts["loss"]["axis"] == "epoch"
    assert charts["consistency"]["axis"] == "key age in steps"
    assert 'aria-pressed="true"' in html
    same = [runs[0], made_run(tmp_path / "c")]
    assert charts_of(*same)[0]["loss"]["axis"] == "step"


def test_colours_tell_lines_of_one_run_and_runs_of_several(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name) for name in "ab"]
    _, one = charts_of(runs[0])
    _, two = charts_of(*runs)
    similarity = '<li class="{}" data-run="{}"><i class="swatch"></i><span>{}</span>'
    assert similarity.format("c1 d0", 0, "other images&#x27; keys") in one
    assert similarity.format("c1 d0", 1, "b, own key") in two
    assert similarity.format("c1 d1", 1, "b, other images&#x27; keys") in two
    assert 'class="band"' not in one  # each point is one row
    long = made_run(tmp_path / "long", steps=1000)
    assert 'class="band"' in charts_of(long)[1]


def test_a_place_is_the_same_step_in_all_charts(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", steps=30)  # one reading of the signals, at step 24
    charts, _ = charts_of(run)
    assert charts["rank"]["lines"][0]["at"] == [24]
    assert {tuple(chart["box"][:2]) for chart in charts.values() if chart["axis"] == "step"} == {
        (0, 29)
    }
