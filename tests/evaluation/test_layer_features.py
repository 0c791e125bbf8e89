from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from made_runs import RECIPE, answers, made_encoder, made_run
from timm.models.resnet import ResNet
from torch import Tensor, nn

from moco.errors import UsageError
from moco.evaluation.frozen import fingerprint
from moco.evaluation.layer_features import LayerFeatures
from moco.found_model import find_model

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("layers") / "run", 7)


@torch.no_grad()
def of_layer(network: nn.Module, layer: str, images: Tensor = IMAGES) -> Tensor:
    return torch.as_tensor(LayerFeatures(network, layer).eval()(images))


def resnet() -> ResNet:
    backbone = made_encoder(7).backbone
    assert isinstance(backbone, ResNet)
    return backbone


@torch.no_grad()
def by_hand(network: ResNet, layer: str) -> Tensor:
    """Return a layer's map, computed layer by layer as timm's ResNet is drawn in its paper."""
    view: Tensor = network.maxpool(network.act1(network.bn1(network.conv1(IMAGES))))
    for name in ("layer1", "layer2", "layer3"):
        view = getattr(network, name)(view)
        if name == layer:
            return view
    block: Any = network.layer4[0]
    first = block.act1(block.bn1(block.conv1(view)))
    return torch.as_tensor(block.bn2(block.conv2(first)))


@pytest.mark.parametrize("layer", ["layer1", "layer3", "layer4.0.bn2"])
def test_a_map_is_its_mean_over_places_computed_by_hand(layer: str) -> None:
    network = resnet()
    expected = by_hand(network, layer).mean(dim=(2, 3))
    assert torch.equal(of_layer(network, layer), expected)


def test_what_follows_in_the_same_memory_is_not_seen() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.then = nn.Linear(2, 2), nn.ReLU(inplace=True)

        def forward(self, rows: Tensor) -> Tensor:
            return torch.as_tensor(self.then(self.first(rows)))

    rows = Rows()
    given = torch.randn(5, 2)
    expected = rows.first(given).detach()
    assert float(expected.min()) < 0
    assert torch.equal(of_layer(rows, "first", given), expected)


def test_the_network_has_no_hook_afterwards_and_is_the_same_to_the_bit() -> None:
    network = resnet()
    before, answer = fingerprint(network), answers(network)
    features = LayerFeatures(network, "layer2").eval()
    for images in (IMAGES, IMAGES[:, :2]):  # the second raises inside
        with torch.no_grad(), suppress(RuntimeError):
            features(images)
        assert not any(module._forward_hooks for module in network.modules())
    assert fingerprint(network) == before
    assert torch.equal(answers(network), answer)


VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(VIT, img_size=32, num_classes=0)
    return model.eval()


@torch.no_grad()
def test_tokens_are_the_class_token_where_the_layer_sees_one(vit: Any) -> None:
    tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(IMAGES))))
    tokens = vit.blocks[1](vit.blocks[0](tokens))
    assert tokens.shape == (3, 5, 192)
    assert torch.equal(of_layer(vit, "blocks.1"), tokens[:, 0])
    patches = vit.patch_embed(IMAGES)
    assert patches.shape == (3, 4, 192)
    assert torch.equal(of_layer(vit, "patch_embed"), patches.mean(dim=1))


@torch.no_grad()
def test_torchvisions_class_token_too() -> None:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=3).eval()
    torch.manual_seed(0)
    nn.init.normal_(model.class_token)
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    rows = of_layer(model, "encoder.ln")
    assert torch.equal(model.heads(rows), model(IMAGES))


class Gives(nn.Module):
    """A network whose layer gives whatever a function makes of the images."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.unused = nn.Identity(), nn.Identity()
        self.make = make

    def forward(self, images: Tensor) -> Any:
        return self.layer(self.make(images))


def test_a_map_may_have_its_channels_last() -> None:
    last = torch.randn(3, 4, 4, 6)
    assert torch.equal(of_layer(Gives(lambda _: last), "layer"), last.mean(dim=(1, 2)))
    first = torch.randn(3, 6, 4, 4)
    assert torch.equal(of_layer(Gives(lambda _: first), "layer"), first.mean(dim=(2, 3)))
    equal = torch.randn(3, 4, 4, 4)
    assert torch.equal(of_layer(Gives(lambda _: equal), "layer"), equal.mean(dim=(2, 3)))
    tokens = torch.randn(3, 4, 6)
    assert torch.equal(of_layer(Gives(lambda _: tokens), "layer"), tokens.mean(dim=1))


def test_a_layer_that_runs_twice_is_refused() -> None:
    class Twice(Gives):
        def forward(self, images: Tensor) -> Any:
            return self.layer(self.layer(images.flatten(1)))

    with pytest.raises(UsageError, match="runs 2 times"):
        of_layer(Twice(lambda images: images), "layer")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (torch.zeros(6, 5), r"gives \[6, 5\]"),
        (torch.zeros(3), r"gives \[3\]"),
        (torch.zeros(3, 2, 2, 2, 2), "name another"),
        (torch.zeros(3, 5, dtype=torch.long), "name another"),
        ((torch.zeros(3, 5), None), "gives tuple"),
    ],
)
def test_what_is_no_row_for_each_image_is_refused(made: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        of_layer(Gives(lambda _: made), "layer")


def test_a_layer_that_has_no_part_or_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="'unused' runs 0 times"):
        of_layer(Gives(lambda images: images.flatten(1)), "unused")
    with pytest.raises(UsageError, match="no layer 'layr3'; did you mean layer3"):
        find_model(str(run), layer="layr3")
    with pytest.raises(UsageError, match=r"no layer ''; it has conv1, bn1"):
        find_model(str(run), layer="")
    with pytest.raises(UsageError, match=r"no layer 'head.zero'; did you mean head\.\d"):
        find_model(str(run), layer="head.zero")
    with pytest.raises(UsageError, match="no layer 'layer9'"):
        find_model("timm:resnet18", layer="layer9")


def test_layers_of_a_run_are_of_its_backbone_or_its_head(run: Path) -> None:
    encoder = made_encoder(7)
    pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = find_model(str(run), layer="layer3")
    assert torch.equal(answers(found), of_layer(encoder.backbone, "layer3", pictures))
    head: Any = encoder.head
    hidden = head[0](answers(encoder.backbone)).detach()
    assert float(hidden.min()) < 0  # the ReLU behind it works in place
    assert torch.equal(answers(find_model(str(run), layer="head.0")), hidden)
    encoders = {find_model(str(run), layer=layer).encoder for layer in ("layer3", "layer2", "head")}
    assert len(encoders) == 3
    assert found.views == RECIPE.views


def test_a_layer_of_a_librarys_model() -> None:
    network = find_model("torchvision:resnet18").network
    assert network is not None
    found = find_model("torchvision:resnet18", layer="layer4.1.bn2")
    assert torch.equal(answers(found, 64), of_layer(network, "layer4.1.bn2", pictures(64)))


def pictures(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
