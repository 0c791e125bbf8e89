"""Compiled encoders: the same steps, or the plain ones and the reason why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import moco
from moco import compiling, encoders
from moco.batch_norm import GroupedBatchNorm
from moco.build import build_contrast, build_optimizer
from moco.cli.main import main
from moco.distributed import rank
from moco.encoders import Encoder
from moco.fast_encoders import FastEncoders
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES
from moco.run_records import read_lines
from moco.training_step import TrainingStep

IMAGES, STEPS, CHANNELS, DIM = 12, 3, 8, 6
METHODS = {
    "queue": ["moco-v2"],
    "in batch": ["moco-v3-resnet50", "optimizer.algorithm=lars"],
    "end to end": ["moco-v2", "mechanism=end_to_end"],
    "memory bank": ["moco-v2", "mechanism=memory_bank"],
}


class SmallBackbone(nn.Sequential):
    """A block of a network, since tracing a whole one takes seconds."""

    num_features = CHANNELS

    def __init__(self, *more: nn.Module) -> None:
        layers = [nn.Conv2d(3, CHANNELS, 3, stride=2), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
        super().__init__(*layers, *more, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each test compile anew, and leave nothing to the next."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")  # traces all, compiles no code
    yield
    torch._dynamo.reset()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let recipes build a backbone of one block."""
    monkeypatch.setattr(encoders, "build_backbone", lambda *_: SmallBackbone())


def recipe_of(method: str, tiny: list[str], *more: str) -> Recipe:
    name, *settings = METHODS[method]
    sizes = [f"batch_size={IMAGES}", f"encoder.dim={DIM}", "encoder.head_width=10"]
    if RECIPES[name].mechanism != "queue":
        tiny = [setting for setting in tiny if "dictionary.size" not in setting]
    return set_fields(RECIPES[name], [*tiny, *sizes, *settings, *more])


def views_of(recipe: Recipe, images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shape = images, 3, recipe.views.image_size, recipe.views.image_size
    first, second = (torch.randn(shape, generator=draw) for _ in "ab")
    return first, second


def trained(
    recipe: Recipe, *, compiled: bool, parts: int = 1, exact: bool = True, images: int = IMAGES
) -> tuple[dict[str, Any], list[str]]:
    """Return what some steps leave, by default in float64, and what was told."""
    contrast = build_contrast(recipe, images=2 * IMAGES, seed=0, accumulate=parts).train()
    if exact:
        contrast.double()
    told: list[str] = []
    fast = FastEncoders(contrast, lambda text, _: told.append(text), compiled=compiled)
    optimizer = build_optimizer(recipe.optimizer, contrast)
    training = TrainingStep(
        contrast, optimizer, loss_scale=recipe.loss_scale, accumulate=parts, fast=fast
    )
    figures = []
    for step in range(STEPS):
        views = [view.double() if exact else view for view in views_of(recipe, images, step)]
        ids = torch.arange(images) + images * ((step + rank()) % 2)
        figures.append(training.take(views[0], views[1], ids, step, 0.9))
    state = {**contrast.state_dict(), "figures": torch.stack(figures)}
    state["drawn next"] = torch.rand(4)
    return state, told


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], within: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=within, atol=within, msg=name)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("queue", marks=pytest.mark.slow),
        pytest.param("in batch", marks=pytest.mark.slow),
        "end to end",
        "memory bank",
    ],
)
def test_compiled_steps_are_the_steps(method: str, tiny_settings: list[str], small: None) -> None:
    recipe = recipe_of(method, tiny_settings)
    plain, _ = trained(recipe, compiled=False)
    state, told = trained(recipe, compiled=True)
    assert_equal(plain, state, 1e-6)
    names = ["encoder", "key encoder"] if method in ("queue", "in batch") else ["encoder"]
    assert [line.partition(" compiled for 16 pixels in ")[0] for line in told] == names


