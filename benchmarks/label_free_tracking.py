"""How well measures without labels track linear accuracy over checkpoints of real runs.

    python benchmarks/label_free_tracking.py CIFAR10 RUN [train|score]

Pre-trains on every fifth image of CIFAR10/train (examples/cifar10_folders.py makes the folder) and
on the solar cells of elpv-dataset, and keeps checkpoints of early and late steps; beside them a run
that fails on purpose, and short runs with other settings. Then measures each checkpoint without
labels, fits a linear probe with them, and writes RUN/label-free-tracking.json, .md and .png. One
thread, about 30 minutes of its time; what is there already is not made again.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from label_free_report import write_report  # beside this file
from torch import Tensor

from moco.build import build_optimizer
from moco.checkpoint import Checkpoint, save_checkpoint
from moco.data.images import Images, SubsetImages, spread
from moco.demo_data import ELPV_CPU_EPOCHS, ELPV_SETTINGS, solar_cells
from moco.errors import InterruptedRunError
from moco.evaluation.compare import measured
from moco.evaluation.features import extract_features
from moco.evaluation.label_free import label_free
from moco.evaluation.labelled import LabelledImages
from moco.evaluation.linear import linear_class_scores
from moco.evaluation.view_features import extract_view_features
from moco.loading import kept_checkpoints, load_with_recipe
from moco.plan import Plan, make_plan
from moco.pretraining import build_plan, train
from moco.run_records import read_lines
from moco.specs import ViewsSpec

CIFAR10_SETTINGS = (
    "views.image_size=32",
    "views.evaluation_resize=32",
    "views.evaluation_size=32",
)
CACHE_BYTES = 1 << 29
MOST_IMAGES = 2000
PROBE_ROWS = 5000
"""Labelled images that the probe learns of, and as many that it is asked about."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """A pre-training run and the steps whose checkpoints are kept."""

    name: str
    data: str
    epochs: int
    steps: tuple[int, ...]
    settings: tuple[str, ...] = field(default=())


SHORT = (700,)
RUNS = [
    Run(
        "cifar10",
        "cifar10",
        24,
        (0, 20, 50, 100, 200, 400, 700, 1100, 1600, 2200, 2900, 3744),
    ),
    Run(
        "keys too fast",
        "cifar10",
        8,
        (0, 20, 50, 100, 200, 300, 400, 500, 700, 900, 1100, 1248),
        ("key_momentum=0.9",),
    ),
    Run("solar", "solar", ELPV_CPU_EPOCHS, (0, 10, 27, 54, 108, 189, 297, 405, 540, 702, 837, 972)),
    *(
        Run(f"temperature {value}", "cifar10", 5, SHORT, (f"temperature={value}",))
        for value in ("0.1", "0.01", "0.5", "1.0")
    ),
    *(
        Run(f"key momentum {value}", "cifar10", 5, SHORT, (f"key_momentum={value}",))
        for value in ("0.0", "0.999")
    ),
    Run("crops only", "cifar10", 5, SHORT, ("views.order=[crop, horizontal_flip]",)),
    Run("rate 1e-4", "cifar10", 5, SHORT, ("optimizer.learning_rate=1e-4",)),
]


@dataclass(frozen=True)
class Data:
    """Images to pre-train on, and labelled ones for the probe."""

    unlabelled: Images
    train: Images
    train_labels: Tensor
    test: Images
    test_labels: Tensor
    views: ViewsSpec | None
    """Of the measures, the same for all runs; None: the run's own."""


def cifar10_data(folder: Path) -> Data:
    """Return every fifth training image, half of those for the probe, and every second test one."""
    train, test = (
        LabelledImages(folder / part, cache_bytes=CACHE_BYTES) for part in ("train", "test")
    )
    known, asked = spread(len(train), PROBE_ROWS), spread(len(test), PROBE_ROWS)
    unlabelled = SubsetImages(train, range(0, len(train), 5))
    plan = make_plan(unlabelled, settings=CIFAR10_SETTINGS, run="unused", device="cpu", workers=0)
    return Data(
        unlabelled,
        SubsetImages(train, known),
        train.labels[known],
        SubsetImages(test, asked),
        test.labels[asked],
        plan.recipe.views,
    )


def solar_data() -> Data:
    """Return the demo's solar cells."""
    data = solar_cells()
    assert data.test is not None  # noqa: S101  the cells have labels
    return Data(data.train, data.train, data.train_labels, data.test, data.test_labels, None)


