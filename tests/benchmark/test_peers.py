"""Other libraries take part with the recipe's parameters, or say why not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from moco.benchmark.files import own_files
from moco.benchmark.input import checked_peers
from moco.benchmark.peers import peer_contenders
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50

VIEWS = replace(MOCO_V2.views, image_size=16, jitter=(0.1, 0.2, 0.3, 0.4), flip_probability=0.25)
Given = dict[str, Any]


@pytest.fixture(autouse=True)
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightly", "lightly.transforms"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("", ".data", ".data.transforms"):
        monkeypatch.setitem(sys.modules, f"stable_pretraining{name}", None)


def as_view(image: Image.Image, side: int) -> torch.Tensor:
    return pil_to_tensor(image.resize((side, side))).float()


@pytest.fixture
def lightly(monkeypatch: pytest.MonkeyPatch) -> Given:
    given: Given = {}

    def transform(**parameters: Any) -> Any:
        given.update(parameters)
        side = parameters["input_size"]
        return lambda image: [as_view(image, side), as_view(image, side)]

    module = ModuleType("lightly.transforms")
    module.MoCoV2Transform = transform  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightly", ModuleType("lightly"))
    monkeypatch.setitem(sys.modules, "lightly.transforms", module)
    return given


@pytest.fixture
def stable_pretraining(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Fake transforms: each notes what it was made with and hands on its sample."""
    made: list[tuple[str, Any]] = []

    def operation(name: str) -> Any:
        def make(*values: Any, **parameters: Any) -> Any:
            made.append((name, (*values, parameters)))
            return name

        return make

    def several(transforms: list[Any]) -> Any:
        assert transforms == [["RGB", *NAMES, "ToImage"]] * 2
        return lambda sample: {"views": [{"image": as_view(sample["image"], 16)} for _ in "ab"]}

    module: Any = SimpleNamespace(
        **{name: operation(name) for name in ("RGB", "ToImage", *NAMES)},
        Compose=lambda *operations: list(operations),
        MultiViewTransform=several,
    )
    for name in ("stable_pretraining", "stable_pretraining.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "stable_pretraining.data.transforms", module)
    return made


NAMES = (
    "RandomResizedCrop",
    "ColorJitter",
    "RandomGrayscale",
    "PILGaussianBlur",
    "RandomHorizontalFlip",
)


def test_without_them_the_reason_is_told(photos: Path) -> None:
    peers, left_out = peer_contenders([photos / "even/00.png"], VIEWS)
    assert peers == []
    assert set(left_out) == {"lightly", "stable_pretraining"}
    assert all("not installed" in reason for reason in left_out.values())


def test_lightly_gets_the_recipes_parameters(lightly: Given, photos: Path) -> None:
    files = own_files(photos)
    (peer,), left_out = checked_peers(files, VIEWS)
    assert (peer.name, set(left_out)) == ("lightly", {"stable_pretraining"})
    assert lightly == {
        "input_size": 16,
        "cj_prob": 0.8,
        "cj_bright": 0.1,
        "cj_contrast": 0.2,
        "cj_sat": 0.3,
        "cj_hue": 0.4,
        "min_scale": 0.2,
        "random_gray_scale": 0.2,
        "gaussian_blur": 0.5,
        "sigmas": (0.1, 2.0),
        "hf_prob": 0.25,
        "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }


def test_an_operation_that_the_recipe_lacks_never_happens(lightly: Given, photos: Path) -> None:
    peer_contenders([photos / "even/00.png"], replace(VIEWS, order=("crop", "jitter")))
    assert (lightly["random_gray_scale"], lightly["gaussian_blur"], lightly["hf_prob"]) == (0, 0, 0)
    assert lightly["cj_prob"] == 0.8


def test_stable_pretraining_gets_the_operations_in_order(
    stable_pretraining: list[tuple[str, Any]], photos: Path
) -> None:
    (peer,), _ = checked_peers(own_files(photos), VIEWS)
    assert peer.name == "stable_pretraining"
    made = dict(stable_pretraining)
    assert made["RandomResizedCrop"] == ((16, 16), {"scale": (0.2, 1.0)})
    assert made["ColorJitter"] == (0.1, 0.2, 0.3, 0.4, {"p": 0.8})
    assert made["RandomGrayscale"] == ({"p": 0.2},)
    assert made["PILGaussianBlur"] == ({"sigma": [0.1, 2.0], "p": 0.5},)
    assert made["RandomHorizontalFlip"] == ({"p": 0.25},)
    assert made["ToImage"] == ({"mean": list(VIEWS.mean), "std": list(VIEWS.std)},)


@pytest.mark.parametrize(
    "changes",
    [
        {"order": ("crop", "jitter", "vertical_flip")},
        {"crop_scale": (0.2, 0.9)},
        {"blur_probabilities": (1.0, 0.1)},
    ],
)
@pytest.mark.usefixtures("lightly")
def test_lightly_is_left_out_where_it_has_no_such_parameter(changes: Given) -> None:
    peers, left_out = peer_contenders([], replace(VIEWS, **changes))
    assert peers == []
    assert "cannot make" in left_out["lightly"]


@pytest.mark.usefixtures("lightly", "stable_pretraining")
def test_a_recipe_that_they_cannot_make_leaves_them_out(photos: Path) -> None:
    peers, left_out = peer_contenders([photos / "even/00.png"], MOCO_V3_RESNET50.views)
    assert peers == []
    assert "cannot make" in left_out["lightly"]
    assert "solarize" in left_out["stable_pretraining"]


def test_one_that_does_less_is_left_out(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("lightly.transforms")
    module.MoCoV2Transform = lambda **_: lambda image: [as_view(image, 8)] * 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightly.transforms", module)
    peers, left_out = checked_peers(own_files(photos), VIEWS)
    assert peers == []
    assert "not two of [48, 3, 16, 16]" in left_out["lightly"]


def test_one_with_another_interface_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly.transforms", ModuleType("lightly.transforms"))
    _, left_out = peer_contenders([], VIEWS)
    assert "cannot be used" in left_out["lightly"]
