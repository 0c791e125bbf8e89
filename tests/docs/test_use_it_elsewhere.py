"""The blocks of docs/use_it_elsewhere.md run as they stand, and what they build has the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from doc_pages import ROOT, blocks_of
from made_runs import RECIPE, made_encoder, made_run
from torch import Tensor, nn

from moco.cli.main import main
from moco.specs import EncoderSpec

BLOCKS = blocks_of(ROOT / "docs" / "use_it_elsewhere.md")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder, the working directory, with a run RUN of a telling ResNet-18."""
    folder = tmp_path_factory.mktemp("elsewhere")
    views = replace(RECIPE.views, image_size=64, evaluation_resize=72, evaluation_size=64)
    recipe = replace(RECIPE, encoder=EncoderSpec(backbone="resnet18"), views=views)
    encoder, draw = made_encoder(0, recipe), torch.Generator().manual_seed(0)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(0.2 * torch.randn(layer.num_features, generator=draw))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=draw))
    made_run(folder / "RUN", 0, recipe, encoder=encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def ran(section: str) -> dict[str, Any]:
    """Run a section's commands and its program, and return the program's names."""
    names: dict[str, Any] = {}
    text = (ROOT / "docs" / "use_it_elsewhere.md").read_text().split("\n")
    begins = next(n for n, line in enumerate(text) if line.startswith("## ") and section in line)
    ends = next((n for n, line in enumerate(text) if n > begins and line[:3] == "## "), len(text))
    found = [block for block in BLOCKS if begins < block.line - 1 < ends]
    assert found, section
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in found:
            if block.language != "python":
                for command in block.commands:
                    assert main(command.split()[1:]) == 0, command
                continue
            assert not block.not_run
            code = block.text.replace("resnet50", "resnet18")
            exec(compile(code, f"{block.page}:{block.line}", "exec"), names)
    return names


def pictures() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def features(names: dict[str, Any]) -> Tensor:
    import moco

    with torch.no_grad():
        return torch.as_tensor(moco.load("RUN")(pictures()))


def assert_close(theirs: Tensor, ours: Tensor) -> None:
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5 * float(ours.abs().max()))


def test_torchvision_s_detector_trains_on_the_backbone(run: Path) -> None:
    names = ran("torchvision")
    detector = names["detector"]
    body = detector.backbone.body
    with torch.no_grad():
        deepest = body.eval()(pictures())["3"]
        assert torch.equal(deepest.mean((2, 3)), features(names))
    detector.train()
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([3])}
    detector.transform.min_size, detector.transform.max_size = (64,), 64
    losses = detector([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert body.conv1.weight.grad.abs().sum() > 0


def test_timm_fine_tunes_it(run: Path) -> None:
    names = ran("timm")
    model = names["model"].eval()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(pictures()), pre_logits=True)
    assert torch.equal(pooled, features(names))
    model.train()(pictures()).sum().backward()
    assert model(pictures()).shape == (2, 10)
    assert model.conv1.weight.grad.abs().sum() > 0
    assert "RandomResizedCrop" in str(names["transform"])


def test_a_u_net_has_it_as_its_encoder(run: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    names = ran("segmentation-models-pytorch")
    unet = names["unet"].eval()
    with torch.no_grad():
        assert_close(unet.encoder(pictures())[-1].mean((2, 3)), features(names))
        assert unet(pictures()).shape == (2, 2, 64, 64)


@pytest.mark.slow
def test_transformers_loads_it_whole_and_with_a_classifier(run: Path) -> None:
    pytest.importorskip("transformers")
    names = ran("transformers")
    ours = features(names)
    with torch.no_grad():
        assert_close(names["model"](pictures()).pooler_output.flatten(1), ours)
        inner = names["classifier"].eval().resnet(pictures()).pooler_output.flatten(1)
        assert_close(inner, ours)
        assert names["classifier"](pictures()).logits.shape == (2, 10)
    assert names["processor"].crop_size["height"] == 64


def test_num_features_is_how_many_come_out(tmp_path: Path) -> None:
    import moco

    spec = EncoderSpec(backbone="mobilenetv3_small_050")  # timm's own count is of a layer before
    made_run(tmp_path / "run", 0, replace(RECIPE, encoder=spec))
    for run in ("run", "run/checkpoints/step_00000001"):
        backbone: Any = moco.load(tmp_path / run)
        assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, backbone.num_features)


@pytest.mark.slow
def test_those_not_run_say_so_and_their_files_are_written(run: Path) -> None:
    unrun = [block for block in BLOCKS if block.not_run]
    assert len(unrun) == 2
    for block in unrun:
        compile(block.text, "block", "exec")
    commands = [line for block in BLOCKS if block.language != "python" for line in block.commands]
    for command, file in zip(commands[-2:], ("backbone.pkl", "backbone.pth"), strict=True):
        assert main(command.split()[1:]) == 0
        folder = Path(command.split()[-1])
        assert (folder / file).exists()
        assert any(f"{folder}/{file}" in block.text for block in unrun)
