"""`--to onnx` and `--to torch-export`: the backbone as a graph, which needs no Python class."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import Dim

from moco.export.check import Check, compare_features
from moco.export.formats import Format
from moco.export.resnet_shape import resnet_shape
from moco.export.source import ExportSource

ONNX_FILE, GRAPH_FILE = "backbone.onnx", "backbone.pt2"
INPUT, OUTPUT = "images", "features"
MOST_BYTES_IN_ONE = 2_000_000_000
"""Protocol buffers hold no more: larger networks get a second file of weights."""
SMALLEST_SIDE, LARGEST_SIDE = 64, 4096
"""Of images whose size may vary, in pixels; below, the last maps are single pixels."""


def _same_size_only(source: ExportSource) -> str:
    """Say why height and width cannot vary, "" where they may."""
    if source.dynamic_size and resnet_shape(source.backbone) is None:
        return f"only plain ResNets take images of any size, not '{source.encoder.backbone}'"
    return ""


def onnx_refusal(source: ExportSource) -> str:
    """Say why it cannot be written, "" where it can."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed (pip install 'moco-torch[onnx]')"
    return _same_size_only(source)


def _shapes(source: ExportSource) -> dict[int, Any]:
    """Return which axes of the images may have any length."""
    axes: dict[int, Any] = {0: Dim("batch", min=1)}
    if source.dynamic_size:
        axes[2], axes[3] = (
            Dim(name, min=SMALLEST_SIDE, max=LARGEST_SIDE) for name in ("height", "width")
        )
    return axes


def _batches(source: ExportSource) -> list[Tensor]:
    """Return images of several counts and, where they may vary, sizes."""
    if not source.dynamic_size:
        return [source.images(1), source.images(3)]
    side = max(SMALLEST_SIDE, source.views.evaluation_size)
    return [_images(source, 1, side, side), _images(source, 3, side + 33, side + 64)]


def _example(source: ExportSource) -> Tensor:
    """Return images that the graph is traced with: of no size that stands for another."""
    return _images(source, 2, 96, 128) if source.dynamic_size else source.images(2)


def _images(source: ExportSource, count: int, height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, source.views.channels, height, width, generator=draw)


def write_onnx(source: ExportSource, folder: Path) -> None:
    """Write the graph, in one file where that can hold it."""
    size = sum(value.nbytes for value in source.state.values())
    with _quiet():
        program = torch.onnx.export(
            source.backbone,
            (_example(source),),
            dynamo=True,
            dynamic_shapes=[_shapes(source)],
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
        cast(Any, program).save(folder / ONNX_FILE, external_data=size > MOST_BYTES_IN_ONE)


def check_onnx(source: ExportSource, folder: Path) -> Check:
    """Run the file by ONNX Runtime and compare features."""
    import onnxruntime

    settings: Any = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(
        str(folder / ONNX_FILE), settings, providers=["CPUExecutionProvider"]
    )

    def features(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    by = f"ONNX Runtime {onnxruntime.__version__}"
    return compare_features(source, features, by, images=_batches(source))


def onnx_snippet(_source: ExportSource) -> str:
    """Return Python that runs the file."""
    lines = [
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{ONNX_FILE}")',
        "",
        "",
        "def model(images):  # a float32 array of NumPy",
        f'    return session.run(["{OUTPUT}"], {{"{INPUT}": images}})[0]',
    ]
    return "\n".join(lines)


def write_graph(source: ExportSource, folder: Path) -> None:
    """Write what `torch.export` makes of it."""
    with _quiet():
        program = torch.export.export(
            source.backbone, (_example(source),), dynamic_shapes=(_shapes(source),)
        )
        torch.export.save(program, folder / GRAPH_FILE)


def check_graph(source: ExportSource, folder: Path) -> Check:
    """Run the file by `torch.export` and compare features."""
    with _quiet():
        network: Any = torch.export.load(folder / GRAPH_FILE).module()
    by = f"torch.export of torch {torch.__version__.partition('+')[0]}"
    return compare_features(source, network, by, images=_batches(source))


def graph_snippet(_source: ExportSource) -> str:
    """Return Python that loads the file."""
    return f'import torch\n\nmodel = torch.export.load("{GRAPH_FILE}").module()'


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporters say of themselves from the terminal; what they raise is told."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


ONNX = Format("onnx", "onnx", onnx_refusal, write_onnx, check_onnx, onnx_snippet)
TORCH_EXPORT = Format(
    "torch-export", "pytorch", _same_size_only, write_graph, check_graph, graph_snippet
)
