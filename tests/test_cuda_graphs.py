"""Encoders replayed as CUDA graphs: the same steps, or the plain ones and the reason why.

A capture needs a GPU. Here a stand-in keeps what matters of one: inputs, outputs and gradients lie
in memory of its own, which the next replay overwrites.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco import cuda_graphs, fast_encoders
from moco.build import build_contrast, build_optimizer
from moco.cli.main import main
from moco.cuda_graphs import attempt, reason_against_capturing
from moco.errors import UsageError
from moco.fast_encoders import FastEncoders
from moco.plan import make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES
from moco.run_records import read_lines
from moco.training_step import TrainingStep

IMAGES, STEPS = 16, 4
METHODS = {
    "queue": ["moco-v2"],
    "memory bank": ["moco-v2", "mechanism=memory_bank"],
}
ON = "captured as a CUDA graph in"
OFF = "runs without a graph: "


def recipe_of(method: str, tiny: list[str], *more: str) -> Recipe:
    name, *settings = METHODS[method]
    if method == "memory bank":
        tiny = [setting for setting in tiny if "dictionary.size" not in setting]
    return set_fields(RECIPES[name], [*tiny, *settings, "head_width=12", *more])


def replayed_in_place(
    module: nn.Module, samples: tuple[Tensor, ...], capture_error_mode: str
) -> Callable[[Tensor], Tensor]:
    """Stand in for torch's capture: one place for each input, output and gradient."""
    assert capture_error_mode == "thread_local"
    (image,) = samples
    weights = tuple(module.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    plain = module.forward
    output = plain(image)  # moves running statistics, as warming up does
    place = output.detach().clone()
    gradients = [torch.zeros_like(weight) for weight in trained]
    kept: list[Tensor] = []

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, view: Tensor, *_: Tensor) -> Tensor:
            image.copy_(view)
            with torch.set_grad_enabled(bool(trained)):
                kept[:] = [plain(image)]
            place.copy_(kept[0].detach())
            return place.detach()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:
            found = torch.autograd.grad(kept[0], trained, gradient)
            for into, value in zip(gradients, found, strict=True):
                into.copy_(value)
            left = iter(gradients)
            each = [next(left).detach() if weight.requires_grad else None for weight in weights]
            return None, *each

    return lambda view: Replay.apply(view, *weights)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let passes be captured here."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", replayed_in_place)
    monkeypatch.setattr(fast_encoders, "reason_against_capturing", lambda *_: "")