def make_checkpoints(run: Run, images: Images, folder: Path) -> None:
    """Pre-train in stages and copy each stage's checkpoint to FOLDER/kept/checkpoints."""
    kept = folder / "kept" / "checkpoints"
    plan = make_plan(
        images,
        settings=[*(ELPV_SETTINGS if run.data == "solar" else CIFAR10_SETTINGS), *run.settings],
        epochs=run.epochs,
        run=folder / "run",
        device="cpu",
        workers=0,
    )
    for step in run.steps:
        name = f"step_{step:08d}"
        if (kept / name).exists():
            continue
        began = time.monotonic()
        made = untrained(plan) if step == 0 else trained_to(step, plan)
        shutil.copytree(made / "checkpoints" / name, kept / f".{name}")
        (kept / f".{name}").rename(kept / name)
        print(f"{run.name}: step {step}, {time.monotonic() - began:.0f} s", flush=True)


def untrained(plan: Plan) -> Path:
    """Return a run directory that holds the run's weights before its first step."""
    contrast = build_plan(plan)
    state = {"optimizer": build_optimizer(plan.recipe.optimizer, contrast).state_dict()}
    start = plan.run.parent / "start"
    start.mkdir(parents=True, exist_ok=True)
    save_checkpoint(start, Checkpoint(0, contrast.state_dict(), state, plan.identity()))
    return start


def trained_to(step: int, plan: Plan) -> Path:
    """Train on, up to this step of the whole run, and return the run directory."""
    taken = int((plan.run / "latest").read_text()[5:]) if (plan.run / "latest").exists() else 0

    def stop() -> int | None:
        nonlocal taken
        taken += 1
        return 75 if taken >= step else None

    with suppress(InterruptedRunError):
        train(plan, stop=stop)
    return plan.run


def score(path: Path, data: Data, log: Path) -> dict[str, Any]:
    """Return one checkpoint's linear accuracy, its measures on both layers and its training log."""
    step = int(path.name[5:])
    encoder, recipe = load_with_recipe(path, "encoder")
    views = data.views or recipe.views
    known, asked = (
        extract_features(encoder.backbone, images, views, device=CPU).rows  # type: ignore[arg-type]
        for images in (data.train, data.test)
    )
    classes = int(data.train_labels.max()) + 1
    votes = linear_class_scores(known, data.train_labels, asked, classes=classes)
    scores: dict[str, Any] = {
        "step": step,
        "linear": measured("roc_auc" if classes == 2 else "top1", votes, data.test_labels),
    }
    image_ids = spread(len(data.unlabelled), MOST_IMAGES)
    backbone = extract_view_features(
        encoder.backbone,  # type: ignore[arg-type]
        data.unlabelled,
        image_ids,
        views,
        device=CPU,
    )
    rows = backbone.plain, backbone.view_a, backbone.view_b
    scores["backbone"] = asdict(label_free(rows[0], rows[1:]))
    with torch.no_grad():
        heads = [encoder.head(part) for part in rows]  # type: ignore[operator]
    scores["head"] = asdict(label_free(heads[0], (heads[1], heads[2])))
    before = [row for row in read_lines(log) if step - 50 <= row["step"] < step]
    for name in ("loss", "pretext_top1"):
        scores[name] = mean(row[name] for row in before) if before else None
    return scores


def main(cifar10: Path, root: Path, part: str) -> None:
    """Make the checkpoints, score them, report."""
    torch.set_num_threads(1)
    data = {"cifar10": cifar10_data(cifar10), "solar": solar_data()}
    results: dict[str, list[dict[str, Any]]] = {}
    for run in RUNS:
        folder = root / run.name.replace(" ", "-")
        if part != "score":
            make_checkpoints(run, data[run.data].unlabelled, folder)
        if part == "train":
            continue
        results[run.name] = []
        for path in kept_checkpoints(folder / "kept"):
            file = folder / f"{path.name}.json"
            if not file.exists():
                found = score(path, data[run.data], folder / "run" / "metrics.jsonl")
                file.write_text(json.dumps(found, indent=1))
                print(f"{run.name}: {path.name} linear {100 * found['linear']:.1f}", flush=True)
            results[run.name].append(json.loads(file.read_text()))
    if results:
        (root / "label-free-tracking.json").write_text(json.dumps(results, indent=1))
        write_report(root)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["train"], ["score"]):
        sys.exit(f"usage: {__doc__.splitlines()[2].strip()}")
    main(Path(sys.argv[1]), Path(sys.argv[2]), "".join(sys.argv[3:]))