def test_so_they_are_in_parts(tiny_settings: list[str], small: None) -> None:
    recipe = recipe_of("end to end", tiny_settings)
    plain, _ = trained(recipe, compiled=False, parts=2)
    state, told = trained(recipe, compiled=True, parts=2)
    assert_equal(plain, state, 1e-6)
    assert len(told) == 2  # with gradients and without


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 4)])
def test_groups_in_plain_words_are_the_groups(shape: tuple[int, ...]) -> None:
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    batch = (torch.randn(shape, dtype=torch.float64) * 3 + 1).requires_grad_()
    found = []
    for words in (GroupedBatchNorm.normalize, GroupedBatchNorm._normalize_in_plain_words):
        layer = GroupedBatchNorm(kind(5).double(), groups=3)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.5, 2, 5))
            layer.bias.copy_(torch.linspace(-1, 1, 5))
        output = words(layer, batch)
        direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        gradients = torch.autograd.grad(output, [batch, layer.weight, layer.bias], direction)
        found.append([output, *gradients, *layer.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_only_steps_are_compiled(tiny_settings: list[str], small: None) -> None:
    recipe = recipe_of("queue", tiny_settings)
    contrast = build_contrast(recipe, images=IMAGES, seed=0).train()
    names = list(contrast.state_dict())
    fast = FastEncoders(contrast, lambda *_: None, compiled=True)
    with fast.in_use():
        assert contrast.encoder.embed != Encoder.embed.__get__(contrast.encoder)
        assert list(contrast.state_dict()) == names
    assert contrast.encoder.embed == Encoder.embed.__get__(contrast.encoder)
    with pytest.raises(ZeroDivisionError), fast.in_use():
        raise ZeroDivisionError
    assert "embed" not in vars(contrast.encoder)


def no_compiler(module: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler\n  is here")


def wrong(module: Any, inputs: Any) -> Any:
    return lambda *given: [1.1 * value for value in module(*given)]


def broken_gradients(module: Any, inputs: Any) -> Any:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("no gradient")

    return lambda *given: [Broken.apply(value) for value in module(*given)]


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (no_compiler, "no compiler is here"),
        (wrong, "its results are off by "),
        (broken_gradients, "RuntimeError: no gradient"),
        ("inductor", "no-such-compiler"),
    ],
)
def test_without_a_compiler_a_run_goes_on(
    backend: Any, said: str, tiny_settings: list[str], small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the plain run, bit by bit: no statistic moved and nothing was drawn."""
    monkeypatch.setattr(compiling, "BACKEND", backend)
    recipe = recipe_of("queue", tiny_settings)
    plain, _ = trained(recipe, compiled=False, exact=False)
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        state, told = trained(recipe, compiled=True, exact=False)
    (line,) = told
    assert line.startswith("not compiled, the run goes on without: ")
    assert said in line
    assert "\n" not in line
    assert_equal(plain, state, 0.0)


class Undecided(nn.Module):
    """A layer that asks its values on the way, which one graph cannot hold."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows + 1 if float(rows.detach().sum()) > 0 else rows


def test_a_network_that_is_no_graph_is_not_compiled(tiny_settings: list[str], small: None) -> None:
    contrast = build_contrast(recipe_of("queue", tiny_settings), images=IMAGES, seed=0).train()
    encoder = contrast.encoder
    assert isinstance(encoder, Encoder)
    encoder.head = nn.Sequential(encoder.head, Undecided())
    told: list[str] = []
    fast = FastEncoders(contrast, lambda text, _: told.append(text), compiled=True)
    with fast.in_use():
        contrast.encoder(torch.randn(4, 3, 16, 16))
    (line,) = told
    assert line.startswith("not compiled, the run goes on without: ")


@pytest.mark.slow
def test_each_size_of_views_is_compiled_for(tiny_settings: list[str], small: None) -> None:
    contrast = build_contrast(recipe_of("queue", tiny_settings), images=IMAGES, seed=0).train()
    told: list[str] = []
    fast = FastEncoders(contrast, lambda text, _: told.append(text), compiled=True)
    with fast.in_use(), torch.no_grad():
        for side in (8, 16, 8, *range(16, 88, 8)):
            contrast.encoder(torch.randn(2, 3, side, side))
    assert [int(line.split()[3]) for line in told] == [8, *range(16, 88, 8)]


def told_in_a_group(recipe: Recipe) -> dict[str, Any]:
    encoders.build_backbone = lambda *_: SmallBackbone()  # type: ignore[assignment]
    if rank() == 1:
        compiling.BACKEND = no_compiler  # type: ignore[assignment]
    else:
        compiling.BACKEND = "eager"
    state, told = trained(recipe, compiled=True, images=IMAGES // 2)
    return {**state, "told": told}


@pytest.mark.slow
def test_processes_compile_all_or_none(
    tiny_settings: list[str], run_processes: Callable[..., list[Any]]
) -> None:
    recipe = recipe_of("queue", tiny_settings)
    for state in run_processes(2, told_in_a_group, recipe):
        (line,) = state["told"]
        assert line.startswith("not compiled in process 1, the run goes on without: ")


def test_batch_norm_over_processes_is_not_compiled(
    tiny_settings: list[str], run_processes: Callable[..., list[Any]]
) -> None:
    recipe = recipe_of("in batch", tiny_settings, "batch_norm_groups=1")
    for state in run_processes(2, told_in_a_group, recipe):
        (line,) = state["told"]
        assert "batch norm over all processes" in line


def test_a_compiled_run_is_the_run(
    photos: Path,
    tiny_settings: list[str],
    small: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [word for one in tiny_settings for word in ("--set", one)]
    options = ["--recipe", "moco-v2", "--device", "cpu", "--workers", "0", *settings]
    command = ["pretrain", str(photos), *options, "--epochs", "1"]
    for run, more in (("plain", []), ("compiled", ["--compile"])):
        assert main([*command, "--run", str(tmp_path / run), *more]) == 0
        said = capsys.readouterr().out
        assert said.count("encoder compiled for 16 pixels in") == 2 * len(more)
    rows = [read_lines(tmp_path / run / "metrics.jsonl") for run in ("plain", "compiled")]
    for one, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    plain, compiled = (moco.load(tmp_path / run).state_dict() for run in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    assert_equal(plain, compiled, 1e-3)
