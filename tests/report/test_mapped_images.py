"""What the map of images is made of: whose features, which images, what is held to be a double."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_map import COUNT, LONER, PLANTED, made_source, nearest_by_numpy

from moco.errors import DataError
from moco.evaluation.embedding_map import has_tsne
from moco.evaluation.neighbourhood import Neighbourhood
from moco.report import mapped_images
from moco.report.embedding_section import map_figures
from moco.report.mapped_images import map_images, usual_closeness


def test_a_planted_double_and_a_loner_are_found(tmp_path: Path) -> None:
    mapped = made_source(tmp_path).mapped()
    assert [
        sorted(mapped.images.name(row) for row in group.rows) for group in mapped.duplicates
    ] == [sorted(PLANTED)]
    assert mapped.duplicates[0].similarity == pytest.approx(1, abs=1e-5)
    assert mapped.images.name(mapped.loners[0][0]) == LONER
    figures = map_figures(mapped)
    assert sorted(figures["near_duplicates"][0]["images"]) == sorted(PLANTED)  # type: ignore[index]
    assert figures["outliers"][0]["image"] == LONER  # type: ignore[index]


def test_neighbours_before_and_after_are_of_their_own_network(tmp_path: Path) -> None:
    made = made_source(tmp_path)
    mapped = made.mapped()
    for which, found in (("trained", mapped.trained), ("untrained", mapped.untrained)):
        rows = np.array([made.rows[which][mapped.images.name(row)] for row in range(COUNT)])
        for row in range(COUNT):
            expected = [other for other, _ in nearest_by_numpy(rows, row)]
            assert found.rows[row].tolist() == expected, (which, row)


def test_images_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    made = made_source(tmp_path, broken=5)
    mapped = made.mapped()
    names = [mapped.images.name(row) for row in range(len(mapped.images))]
    assert mapped.unreadable == 5
    assert mapped.total == COUNT
    assert len(names) == COUNT - 5
    assert not any("broken" in name for name in names)
    assert mapped.labels == [name.partition("/")[0] for name in names]
    assert made.asked == [("trained", COUNT), ("untrained", COUNT - 5)]


def test_a_sample_is_spread_over_the_source(tmp_path: Path) -> None:
    made = made_source(tmp_path)
    mapped = made.mapped(most_images=20)
    names = [made.source.name(image_id) for image_id in range(0, COUNT, 3)]
    assert [mapped.images.name(row) for row in range(20)] == names
    assert made.asked == [("trained", 20), ("untrained", 20)]


def test_the_share_of_one_class_among_neighbours(tmp_path: Path) -> None:
    mapped = made_source(tmp_path).mapped()
    labels = np.array(mapped.labels)
    expected = np.mean(labels[mapped.trained.rows.numpy()] == labels[:, None])
    assert mapped.same_class(mapped.trained) == pytest.approx(expected)
    assert 0 < expected < 1


def test_near_duplicates_are_told_by_what_is_usual() -> None:
    def of(distances: list[float]) -> Neighbourhood:
        cosines = 1 - torch.tensor(distances, dtype=torch.double)
        return Neighbourhood(torch.zeros(len(distances), 1), cosines[:, None])

    assert usual_closeness(of([0.4, 0.4, 0.4])) == pytest.approx(0.9)
    assert usual_closeness(of([0.04, 0.04, 0.04])) == pytest.approx(0.99)
    assert usual_closeness(of([-1e-7] * 3)) == 1  # all alike: rounding is no distance


def test_tsne_is_made_of_few_images_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_source(tmp_path)
    assert made.mapped("pca").tsne is None
    assert (made.mapped("auto").tsne is not None) == has_tsne()
    monkeypatch.setattr(mapped_images, "MOST_BY_ITSELF", COUNT - 1)
    assert made.mapped("auto").tsne is None


def test_two_images_are_no_map(tmp_path: Path) -> None:
    made = made_source(tmp_path)
    with pytest.raises(DataError, match="three or more"):
        map_images(made.source, made.features_of, network="run", most_images=2)
