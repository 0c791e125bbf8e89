"""`moco report`: what it writes and says, what it refuses, and runs whose files are damaged."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "report"))
import made_runs
from report_runs import RECIPE, made_run, metrics_rows

import moco
from moco.cli.main import main
from moco.device import processor
from moco.encoders import Encoder
from moco.run_records import append_lines

NEAREST = ("map-near", "map-near-before")


def with_checkpoint(path: Path, seed: int, encoder: Encoder | None = None) -> Path:
    """Return a run with figures and a network."""
    made_runs.made_run(path, seed, encoder=encoder)
    figures = made_run(path.with_name(f"{path.name}-figures"), recipe=made_runs.RECIPE)
    for file in figures.iterdir():
        file.rename(path / file.name)
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["report", *map(str, words)])
    told = capsys.readouterr().err
    assert code
    assert told.count("\n") == 1
    assert told.startswith("moco: error: ")
    return code, told


def test_it_writes_beside_the_run_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path / "run")
    figures_file = tmp_path / "figures.json"
    assert main(["report", str(run), "--json", str(figures_file)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("run: done, 200 of 200 steps")
    assert f"{run / 'report.html'}: 0.1 MB" in told
    html = (run / "report.html").read_text()
    assert "://" not in html
    assert (run / "report.html").stat().st_size < 300_000
    figures = json.loads(figures_file.read_text())
    assert figures["report"] == str(run / "report.html")
    (told_run,) = figures["runs"]
    assert told_run["name"] == "run"
    assert told_run["state"] == "done"
    assert (told_run["steps_done"], told_run["images"], told_run["steps_per_epoch"]) == (
        200,
        3200,
        50,
    )
    assert told_run["loss"] == metrics_rows(200)[-1]["loss"]
    assert figures["differing_settings"] == {}
    assert main(["report", str(run)]) == 0  # its own report is written anew


def test_a_real_run_is_told_by_what_it_ran_on(
    tmp_path: Path, photos: Path, tiny_settings: list[str]
) -> None:
    run = tmp_path / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = ["--device", "cpu", "--workers", "0", "--epochs", "7", "--run", str(run), *settings]
    assert main(["pretrain", str(photos), *words]) == 0
    assert main(["report", str(run), "--images", str(photos)]) == 0
    page = (run / "report.html").read_text()
    status = json.loads((run / "status.json").read_text())
    assert status["versions"]["torch"] == torch.__version__
    assert (status["images"], status["steps_per_epoch"], status["precision"]) == (64, 4, "float32")
    for told in (
        "done, 28 of 28 steps",
        "7 epochs of 4 steps",
        f"cpu, {processor()}",
        "float32",
        f"moco {moco.__version__}, torch {torch.__version__}",
        "Consistency of the dictionary",
    ):
        assert told in page, told
    assert "not those" not in page.partition("Two views")[2].partition("</section>")[0]
    assert main(["pretrain", str(photos), *words, "--resume", "never"]) == 0
    assert not (run / "report.html").exists()  # it is of the run that was put aside
    assert (run / "replaced-1" / "report.html").read_text() == page


def test_several_runs_are_told_apart_by_as_much_of_the_path_as_it_takes(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / place / "run", recipe=replace(RECIPE, temperature=temperature))
        for place, temperature in (("a", 0.1), ("b", 0.2))
    ]
    out, figures_file = tmp_path / "page.html", tmp_path / "figures.json"
    words = [*map(str, [*runs, runs[0]]), "--out", str(out), "--json", str(figures_file)]
    assert main(["report", *words]) == 0
    figures = json.loads(figures_file.read_text())
    assert [run["name"] for run in figures["runs"]] == ["a/run", "b/run"]
    assert figures["differing_settings"] == {"temperature": [0.1, 0.2]}
    assert "2 runs compared" in out.read_text()


def test_a_run_at_work_or_without_a_status_is_reported_too(tmp_path: Path) -> None:
    running = made_run(tmp_path / "running", steps=60, status={"state": "running"})
    silent = made_run(tmp_path / "silent")
    (silent / "status.json").unlink()
    (silent / "signals.jsonl").unlink()
    assert main(["report", str(running), str(silent), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "60 of 200 steps when this page was written" in page
    assert "no status.json tells how it ended" in page


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for path, told in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "empty", "no recipe.yaml"),
        (made_run(tmp_path / "new", rows=[]), "no step in its metrics.jsonl yet"),
    ):
        code, line = refused(capsys, path)
        assert code == 2
        assert told in line
    assert sorted(os.listdir(tmp_path / "empty")) == []
    runs = [made_run(tmp_path / str(number)) for number in range(9)]
    assert refused(capsys, *runs)[0] == 2


def test_only_a_report_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = made_run(tmp_path / "run"), tmp_path / "mine.html"
    other.write_text("my page, which names moco report")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(other)
    for out, expected in (
        (other, 2),
        (tmp_path / "pipe", 2),
        (tmp_path / "link", 2),
        (tmp_path, 2),
        (tmp_path / "missing" / "page.html", 5),
    ):
        code, line = refused(capsys, run, "--out", out)
        assert code == expected, line
    assert other.read_text() == "my page, which names moco report"
    assert main(["report", str(run)]) == 0
    (tmp_path / "to a report").symlink_to(run / "report.html")
    assert refused(capsys, run, "--out", tmp_path / "to a report")[0] == 2
    (run / "report.html").write_text('<meta name="generator" content="moco demo">')
    assert refused(capsys, run)[0] == 2
    assert not list(tmp_path.glob(".*"))


def test_evaluations_are_found_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run")
    knn = {"sweep": [[0.5]], "measure": "top1", "top1": 0.4, "headline_value": 0.512}
    knn |= {"headline_value_low": 0.48, "headline_value_high": 0.54, "headline_neighbours": 200}
    (run / "knn.json").write_text(json.dumps({**knn, "layer": "backbone", "test_images": 1234}))
    linear = {"protocol": "fast", "measure": "roc_auc", "value": 0.9, "value_low": 0.8}
    (tmp_path / "linear.json").write_text(json.dumps({**linear, "value_high": 0.95}))
    few = {"draws": 3, "measure": "top1", "linear_5_per_class": 0.3, "linear_5_per_class_labels": 5}
    (tmp_path / "few.json").write_text(json.dumps(few))
    score = {"value": 0.7, "low": 0.6, "high": 0.8}
    compared = {
        "measure": "top1",
        "models": [{"name": "mine", "linear": score, "knn": score}],
        "leads": {},
        "words": {"knn": ["mine is better"]},
    }
    (tmp_path / "compared.json").write_text(json.dumps(compared))
    named = [str(tmp_path / f"{name}.json") for name in ("linear", "few", "compared")]
    assert main(["report", str(run), "--evaluation", *named]) == 0
    page = (run / "report.html").read_text()
    for words in (
        "kNN, 200 neighbours",
        "51.2 %<br><small>48.0 to 54.0</small>",
        "1,234",
        "linear probe, fast",
        "ROC AUC",
        "90.0 %<br><small>80.0 to 95.0</small>",
        "top-1, linear 5 per class",
        "mine is better",
        "70.0 %<br><small>60.0 to 80.0</small>",
    ):
        assert words in page, words
    for content in ("{}", "[" * 100_000, '{"top1": 1}'):
        (tmp_path / "none.json").write_text(content)
        code, line = refused(capsys, run, "--evaluation", tmp_path / "none.json")
        assert code == 2
        assert "none.json" in line
    assert main(["report", str(run), "--evaluation", str(run / "knn.json")]) == 0
    assert (run / "report.html").read_text().count("kNN, 200 neighbours") == 1
    os.mkfifo(run / "pipe.json")  # beside a run, what is no evaluation is passed over
    assert main(["report", str(run)]) == 0


def test_rows_that_a_kill_cut_or_a_stranger_wrote_are_left_out(tmp_path: Path) -> None:
    rows = metrics_rows(40)
    odd = [
        '{"step": 7, "loss": "high"}',
        '{"step": "x", "loss": 1}',
        '{"step": -1, "loss": 1}',
        '{"step": true, "loss": 1}',
        '{"step": 1e3, "loss": 1}',
        '{"loss": 999}',
        '{"step": 8, "loss": NaN, "learning_rate": 1e999, "pretext_top1": [1]}',
        f'{{"step": 9, "loss": {"9" * 400}}}',
        "[" * 100_000,
        "5",
        '{"step": 41, "los',
    ]
    run = made_run(tmp_path / "run", rows=rows)
    with open(run / "metrics.jsonl", "a") as file:
        file.write("\n".join(odd))
    with open(run / "signals.jsonl", "a") as file:
        file.write('{"step": 5, "consistency": [[1], "x", [2, null], [3, 0.5]], "rank": "x"}\n{"st')
    (run / "status.json").write_text('{"steps": "many", "state": 5, "images": -1, "reason": [1]}')
    assert main(["report", str(run), "--json", str(tmp_path / "figures.json")]) == 0
    page = (run / "report.html").read_text()
    block = page.partition('id="curves-data">')[2].partition("</script>")[0]
    loss = next(chart for chart in json.loads(block)["charts"] if chart["key"] == "loss")
    assert loss["lines"][0]["at"] == list(range(40))
    assert max(loss["lines"][0]["mean"]) < 7
    (told,) = json.loads((tmp_path / "figures.json").read_text())["runs"]
    assert (told["state"], told["images"], told["steps_per_epoch"]) == ("unknown", None, None)
    assert told["steps_done"] == 40


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "signals.jsonl", "status.json"])
def test_pipes_and_devices_hold_nothing_up(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, make in enumerate((os.mkfifo, lambda path: os.symlink("/dev/zero", path))):
        run = made_run(tmp_path / str(number))
        (run / name).unlink()
        make(run / name)
        if name == "status.json":
            assert main(["report", str(run)]) == 0
        else:
            code, line = refused(capsys, run)
            assert code == 6
            assert name in line


@pytest.mark.slow
def test_a_run_of_days_gives_a_small_page_in_little_memory(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", rows=metrics_rows(10))
    for start in range(0, 1_000_000, 100_000):
        rows = [{**row, "step": start + row["step"]} for row in metrics_rows(100_000)]
        append_lines(run / "metrics.jsonl", rows)
    began = time.monotonic()
    assert main(["report", str(run)]) == 0
    assert time.monotonic() - began < 120
    assert (run / "report.html").stat().st_size < 400_000


def test_a_map_of_the_images_is_of_the_first_run(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figures_file = tmp_path / "run", tmp_path / "figures.json"
    with_checkpoint(run, 3)
    words = ["--images", str(class_folders / "train"), "--json", str(figures_file), "--map", "pca"]
    assert main(["report", str(run), *words, "--most-images", "9"]) == 0
    assert "warning" not in capsys.readouterr().err
    told = json.loads(figures_file.read_text())["map"]
    assert (told["images"], told["network"], told["tsne"]) == (9, "run", False)
    assert 0 <= told["same_class"] <= 1
    page = (run / "report.html").read_text()
    assert 'href="#map"' in page
    after, before = (re.search(f'id="{name}">([^<]+)<', page) for name in NEAREST)
    assert after
    assert before
    assert after[1] != before[1]
    assert main(["report", str(run), *words, "--map", "none"]) == 0
    assert "map" not in json.loads(figures_file.read_text())
    assert 'id="map' not in (run / "report.html").read_text()
    assert main(["report", str(run), *words, "--duplicates", "-1"]) == 0
    groups = json.loads(figures_file.read_text())["map"]["near_duplicates"]
    assert sum(len(group["images"]) for group in groups) == told["of_images"]


def test_a_run_without_a_network_has_a_page_without_a_map(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path / "run")
    assert main(["report", str(run), "--images", str(photos)]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "warning: no map of the images: " in told
    assert "holds no checkpoint" in told
    page = (run / "report.html").read_text()
    assert "Map of the images" in page
    assert "holds no checkpoint" in page


def test_a_run_that_diverged_has_a_page_without_a_map(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = made_runs.made_encoder(3)
    torch.nn.init.constant_(next(encoder.parameters()), float("nan"))
    run = with_checkpoint(tmp_path / "run", 3, encoder=encoder)
    assert main(["report", str(run), "--images", str(photos)]) == 0
    assert "are not finite" in capsys.readouterr().err
    assert "are not finite" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--most-images", "2"], "--most-images must be from 3 to 65,535, got 2"),
        (["--most-images", "65536"], "--most-images must be from 3 to 65,535, got 65536"),
        (["--duplicates", "1.5"], "--duplicates is a cosine, from -1 to 1, got 1.5"),
        (["--duplicates", "nan"], "--duplicates is a cosine, from -1 to 1, got nan"),
        (["--workers", "-1"], "--workers must be from 0, got -1"),
    ],
)
def test_options_of_the_map_are_checked(
    tmp_path: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path / "run")
    code, told = refused(capsys, run, *words)
    assert code == 2
    assert reason in told
    assert not (run / "report.html").exists()
