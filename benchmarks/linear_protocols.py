"""The papers' linear protocol beside the fast probe: do they agree, and at what cost?

    python benchmarks/linear_protocols.py CIFAR10 DIR [--run RUN] [--train N] [--test N]
        [--seeds N ...] [--epochs N] [--rate-30]

CIFAR10 has train/ and test/ as class folders (examples/cifar10_folders.py). Pre-trains the small
recipe at 32 pixels on the first 1,000 images of each class into DIR/run, unless --run names a run.
Then probes it with the first N images of each class (1,000 to learn of, 200 to be asked about): by
the official protocol of its recipe, once for each seed, and by `moco.evaluate.linear`, whose weight
penalty is chosen on train images. Prints top-1 with 95 % intervals, whether they overlap, the
paired difference, the best epoch on the test images, CPU seconds of both (the fast probe's with its
features; what torch loads at its first steps is counted for neither) and their ratio; DIR keeps
them as JSON. --rate-30: by v1's protocol whatever the recipe.
One thread: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.evaluation.compare import Interval, compare_votes
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.features import extract_features
from moco.evaluation.labelled import LabelledImages
from moco.evaluation.labelled_part import LabelledPart, part_of
from moco.evaluation.linear_fast import linear
from moco.evaluation.linear_official import cpu_seconds, official_linear
from moco.evaluation.linear_protocols import LINEAR_V1_V2, linear_protocol, with_changes
from moco.loading import load_with_recipe
from moco.recipe import Recipe
from moco.specs import ViewsSpec

CPU = torch.device("cpu")
CACHE_BYTES = 1 << 30
PRETRAIN_PER_CLASS, PRETRAIN_EPOCHS = 1000, 40
SETTINGS = (
    "views.image_size=32",
    "views.evaluation_resize=32",
    "views.evaluation_size=32",
)
"""The rest is the small recipe's for a CPU."""


def main() -> None:
    """Pre-train if need be, probe both ways, print and keep the figures."""
    asked = parsed()
    asked.folder.mkdir(parents=True, exist_ok=True)
    run = asked.run or pretrained(asked.cifar10, asked.folder)
    network, recipe = load_with_recipe(run)
    train = first_of_each(
        LabelledImages(asked.cifar10 / "train", cache_bytes=CACHE_BYTES), asked.train
    )
    test = first_of_each(LabelledImages(asked.cifar10 / "test"), asked.test)
    labels = test.labels
    warm_up(network, train, recipe)
    votes, cost = fast(network, train, test, recipe.views)
    protocol = LINEAR_V1_V2 if asked.rate_30 else linear_protocol(recipe)
    protocol = replace(protocol, sides=linear_protocol(recipe).sides)
    protocol = with_changes(protocol, epochs=asked.epochs)
    print(f"{protocol.name}, {', '.join(protocol.departures) or 'as published'}")
    print(f"{len(train):,} images to learn of, {len(labels):,} test images; {asked.folder}")
    figures: list[dict[str, object]] = []
    for seed in asked.seeds:
        found = official_linear(network, train, test, protocol, views=recipe.views, seed=seed)
        both = {"official": found.votes, "fast": votes}
        scores, leads = compare_votes("top1", both, labels, "official")
        figures.append(
            {
                "seed": seed,
                "protocol": asdict(protocol),
                "official": asdict(scores["official"]),
                "fast": asdict(scores["fast"]),
                "official_ahead_by": asdict(leads["fast"]),
                "overlap": overlap(scores["official"], scores["fast"]),
                "best_epoch_on_test": [found.best_epoch, found.best_top1],
                "official_cpu_seconds": found.cpu_seconds,
                "fast_cpu_seconds": cost,
                "ratio": found.cpu_seconds / cost,
                "history": [asdict(epoch) for epoch in found.history],
            }
        )
        print(line(figures[-1], scores, leads["fast"]), flush=True)
        rate = f"rate-{protocol.first_rate:g}"
        name = f"linear-{len(train)}-{len(labels)}-{rate}-{protocol.epochs}.json"
        (asked.folder / name).write_text(json.dumps(figures, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--train", type=int, default=1000, help="of each class")
    parser.add_argument("--test", type=int, default=200, help="of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate-30", action="store_true")
    return parser.parse_args()


def pretrained(cifar10: Path, folder: Path) -> Path:
    """Return a run of the small recipe on part of the train images; made once."""
    run, names = folder / "run", folder / "pretrain.txt"
    images = sorted((cifar10 / "train").resolve().glob("*/*"))
    counts: dict[str, int] = {}
    chosen = []
    for path in images:
        counts[path.parent.name] = counts.get(path.parent.name, 0) + 1
        if counts[path.parent.name] <= PRETRAIN_PER_CLASS:
            chosen.append(f"{path}\n")
    names.write_text("".join(chosen))
    words = [sys.executable, "-m", "moco", "pretrain", str(names), "--run", str(run)]
    words += ["--epochs", str(PRETRAIN_EPOCHS), "--device", "cpu", "--precision", "float32"]
    words += ["--workers", "0", "--seed", "0"]
    for setting in SETTINGS:
        words += ["--set", setting]
    print(" ".join(words), flush=True)
    subprocess.run(words, check=True)
    return run


def first_of_each(images: LabelledImages, count: int) -> LabelledPart:
    """Return the first so many images of each class."""
    rows = [
        (images.labels == label).nonzero().flatten()[:count] for label in range(len(images.classes))
    ]
    return part_of(images, torch.cat(rows))


def warm_up(network: nn.Module, train: LabelledPart, recipe: Recipe) -> None:
    """Do both once with few images: what torch loads at its first steps is neither's cost."""
    few = part_of(train, torch.arange(0, len(train), max(1, len(train) // 40)))
    protocol = with_changes(linear_protocol(recipe), epochs=1)
    official_linear(network, few, few, protocol, views=recipe.views)
    fast(network, few, few, recipe.views)


def fast(
    network: nn.Module, train: LabelledPart, test: LabelledPart, views: ViewsSpec
) -> tuple[Tensor, float]:
    """Return the fast probe's votes, and its CPU seconds, those of taking the features included."""
    began = cpu_seconds()
    known, asked = (
        FeatureSet(
            extract_features(network, part, views, device=CPU).rows,
            part.labels,
            tuple(part.classes),
        )
        for part in (train, test)
    )
    votes = linear(known, asked, measure="top1").votes
    return votes, cpu_seconds() - began


def overlap(one: Interval, other: Interval) -> bool:
    """Say whether the intervals have a value in common."""
    return one.low <= other.high and other.low <= one.high


def line(figures: dict[str, object], scores: dict[str, Interval], lead: Interval) -> str:
    """Return a table row: seed, top-1 of both, the difference, CPU seconds."""
    shown = [
        f"{100 * of.value:.2f} ({100 * of.low:.2f} to {100 * of.high:.2f})"
        for of in (scores["official"], scores["fast"], lead)
    ]
    best_epoch, best = figures["best_epoch_on_test"]  # type: ignore[misc]
    return (
        f"| {figures['seed']} | {shown[0]} | {shown[1]} | {shown[2]} | "
        f"{'yes' if figures['overlap'] else 'no'} | {100 * best:.2f} (epoch {best_epoch}) | "
        f"{figures['official_cpu_seconds']:.1f} | {figures['fast_cpu_seconds']:.1f} | "
        f"{figures['ratio']:.0f} |"
    )


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s in all")
