from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from moco.build import build_contrast
from moco.cpu_kernels import narrow_pointwise_stride, outsized_stride
from moco.encoders import build_encoder
from moco.recipe import Recipe
from moco.recipes import CIFAR10_RESNET18
from moco.specs import DictionarySpec, EncoderSpec

IMAGES = 16


def tiny(width: float, side: int) -> Recipe:
    """Return a recipe of a small ResNet with ImageNet's stem, which halves maps five times."""
    return replace(
        CIFAR10_RESNET18,
        encoder=EncoderSpec(backbone="resnet18", width=width, stage_blocks=(1, 1, 1, 1), dim=6),
        views=replace(CIFAR10_RESNET18.views, image_size=side),
        dictionary=DictionarySpec(size=40),
        batch_size=IMAGES,
        batch_norm_groups=4,
    )


def unwritten_memory() -> None:
    """Leave NaN in the memory that the next tensors are given."""
    for power in range(8, 20):
        torch.full((1 << power,), float("nan"))


@pytest.mark.parametrize(("side", "lower"), [(16, False), (32, True)])
def test_gradients_in_lower_precision_are_those_of_float32(side: int, lower: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    view_a, view_b = torch.randn(2, IMAGES, 3, side, side, generator=generator)
    gradients = {}
    for precision in (None, torch.bfloat16):
        contrast = build_contrast(
            tiny(0.125, side), images=IMAGES, seed=0, precision=precision
        ).train()
        assert contrast.encoder.precision == (precision if lower else None)
        unwritten_memory()
        contrast(view_a, view_b, torch.arange(IMAGES), 0).loss.backward()
        gradients[precision] = torch.cat([w.grad.flatten() for w in contrast.encoder.parameters()])
    assert F.cosine_similarity(gradients[torch.bfloat16], gradients[None], dim=0) > 0.8


def test_outsized_stride_names_the_layer_and_leaves_the_encoder_as_it_was() -> None:
    encoder = build_encoder(tiny(0.125, 32).encoder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert outsized_stride(encoder, 16) == "backbone.layer4.0.conv1"
    assert outsized_stride(encoder, 32) == ""
    assert encoder.training
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("width", "narrow"), [(0.125, "backbone.layer2.0.downsample.0"), (0.25, ""), (1.0, "")]
)
def test_narrow_layers_are_not_computed_with_channels_last(width: float, narrow: str) -> None:
    contrast = build_contrast(tiny(width, 32), images=IMAGES, seed=0)
    assert narrow_pointwise_stride(contrast.encoder) == narrow
    expected = torch.contiguous_format if narrow else torch.channels_last
    assert contrast.encoder.layout == contrast.key_encoder.layout == expected
    weight = contrast.encoder.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=expected)


PROGRAM = """
import torch
from moco.build import build_contrast
from tests.test_cpu_kernels import IMAGES, tiny
torch.set_num_threads(1)
contrast = build_contrast(tiny(0.125, 16), images=IMAGES, seed=0).train()
for step in range(20):
    view_a, view_b = torch.randn(2, IMAGES, 3, 16, 16)
    contrast(view_a, view_b, torch.arange(IMAGES), step).loss.backward()
"""


def test_a_narrow_network_trains_without_touching_memory_that_is_not_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "7"},
        cwd=str(__file__).rpartition("/tests/")[0],
    )
    assert done.returncode == 0, done.stderr
