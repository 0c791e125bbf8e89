"""What tests share: one thread each, and gloo processes for what several processes do."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_group import PROCESS_SECONDS, work_in_group
from PIL import Image

torch.set_num_threads(1)
if not torch.cuda.is_available():  # Triton looks at it when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def run_processes(tmp_path: Path) -> Callable[..., list[Any]]:
    """Return run(count, work, *args): what `work(*args)` returns in each of `count` processes.

    `work` is a function of a test module; it returns tensors, or lists or dicts of them.
    """

    def run(count: int, work: Callable[..., Any], *args: Any) -> list[Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["moco.pretraining"])  # so that torch is imported once
        processes = [
            context.Process(target=work_in_group, args=(rank, count, tmp_path, work, args))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(PROCESS_SECONDS)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        failures = [path.read_text() for path in sorted(tmp_path.glob("failure-*"))]
        assert not failures, "\n".join(failures)
        assert [process.exitcode for process in processes] == [0] * count
        return [torch.load(tmp_path / f"result-{rank}") for rank in range(count)]

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 64 made images of 20 to 40 pixels, colour and grey, in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for number in range(64):
        height, width = draw.integers(20, 41, 2)
        corners = draw.integers(0, 256, (2, 2) if number % 4 == 3 else (2, 2, 3), dtype=np.uint8)
        place = folder / ("even" if number % 2 == 0 else "odd")
        place.mkdir(exist_ok=True)
        image = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
        image.save(place / f"{number:02}.png")
    return folder


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train/ and test/, each of two classes that a mean colour tells apart."""
    folder = tmp_path_factory.mktemp("classes")
    draw = np.random.default_rng(1)
    for part, count in (("train", 12), ("test", 8)):
        for name, colour in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(draw.normal(colour, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_settings() -> list[str]:
    """Return "field=value" settings with which any recipe takes milliseconds a step."""
    return [
        "encoder.backbone=resnet18",
        "encoder.width=0.125",
        "encoder.stage_blocks=[1, 1, 1, 1]",
        "encoder.dim=16",
        "views.image_size=16",
        "views.evaluation_resize=16",
        "views.evaluation_size=16",
        "batch_size=16",
        "batch_norm_groups=2",
        "dictionary.size=32",
    ]
