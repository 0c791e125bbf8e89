from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from made_runs import made_run
from made_sources import CIFAR, changed, made_source, telling_run

from moco.cli.main import main
from moco.export import torchvision_format
from moco.export.exporting import export_model

HOSTILE = "x](http://evil) <script>alert(1)</script> ``` | *a* \x1b[31m\nlicense: mine"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return telling_run(tmp_path_factory.mktemp("runs") / "run")


def test_a_run_is_exported_and_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "new" / "out", tmp_path / "told.json"
    words = ["export", str(run), "--to", "torchvision", "--out", str(out), "--license", "MIT"]
    assert main([*words, "--json", str(told)]) == 0
    shown = capsys.readouterr().out
    assert "backbone.pth" in shown
    assert "largest difference of a feature 0 " in shown
    figures = json.loads(told.read_text())
    assert figures["format"] == "torchvision"
    assert figures["largest_difference"] == 0
    assert figures["is_loaded"]
    assert figures["files"] == ["backbone.pth"]
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "backbone.pth", "export.json")
    ]
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "MIT"
    assert front["library_name"] == "torchvision"
    assert "0\\.485, 0\\.456, 0\\.406" in card or "0.485, 0.456, 0.406" in card
    assert "SHA-256 over the images' names | x" in card


def test_nothing_is_overwritten_untold(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", str(run), "--to", "timm", "--out", str(out)]
    assert main(words) == 0
    before = (out / "model.safetensors").stat().st_ino
    assert main(words) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert (out / "model.safetensors").stat().st_ino == before
    assert main([*words[:2], "--to", "safetensors", *words[4:], "--overwrite"]) == 0
    assert not (out / "config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_an_earlier_export_makes_way(run: Path, tmp_path: Path) -> None:
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    link.symlink_to(mine)
    (other := tmp_path / "other").mkdir()
    (other / "export.json").write_text('{"made_by": "my own script"}')
    for out in (mine, link, mine / "thesis.txt", other):
        words = ["export", str(run), "--to", "timm", "--out", str(out), "--overwrite"]
        assert main(words) == 2
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "tim", "--out", "OUT"], "did you mean timm?"),
        (["--to", "timm", "--out", "OUT", "--dynamic-size"], "goes with --to onnx"),
        (["--to", "timm", "--out", "OUT", "--license", "free: [x"], "no licence's identifier"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], told: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    assert main(["export", str(run), *given]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1


def test_what_does_not_compare_is_not_kept(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(path: Path, state: dict[str, object]) -> None:
        write(path, {name: -value for name, value in state.items()})  # type: ignore[operator]

    write = torchvision_format.write_state_dict
    monkeypatch.setattr(torchvision_format, "write_state_dict", other)
    words = ["export", str(run), "--to", "torchvision", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "nothing is kept of it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_names_from_outside_are_only_text_on_the_card(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", 0, replace(CIFAR, name=HOSTILE, source=HOSTILE))
    figures = {"sweep": [], "measure": HOSTILE, "headline_value": 0.5}
    (run / "`knn`<b>|.json").write_text(json.dumps(figures))
    assert main(["export", str(run), "--to", "safetensors", "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "unknown"
    assert front["tags"][-1] == "resnet18"
    assert "metrics" not in front
    page, _, recipe_text = card.partition("## Recipe")
    assert "<" not in page
    assert "](http" not in page
    assert "\x1b" not in card
    assert "50\\.0 \\%" in page
    assert recipe_text.split("\n")[2] == "````yaml"  # longer than what is inside
    assert recipe_text.rstrip().endswith("\n````")


def test_a_dead_or_broken_network_is_refused(tmp_path: Path) -> None:
    source = changed(made_source("resnet18", stage_blocks=(1, 1, 1, 1)), "nothing loaded")
    bias = source.backbone.get_submodule("layer4.0.bn2").bias
    bias.data[3] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(Exception, match="nothing is kept"):
        export_model(source, "torchvision", tmp_path / "out")
    assert not list(tmp_path.iterdir())
