"""`moco recipes`, and runs whose recipe is a file."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import moco
from moco.cli.main import main
from moco.recipe_files import read_recipe, write_recipe
from moco.recipes import MOCO_V2, RECIPES

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def recipe_file(tiny_settings: list[str], tmp_path: Path) -> Path:
    """Return a file that makes v2 tiny."""
    path = tmp_path / "mine.yaml"
    lines = ["base: moco-v2", "epochs: 1", *[s.replace("=", ": ", 1) for s in tiny_settings]]
    path.write_text("\n".join(lines))
    return path


def shown(capsys: Capture, *words: str | Path, code: int = 0) -> str:
    found = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert found == code, printed.err
    return printed.out if code == 0 else printed.err


def test_the_table_names_every_recipe_with_its_score(capsys: Capture) -> None:
    lines = shown(capsys, "recipes").splitlines()
    assert lines[0].split() == ["RECIPE", "EPOCHS", "EXPECTED", "SOURCE"]
    assert [line.split()[0] for line in lines[1:]] == ["small", *RECIPES]
    assert "made for your images" in lines[1]
    assert (
        "moco-v1                        200  60.6 % linear, ImageNet  "
        "arXiv:1911.05722, sections 3 and 4"
    ) in lines
    assert all(line == line.rstrip() and line.isascii() for line in lines)


def test_a_recipe_without_a_published_score_says_so(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moco.cli.recipes.EXPECTED_SCORES", {})
    table = shown(capsys, "recipes")
    assert table.count("not measured yet") == len(RECIPES)
    assert "%" not in table + shown(capsys, "recipes", "show", "moco-v2")


@pytest.mark.parametrize(("columns", "has_source"), [(80, True), (66, False), (200, True)])
def test_the_table_fits_a_terminal(columns: int, has_source: bool) -> None:
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", str(columns)], stdin=slave, check=True)
    command = [sys.executable, "-m", "moco", "recipes"]
    environment = {name: text for name, text in os.environ.items() if name != "COLUMNS"}
    subprocess.run(command, stdout=slave, stdin=slave, check=True, env=environment)
    os.close(slave)
    lines = os.read(master, 1 << 16).decode().splitlines()
    os.close(master)
    assert len(lines) == len(RECIPES) + 2
    assert max(map(len, lines)) <= columns
    assert any("arXiv:1911.05722" in line for line in lines) == has_source
    assert any("sections 3 and 4" in line for line in lines) == (columns == 200)


def test_recipes_load_nothing_heavy() -> None:
    program = """
import sys
from moco.cli.main import main
for words in [[], ["show", "moco-v2"], ["diff", "moco-v1", "moco-v2"]]:
    assert main(["recipes", *words]) == 0