def trained(
    recipe: Recipe, *, captured: bool, device: str = "cpu", exact: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Return what some steps leave, and what was told."""
    contrast = build_contrast(recipe, images=2 * IMAGES, seed=0, device=torch.device(device))
    contrast = contrast.train().double() if exact else contrast.train()
    told: list[str] = []
    fast = FastEncoders(contrast, lambda text, _: told.append(text), captured=captured)
    optimizer = build_optimizer(recipe.optimizer, contrast)
    training = TrainingStep(contrast, optimizer, loss_scale=1.0, fast=fast)
    figures, side = [], recipe.views.image_size
    for step in range(STEPS):
        draw = torch.Generator().manual_seed(step)
        views = [torch.randn(IMAGES, 3, side, side, generator=draw).to(device) for _ in "ab"]
        if exact:
            views = [view.double() for view in views]
        ids = torch.arange(IMAGES, device=device) + IMAGES * (step % 2)
        figures.append(training.take(views[0], views[1], ids, step, 0.9))
    state = {**contrast.state_dict(), "figures": torch.stack(figures)}
    state["drawn next"] = torch.rand(4, device=device)
    return state, told


def assert_equal(one: dict[str, Any], other: dict[str, Any], within: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=within, atol=within, msg=name)


@pytest.mark.parametrize(
    ("method", "names"),
    [("queue", ["encoder", "key encoder"]), ("memory bank", ["encoder"])],
)
def test_steps_of_replayed_passes_are_the_steps(
    method: str, names: list[str], tiny_settings: list[str], stand_in: None
) -> None:
    recipe = recipe_of(method, tiny_settings)
    plain, _ = trained(recipe, captured=False)
    state, told = trained(recipe, captured=True)
    assert [line.partition(f" {ON} ")[0] for line in told] == names
    assert_equal(plain, state, 0.0)


def test_views_of_another_size_run_as_they_are(tiny_settings: list[str], stand_in: None) -> None:
    contrast = build_contrast(recipe_of("queue", tiny_settings), images=IMAGES, seed=0).eval()
    told: list[str] = []
    fast = FastEncoders(contrast, lambda text, _: told.append(text), captured=True)
    for side, images in ((16, 4), (24, 4), (16, 2), (16, 4)):
        views = torch.randn(images, 3, side, side)
        wanted = contrast.encoder(views)
        with fast.in_use():
            found = contrast.encoder(views)
        assert torch.equal(found, wanted)
    assert len(told) == 1


def test_a_result_is_kept_from_the_next_pass(tiny_settings: list[str], stand_in: None) -> None:
    contrast = build_contrast(recipe_of("queue", tiny_settings), images=IMAGES, seed=0).eval()
    fast = FastEncoders(contrast, lambda *_: None, captured=True)
    with fast.in_use(), torch.no_grad():
        first = contrast.key_encoder(torch.randn(4, 3, 16, 16))
        kept = first.clone()
        contrast.key_encoder(torch.randn(4, 3, 16, 16))
    assert torch.equal(first, kept)


def stale_images(network: nn.Module, plain: Any, view: Tensor) -> Any:
    return lambda _: plain(view)


def stale_weights(network: nn.Module, plain: Any, view: Tensor) -> Any:
    with torch.no_grad():
        kept = [weight.clone() for weight in network.parameters()]

    def run(given: Tensor) -> Tensor:
        weights = list(network.parameters())
        now = [weight.detach().clone() for weight in weights]
        for weight, value in zip(weights, kept, strict=True):
            weight.data.copy_(value)
        output = plain(given)
        for weight, value in zip(weights, now, strict=True):
            weight.data.copy_(value)
        return output  # type: ignore[no-any-return]

    return run


def still_statistics(network: nn.Module, plain: Any, view: Tensor) -> Any:
    def run(given: Tensor) -> Tensor:
        kept = [value.clone() for value in network.buffers()]
        output = plain(given)
        for value, copy in zip(network.buffers(), kept, strict=True):
            value.copy_(copy)
        return output  # type: ignore[no-any-return]

    return run


def other_gradients(network: nn.Module, plain: Any, view: Tensor) -> Any:
    def run(given: Tensor) -> Tensor:
        output = plain(given)
        if output.requires_grad:
            output.register_hook(lambda gradient: 1.05 * gradient)
        return output  # type: ignore[no-any-return]

    return run


def failing(network: nn.Module, plain: Any, view: Tensor) -> Any:
    plain(view)
    torch.rand(3)
    for value in network.buffers():
        value.add_(1)
    raise RuntimeError("operation not permitted\n when stream is capturing")


@pytest.mark.parametrize(
    ("capture", "said"),
    [
        (stale_images, "once images and weights are others"),
        (stale_weights, "once images and weights are others"),
        (still_statistics, "its results are off by "),
        (other_gradients, "its results are off by 5 %"),
        (failing, "RuntimeError: operation not permitted when stream is capturing"),
    ],
)
def test_what_is_not_the_pass_is_not_used(
    capture: Any,
    said: str,
    tiny_settings: list[str],
    stand_in: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run is the plain one, bit by bit: no weight or statistic moved and nothing was drawn."""
    recipe = recipe_of("memory bank", tiny_settings)
    plain, _ = trained(recipe, captured=False)
    monkeypatch.setattr(cuda_graphs, "capture", capture)
    state, told = trained(recipe, captured=True)
    (line,) = told
    assert OFF in line
    assert said in line
    assert "\n" not in line
    assert_equal(plain, state, 0.0)


def test_a_network_that_draws_is_not_captured(tiny_settings: list[str], stand_in: None) -> None:
    contrast = build_contrast(recipe_of("queue", tiny_settings), images=IMAGES, seed=0).train()
    contrast.encoder.head.append(nn.Dropout(0.5))  # type: ignore[operator, union-attr]
    told: list[str] = []
    fast = FastEncoders(contrast, lambda text, _: told.append(text), captured=True)
    with fast.in_use():
        contrast.encoder(torch.randn(4, 3, 16, 16))
    (line,) = told
    assert line.endswith(f"{OFF}the network draws random numbers")


def test_a_lost_gpu_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(2, 2)

    def lost(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("CUDA error: unspecified\nlaunch failure")

    monkeypatch.setattr(torch, "rand", lost)
    with pytest.raises(UsageError, match=r"^the GPU is of no use .*; leave out --cuda-graphs"):
        attempt(failing, network, network.forward, torch.ones(3, 2), 0.01)


def contrast_for(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, device: str = "cuda") -> Any:
    contrast = build_contrast(recipe, images=IMAGES, seed=0)
    weight = type("Weight", (), {"device": torch.device(device)})
    monkeypatch.setattr(contrast, "parameters", lambda: iter([weight]))
    return contrast


@pytest.mark.parametrize(
    ("settings", "parts", "device", "said"),
    [
        ([], 1, "cuda", ""),
        ([], 1, "cpu", "the device is cpu, no CUDA GPU"),
        ([], 1, "mps", "the device is mps, no CUDA GPU"),
        ([], 2, "cuda", "a batch is taken in parts"),
        (["symmetric=true"], 1, "cuda", "both views are queries"),
        (["mechanism=end_to_end"], 1, "cuda", "queries and keys are of one encoder"),
    ],
)
def test_what_a_graph_cannot_hold_is_named(
    settings: list[str],
    parts: int,
    device: str,
    said: str,
    tiny_settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "mechanism=end_to_end" in settings:
        tiny_settings = [word for word in tiny_settings if "dictionary.size" not in word]
    recipe = set_fields(RECIPES["moco-v2"], [*tiny_settings, *settings])
    contrast = contrast_for(recipe, monkeypatch, device)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", replayed_in_place)
    reason = reason_against_capturing(contrast, parts)
    assert reason.startswith(said)
    assert bool(reason) == bool(said)


def test_so_are_several_processes_and_a_torch_that_cannot(
    tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contrast = contrast_for(recipe_of("queue", tiny_settings), monkeypatch)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda *_: None)
    assert "captures no pass beside loading threads" in reason_against_capturing(contrast, 1)
    monkeypatch.setattr(cuda_graphs, "world_size", lambda: 2)
    assert reason_against_capturing(contrast, 1).startswith("several processes")


def test_a_run_without_a_gpu_says_so_and_goes_on(
    photos: Path, tiny_settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for one in tiny_settings for word in ("--set", one)]
    command = ["pretrain", str(photos), "--recipe", "moco-v2", "--device", "cpu", "--workers", "0"]
    command += [*settings, "--epochs", "1", "--run", str(tmp_path / "run"), "--cuda-graphs"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "no CUDA graphs, the run goes on without: the device is cpu, no CUDA GPU" in said
    assert main([*command, "--compile"]) == 2
    assert "leave out --compile or --cuda-graphs" in capsys.readouterr().err


def test_a_plan_holds_one_of_them(photos: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compiled networks are not captured"):
        make_plan(
            photos,
            recipe=recipe_of("queue", tiny_settings),
            run=tmp_path,
            device="cpu",
            compile_networks=True,
            cuda_graphs=True,
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", list(METHODS))
def test_on_a_gpu_steps_of_replayed_passes_are_the_steps(
    method: str, tiny_settings: list[str]
) -> None:
    recipe = recipe_of(method, tiny_settings)
    plain, _ = trained(recipe, captured=False, device="cuda", exact=False)
    state, told = trained(recipe, captured=True, device="cuda", exact=False)
    assert all(ON in line for line in told), told
    assert_equal(plain, state, 1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_a_run_captures_beside_loading_processes(
    photos: Path, tiny_settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for one in tiny_settings for word in ("--set", one)]
    command = ["pretrain", str(photos), "--recipe", "moco-v2", "--device", "cuda", *settings]
    command += ["--workers", "2", "--precision", "float32", "--epochs", "2"]
    for run, more in (("plain", []), ("captured", ["--cuda-graphs"])):
        assert main([*command, "--run", str(tmp_path / run), *more]) == 0
        assert capsys.readouterr().out.count(ON) == 2 * len(more)
    rows = [read_lines(tmp_path / run / "metrics.jsonl") for run in ("plain", "captured")]
    for one, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2)
