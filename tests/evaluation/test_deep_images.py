"""Images of many channels or more than 8 bits, from the command to a score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

import moco
from moco.cli.main import main
from moco.evaluation.features import extract_features
from moco.evaluation.labelled import LabelledImages
from moco.loading import load_with_recipe
from moco.specs import ViewsSpec


def write_image(path: Path, pixels: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".png":
        Image.fromarray(pixels[:, :, 0]).save(path)
    else:
        planes = {"planarconfig": "contig"} if pixels.shape[2] > 1 else {}  # or rows become pages
        tifffile.imwrite(path, np.squeeze(pixels), photometric="minisblack", **planes)


def made(folder: Path, channels: int, suffix: str, *, each: int) -> Path:
    """Return class folders of 16-bit images that one channel's level tells apart."""
    draw = np.random.default_rng(0)
    for name, level in (("dry", 0), ("wet", 900)):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = draw.normal(3000, 300, (24, 26, channels))
            pixels[:, :, -1] += level
            write_image(folder / name / f"{number}{suffix}", pixels.astype(np.uint16))
    return folder


@pytest.mark.parametrize(
    ("channels", "suffix"), [(12, ".tif"), (12, ".npy"), (1, ".png"), (1, ".tif")]
)
def test_sixteen_bits_train_and_evaluate_with_the_plain_command(
    channels: int, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = made(tmp_path / "train", channels, suffix, each=16)
    test = made(tmp_path / "test", channels, suffix, each=8)
    run = tmp_path / "run"
    assert main(["pretrain", str(train), "--epochs", "1", "--run", str(run), "--workers", "0"]) == 0
    assert f"views.channels = {channels}: the images have {channels}" in capsys.readouterr().out
    words = ["evaluate", "knn", str(run), "--train", str(train), "--test", str(test)]
    assert main([*words, "--neighbours", "5"]) == 0
    backbone, recipe = load_with_recipe(run)
    assert backbone(torch.zeros(2, channels, 64, 64)).shape[0] == 2
    assert recipe.views.channels == channels
    assert recipe.views.deep
    assert recipe.views.mean[0] == pytest.approx(3000 / 65535, rel=0.01 if channels > 1 else 0.2)
    first = next(layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == channels
    assert moco.load(run).state_dict().keys() == backbone.state_dict().keys()
    # the same command again is the same run, which is done
    assert main(["pretrain", str(train), "--epochs", "1", "--run", str(run), "--workers", "0"]) == 0


def test_deep_pixels_are_normalized_once(tmp_path: Path) -> None:
    images = LabelledImages(made(tmp_path / "train", 12, ".npy", each=8))
    stack = np.stack([images.read(number) for number in range(16)]) / 65535
    mean, std = stack.mean(axis=(0, 1, 2)), stack.std(axis=(0, 1, 2))
    views = ViewsSpec(
        channels=12,
        deep=True,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        image_size=24,
        evaluation_resize=24,
        evaluation_size=24,
    )
    rows = extract_features(None, images, views, device=torch.device("cpu")).rows
    values = rows.view(16, 12, 24, 24).transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(dim=1), torch.zeros(12), rtol=0, atol=0.1)
    assert 0.5 < values.std(dim=1).min() <= values.std(dim=1).max() < 1.5  # resized a little
