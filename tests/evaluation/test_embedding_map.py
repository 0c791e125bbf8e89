"""The planes against numpy's own singular values, and t-SNE by what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from moco.errors import DataError, UsageError
from moco.evaluation import embedding_map
from moco.evaluation.embedding_map import TSNE_NEIGHBOURS, principal_plane, tsne_places
from moco.evaluation.neighbourhood import neighbourhood


def made_rows(count: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(count, width, generator=draw) * torch.linspace(3, 1, width) + 0.3


@pytest.mark.parametrize(("count", "width"), [(200, 10), (9, 40), (30, 30), (2, 5)])
def test_places_are_those_of_numpy_with_the_largest_loading_positive(
    count: int, width: int
) -> None:
    rows = made_rows(count, width)
    unit = rows.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    found = principal_plane(rows)
    for axis in range(2 if count > 2 else 1):
        loadings = axes[axis] * np.sign(axes[axis][np.abs(axes[axis]).argmax()])
        assert found.places[:, axis].numpy() == pytest.approx(centred @ loadings, abs=1e-9)
    shares = values**2 / (values**2).sum()
    assert found.shares == pytest.approx(tuple(shares[:2]), abs=1e-9)
    assert found.shares[0] >= found.shares[1]
    assert found.places.mean(dim=0).abs().max() < 1e-12


def test_the_length_of_rows_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_rows(100, 6)
    plain = principal_plane(rows)
    longer = principal_plane(rows * torch.linspace(0.1, 9, 100)[:, None])
    assert torch.allclose(longer.places, plain.places, atol=1e-6)
    monkeypatch.setattr(embedding_map, "CHUNK_VALUES", 42)
    assert torch.allclose(principal_plane(rows).places, plain.places, atol=1e-12)


def test_features_that_fill_no_plane_have_places_too() -> None:
    alike = principal_plane(torch.ones(10, 4))
    assert alike.shares == (0.0, 0.0)
    assert float(alike.places.abs().max()) < 1e-12
    signs = principal_plane(torch.tensor([[1.0], [-2.0], [3.0]]))
    assert signs.places[:, 1].tolist() == [0, 0, 0]
    assert signs.shares == (1.0, 0.0)
    with pytest.raises(DataError, match="two or more"):
        principal_plane(torch.ones(1, 4))


def test_tsne_lays_neighbours_together_and_again_the_same() -> None:
    pytest.importorskip("openTSNE")
    kinds = torch.arange(150) % 3
    rows = torch.randn(150, 20, generator=torch.Generator().manual_seed(0))
    rows += 6 * torch.eye(20)[kinds]
    plane, found = principal_plane(rows), neighbourhood(rows, TSNE_NEIGHBOURS)
    places = tsne_places(plane, found)
    apart = torch.cdist(places, places).fill_diagonal_(torch.inf)
    assert bool((kinds[apart.argmin(dim=1)] == kinds).all())
    assert torch.equal(tsne_places(plane, found), places)
    few = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    shown = tsne_places(principal_plane(few), neighbourhood(few, TSNE_NEIGHBOURS))
    assert bool(torch.isfinite(shown).all())


def test_tsne_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_map.importlib.util, "find_spec", lambda _: None)
    rows = made_rows(20, 4)
    with pytest.raises(UsageError, match=r"pip install 'moco-torch\[tsne\]'"):
        tsne_places(principal_plane(rows), neighbourhood(rows))
