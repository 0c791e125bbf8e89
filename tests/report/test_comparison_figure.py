"""The figure of `moco compare`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from moco.errors import StorageError, UsageError
from moco.evaluation.comparison import Comparison, compare_rivals
from moco.report import comparison_figure
from moco.report.comparison_figure import check_figure_path, draw_comparisons


def comparison(*names: str) -> Comparison:
    draw = torch.Generator().manual_seed(5)
    labels = torch.arange(60) % 3
    votes = {name: torch.rand(60, 3, generator=draw) for name in names}
    return compare_rivals("top1", votes, labels)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_it_is_drawn_in_every_format(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"figure{suffix}"
    check_figure_path(file)
    draw_comparisons({"linear": comparison("ours", "$theirs_1$")}, "60 images", file)
    assert file.stat().st_size > 1000


def test_it_grows_with_networks_and_panels(tmp_path: Path) -> None:
    few, many = tmp_path / "few.png", tmp_path / "many.png"
    draw_comparisons({"linear": comparison("a", "b")}, "", few)
    rivals = comparison(*(f"network {number}" for number in range(8)))
    draw_comparisons({"linear": rivals, "kNN": rivals}, "", many)
    with Image.open(few) as small, Image.open(many) as large:
        assert large.width > small.width
        assert large.height > small.height


def test_it_says_names_scores_and_the_measure(tmp_path: Path) -> None:
    file, rivals = tmp_path / "figure.svg", comparison("ours", "runs/" + "x" * 90)
    draw_comparisons({"linear": rivals, "kNN": rivals}, "60 images of y", file)
    text = file.read_text()
    for said in ("ours", "..." + "x" * 37, "linear", "kNN", "60 images of y", "top-1 (%)"):
        assert f"<!-- {said} -->" in text
    for score in rivals.scores.values():
        assert f"<!-- {100 * score.value:.2f} % -->" in text


def test_files_that_cannot_be_drawn_are_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_figure_path(None)
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UsageError, match=r"must end in \.png, \.svg, \.pdf, got"):
        check_figure_path(tmp_path / "figure.jpg")
    for file in (tmp_path / "x.png", tmp_path / "none/x.png", tmp_path / f"{'x' * 300}/x.png"):
        with pytest.raises(StorageError, match="name a file in a writable folder"):
            check_figure_path(file)
    monkeypatch.setattr(comparison_figure.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="matplotlib, which is not installed"):
        check_figure_path(tmp_path / "figure.png")


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        draw_comparisons({"linear": comparison("a", "b")}, "", tmp_path / "gone" / "x.png")
