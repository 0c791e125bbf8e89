"""`moco evaluate label-free`: a table over checkpoints, what each measure would choose, JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.cli.evaluate_label_free import Row, checkpoint_paths, choices_in_words, short_names
from moco.cli.main import main
from moco.data.images import spread
from moco.data.sources.folder import FolderImages
from moco.evaluation.label_free import MEASURES, LabelFreeResult, label_free
from moco.evaluation.view_features import extract_view_features
from moco.loading import load_with_recipe
from moco.specs import ViewsSpec


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("label-free") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "2", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    assert len(list((path / "checkpoints").iterdir())) == 2
    return path


def evaluate(runs: list[Path], photos: Path, figures: Path, *more: str) -> dict[str, Any]:
    words = ["--images", str(photos), "--json", str(figures), "--device", "cpu", *more]
    assert main(["evaluate", "label-free", *map(str, runs), *words]) == 0
    return dict(json.loads(figures.read_text()))


@pytest.mark.parametrize(("layer", "features"), [("backbone", 64), ("head", 16)])
def test_the_figures_are_those_of_the_functions(
    run: Path, photos: Path, tmp_path: Path, layer: str, features: int
) -> None:
    more = ["--layer", layer, "--neighbours", "4", "--seed", "3", "--most-images", "20"]
    figures = evaluate([run], photos, tmp_path / "figures.json", *more)
    network, recipe = load_with_recipe(run, "encoder" if layer == "head" else "backbone")
    images = FolderImages(photos)
    found = extract_view_features(
        network,
        images,
        spread(len(images), 20),
        recipe.views,
        device=torch.device("cpu"),
        seed=3,
    )
    expected = label_free(found.plain, (found.view_a, found.view_b), neighbours=4)
    (row,) = figures["checkpoints"]
    assert row["path"] == str(run)
    assert (row["images"], row["features"], row["neighbours"]) == (20, features, 4)
    for name in MEASURES:
        assert row[name] == pytest.approx(getattr(expected, name)), name
    assert (figures["layer"], figures["neighbours"], figures["seed"]) == (layer, 4, 3)
    assert figures["chosen"] == {}  # of one there is nothing to choose


def test_all_checkpoints_of_a_run_are_rows_and_each_measure_chooses(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate([run], photos, tmp_path / "figures.json", "--checkpoints", "all")
    kept = sorted((run / "checkpoints").iterdir())
    assert [row["path"] for row in figures["checkpoints"]] == [str(path) for path in kept]
    assert set(figures["chosen"]) == set(MEASURES)
    ranks = [row["effective_rank"] for row in figures["checkpoints"]]
    assert ranks[0] != ranks[1]
    assert figures["chosen"]["effective_rank"] == str(kept[ranks.index(max(ranks))])
    alignments = [row["alignment"] for row in figures["checkpoints"]]
    assert figures["chosen"]["alignment"] == str(kept[alignments.index(min(alignments))])
    printed = capsys.readouterr()
    assert printed.err == ""
    for path in kept:
        assert f"step {int(path.name[5:])}" in printed.out
    assert "would choose step" in printed.out
    assert "alignment alone chooses a collapsed or untrained network" in printed.out
    assert "warning" not in printed.out


def test_labels_are_no_part_of_it(run: Path, photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(path, flat / f"{number:03d}.png")
    assert evaluate([run], flat, tmp_path / "figures.json")["checkpoints"]


def test_a_damaged_checkpoint_is_left_out_beside_others_and_refused_alone(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    first, second = sorted((copy / "checkpoints").iterdir())
    weights = second / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    figures = evaluate([copy], photos, tmp_path / "figures.json", "--checkpoints", "all")
    assert [row["path"] for row in figures["checkpoints"]] == [str(first)]
    assert f"left out: checkpoint file {weights} is damaged" in capsys.readouterr().err
    evaluate([copy], photos, tmp_path / "figures.json")
    assert "an older checkpoint is evaluated" in capsys.readouterr().err
    assert main(["evaluate", "label-free", str(second), "--images", str(photos)]) == 6
    (first / "manifest.json").unlink()
    words = ["evaluate", "label-free", str(copy), "--images", str(photos), "--checkpoints", "all"]
    assert main(words) == 6
    assert "none of the 2 checkpoints can be used" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_named(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shutil.copytree(photos, tmp_path / "photos")
    (images / "broken.png").write_text("404")
    figures = evaluate([run], images, tmp_path / "figures.json")
    assert capsys.readouterr().err.startswith("skipped broken.png: ")
    assert figures["checkpoints"][0]["images"] == len(FolderImages(photos))


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--neighbours", "0"], 2, "--neighbours must be at least 1"),
        (["--most-images", "11"], 2, "--most-images must be at least 12"),
        (["--workers", "-1"], 2, "--workers must be from 0"),
        (["--seed", "-1"], 2, "seed must be from 0"),
        (["--neighbours", "99"], 2, "neighbours must be from 1 to"),
        (["--checkpoints", "al"], 2, "invalid choice: 'al'"),
        (["--images", "nowhere"], 3, "nowhere"),
    ],
)
def test_wrong_input_is_one_line(
    run: Path, photos: Path, more: list[str], code: int, words: str, capsys: Any
) -> None:
    assert main(["evaluate", "label-free", str(run), "--images", str(photos), *more]) == code
    error = capsys.readouterr().err
    assert error.startswith("moco: error: ")
    assert words in error
    assert error.count("\n") == 1


def test_runs_that_are_not_there_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (("nowhere", "does not exist"), ("empty", "holds no checkpoint")):
        path = tmp_path / name
        assert main(["evaluate", "label-free", str(path), "--images", str(photos)]) == 6
        assert f"{path} {words}" in capsys.readouterr().err


def test_names_of_rows(tmp_path: Path) -> None:
    steps = [tmp_path / "run" / "checkpoints" / f"step_{step:08d}" for step in (1, 20)]
    assert short_names(steps) == ["step 1", "step 20"]
    assert short_names([*steps, tmp_path / "other"]) == ["run step 1", "run step 20", "other"]
    alike = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert short_names(alike) == [str(path) for path in alike]


def test_a_checkpoint_directory_is_one_row_even_among_all(run: Path) -> None:
    kept = sorted((run / "checkpoints").iterdir())
    assert checkpoint_paths([kept[0]], every=True) == [kept[0]]
    assert checkpoint_paths([run, kept[0]], every=True) == [*kept, kept[0]]
    assert checkpoint_paths([run, kept[0]], every=False) == [run, kept[0]]


def row_of(name: str, value: float, *, features: int = 4, size: int = 224) -> Row:
    result = LabelFreeResult(9, features, 2, value, value, -value, -value, value, value)
    return Row(name, Path(name), ViewsSpec(image_size=size), result)


def test_what_measures_would_choose_is_said_in_words() -> None:
    alike = choices_in_words([row_of("first", 1.0), row_of("second", 2.0)])
    assert alike[0].startswith("would choose second: effective rank, feature deviation, uniformity")
    assert not any("disagree" in line or "warning" in line for line in alike)
    assert choices_in_words([row_of("first", 1.0)]) == []
    other = Row("third", Path("third"), ViewsSpec(), LabelFreeResult(9, 4, 2, 0, 0, 0, -9, 0, 0))
    split = choices_in_words([row_of("first", 1.0), row_of("second", 2.0), other])
    assert "would choose third: alignment" in split
    assert any("they disagree over 2 checkpoints" in line for line in split)


def test_what_cannot_be_compared_is_warned_of() -> None:
    views = choices_in_words([row_of("first", 1.0), row_of("second", 2.0, size=32)])
    assert "different views" in views[-1]
    widths = choices_in_words([row_of("first", 1.0), row_of("second", 2.0, features=8)])
    assert "different numbers of features" in widths[-1]