heavy = {"torch", "torchvision", "timm", "numpy", "PIL", "rich"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_v1_to_v2_reads_as_four_changes(capsys: Capture, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    assert (
        shown(capsys, "recipes", "diff", "moco-v1", "moco-v2", "--json", figures)
        == """\
moco-v1 (arXiv:1911.05722, sections 3 and 4)
moco-v2 (arXiv:2003.04297, section 3)
encoder.head: linear -> mlp
views:
  order: [crop, gray, jitter, horizontal_flip] -> [crop, jitter, gray, blur, horizontal_flip]
  jitter_probability: 1.0 -> 0.8
  jitter: [0.4, 0.4, 0.4, 0.4] -> [0.4, 0.4, 0.4, 0.1]
optimizer.schedule: step -> cosine
temperature: 0.07 -> 0.2
4 changes
"""
    )
    flat = json.loads(figures.read_text())
    assert (flat["old"], flat["new"], flat["changes"]) == ("moco-v1", "moco-v2", 4)
    assert (flat["temperature_old"], flat["temperature_new"]) == (0.07, 0.2)
    assert flat["views.jitter_new"] == [0.4, 0.4, 0.4, 0.1]
    assert len(flat) == 3 + 2 * 6
    assert shown(capsys, "recipes", "diff", "moco-v2", "moco-v2-800").endswith("\n1 change\n")


def test_names_files_and_runs_are_compared(
    capsys: Capture, recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_recipe(run / "recipe.yaml", MOCO_V2)
    for asked in (run, run / "recipe.yaml"):
        assert shown(capsys, "recipes", "diff", "moco-v2", asked).endswith("\nno difference\n")
    text = shown(capsys, "recipes", "diff", run, recipe_file)
    assert "\nmine (moco-v2 with changes)\nencoder:\n  backbone: resnet50 -> resnet18\n" in text
    assert text.endswith("\n6 changes\n")


def test_what_show_prints_is_a_recipe_file(capsys: Capture, tmp_path: Path) -> None:
    for name, recipe in RECIPES.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(shown(capsys, "recipes", "show", name))
        assert read_recipe(path) == recipe
        assert shown(capsys, "recipes", "diff", name, path).endswith("no difference\n")


def test_only_the_recipe_itself_is_shown_with_its_score(capsys: Capture, tmp_path: Path) -> None:
    assert "# moco-v2: arXiv:2003.04297, section 3. Expected: 67.5 % linear, ImageNet" in shown(
        capsys, "recipes", "show", "moco-v2"
    )
    path = tmp_path / "mine.yaml"
    path.write_text("base: moco-v2\nname: moco-v2\ntemperature: 1")
    assert "67.5" not in shown(capsys, "recipes", "show", path)


@pytest.mark.parametrize("before", [True, False])
def test_figures_of_the_table_and_of_a_recipe(
    before: bool, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    figures = tmp_path / "figures.json"
    shown(capsys, "recipes", "--json", figures)
    flat = json.loads(figures.read_text())
    assert flat["moco-v2-800_top1"] == 0.711
    assert flat["moco-v2-800_epochs"] == 800
    assert len(flat) == 6 * len(RECIPES)
    option = ["--json", str(figures)]
    first, last = (option, []) if before else ([], option)
    shown(capsys, "recipes", *first, "show", "moco-v2", *last)
    assert json.loads(figures.read_text())["encoder.head"] == "mlp"
    shown(capsys, "recipes", "show", "moco-v2")
    assert list(tmp_path.iterdir()) == [figures]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shwo", "moco-v2"], "unknown command 'shwo'; did you mean show?"),
        (["show"], "RECIPE"),
        (["show", "moco-v4"], "unknown recipe 'moco-v4'; did you mean 'moco-v"),
        (["show", "small"], "'small' is made for your images: `moco pretrain IMAGES"),
        (["diff", "moco-v2", "small"], "'small' is made for your images"),
        (["diff", "moco-v2"], "B"),
        (["diff", "moco-v2", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_mistakes(words: list[str], told: str, capsys: Capture) -> None:
    line = shown(capsys, "recipes", *words, code=2)
    assert line.startswith("moco: error: ")
    assert told in line
    assert len(line.splitlines()) == 1


def test_json_that_cannot_be_written(capsys: Capture, tmp_path: Path) -> None:
    assert "cannot write --json" in shown(capsys, "recipes", "--json", tmp_path, code=5)


def pretrain(*words: str | Path) -> list[str]:
    return ["pretrain", *map(str, words), "--device", "cpu", "--workers", "0"]


def test_a_run_by_a_file_is_called_after_it_and_goes_on(
    recipe_file: Path,
    photos: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = pretrain(photos, "--recipe", "mine.yaml")
    assert "recipe mine (moco-v2 with changes)" in shown(capsys, *words)
    run = Path("runs") / f"mine-{photos.name}"
    recipe = read_recipe(run / "recipe.yaml")
    assert (recipe.name, recipe.temperature, recipe.encoder.head) == ("mine", 0.2, "mlp")
    assert recipe.batch_size == 16
    # an edit that changes nothing is the same run; so is the run's own recipe
    recipe_file.write_text(f"# mine\n{recipe_file.read_text()}\ntemperature: 2e-1\n")
    assert "is done: 4 of 4 steps" in shown(capsys, *words)
    assert "is done: 4 of 4 steps" in shown(
        capsys, *pretrain(photos, "--recipe", run / "recipe.yaml")
    )
    recipe_file.write_text(recipe_file.read_text().replace("2e-1", "0.3"))
    line = shown(capsys, *words, code=2)
    assert f"run directory {run} belongs to another run (temperature 0.2 -> 0.3)" in line
    assert shown(capsys, *words, "--set", "temperature=0.2").endswith("gives the backbone\n")


def test_set_and_epochs_override_the_file(
    recipe_file: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["--set", "temperature=0.5", "--set", "dim=8", "--run", tmp_path / "run"]
    shown(capsys, *pretrain(photos, "--recipe", recipe_file, *words, "--epochs", "2"))
    recipe = read_recipe(tmp_path / "run" / "recipe.yaml")
    assert (recipe.temperature, recipe.encoder.dim, recipe.epochs) == (0.5, 8, 2)
    assert recipe.encoder.width == 0.125


def test_python_takes_files_and_paths(recipe_file: Path, photos: Path, tmp_path: Path) -> None:
    runs = [
        moco.pretrain(photos, recipe=recipe, run=tmp_path / f"run-{number}", device="cpu")
        for number, recipe in enumerate([recipe_file, str(recipe_file)])
    ]
    first, second = (read_recipe(run / "recipe.yaml") for run in runs)
    assert first == second
    assert first.name == "mine"


SMALL = "base: small\nencoder:\n  width: 0.125\nviews: {image_size: 16}\n"


def small_run(photos: Path, tmp_path: Path, text: str, *words: str | Path) -> list[str]:
    (tmp_path / "own.yaml").write_text(text)
    run = ["--run", tmp_path / "run"]
    return pretrain(photos, "--recipe", tmp_path / "own.yaml", *run, *words)


def test_the_small_recipe_follows_a_file_s_epochs_and_batch(
    photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = SMALL + "epochs: 2\nbatch_size: 8\n"
    printed = shown(capsys, *small_run(photos, tmp_path, text))
    assert "recipe own (small with changes)" in printed
    assert "views.image_size" not in printed  # no reason for what the user chose
    assert "key_momentum = 0.99" in printed
    recipe = read_recipe(tmp_path / "run" / "recipe.yaml")
    assert (recipe.epochs, recipe.batch_size, recipe.dictionary.size) == (2, 8, 16)
    assert (recipe.encoder.width, recipe.encoder.stem) == (0.125, "strided")
    assert recipe.optimizer.warmup_epochs == 2 / 20
    assert (recipe.name, recipe.source) == ("own", "small with changes")


def test_set_comes_before_the_file_for_the_small_recipe_too(
    photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = SMALL + "epochs: 3\nbatch_size: 64\n"
    words = ["--epochs", "1", "--set", "batch_size=32"]
    shown(capsys, *small_run(photos, tmp_path, text, *words))
    recipe = read_recipe(tmp_path / "run" / "recipe.yaml")
    assert (recipe.epochs, recipe.batch_size, recipe.dictionary.size) == (1, 32, 32)
    assert recipe.batch_norm_groups == 2


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("epochs: 0", 2, "epochs must be at least 1, got 0"),
        ("batch_size: 1", 2, "batch_size must be at least 2, got 1"),
        ("\ntemperature: 0", 3, "temperature must be from 0.0001"),
        ("\n\ndictionary: {size: 2}", 4, "queue size 2 is smaller than the batch"),
    ],
)
def test_a_file_s_mistakes_in_the_small_recipe_have_lines(
    text: str, line: int, told: str, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = small_run(photos, tmp_path, f"base: small\n{text}")
    found = shown(capsys, *words, code=2)
    assert found.startswith(f"moco: error: {tmp_path / 'own.yaml'}:{line}: {told}")
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_set_is_not_the_file_s(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    words = small_run(photos, tmp_path, SMALL, "--set", "temperature=0")
    assert shown(capsys, *words, code=2).startswith("moco: error: temperature must be from")
    words = small_run(photos, tmp_path, SMALL + "epochs: 3", "--epochs", "0")
    assert shown(capsys, *words, code=2).startswith("moco: error: epochs must be at least 1")


def test_the_paper_s_resnext_takes_steps(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    settings = ["encoder.backbone=resnext50_32x8d", "stage_blocks=[1, 1, 1, 1]", "width=0.125"]
    settings += ["image_size=16", "batch_size=16", "batch_norm_groups=2"]
    words = [word for setting in settings for word in ("--set", setting)]
    words += ["--run", str(tmp_path / "run"), "--epochs", "1", "--recipe", "moco-v2"]
    assert "resnext50_32x8d with" in shown(capsys, *pretrain(photos, *words))
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 4
    backbone = moco.load(tmp_path / "run")
    assert backbone.layer1[0].conv2.groups == 32
