"""Do old keys still fit? Dictionary consistency against the age of a key, for four key momenta.

    python benchmarks/consistency_figure.py CIFAR10 DIR --out docs/figures/consistency.png
        [--seeds N ...] [--train N] [--epochs N] [--momenta M ...]

MoCo v1's argument (sections 3.1 and 3.2): keys in a queue come from the key encoders of many steps;
they can be compared with one query only if those encoders hardly differ, so the key encoder has to
move slowly. CIFAR10 has train/ as class folders. Trains examples/cifar10_study.yaml with a queue of
4,096 on the first N images of each class (500) from each seed and with each key momentum, reads
`consistency` from each run's signals.jsonl, the second half of the run, and draws

- left: the cosine between a probe image's key as it was made so many steps ago and its key now;
- right: 1 - that cosine, over 1 - the mean cosine of embeddings of different images: at 1 a key has
  moved as far as images lie apart, so that it says more of its age than of its image.

Mean over seeds and their range. DIR keeps runs, what is there is not made again; beside FILE.png
goes FILE.json with every figure. Needs matplotlib. One thread: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from moco.evaluation.labelled import LabelledImages
from moco.evaluation.labelled_part import part_of
from moco.plan import make_plan
from moco.pretraining import train
from moco.run_records import read_lines

RECIPE = Path(__file__).parents[1] / "examples" / "cifar10_study.yaml"
EVERY = 25
"""Steps between readings: keys are kept for ages of 25, 50 and, 10 steps before a reading, more."""
SETTINGS = ("dictionary.size=4096", "dictionary.exclude_same_image=true")


def trained(momentum: float, seed: int, options: argparse.Namespace) -> Path:
    """Train one run, if it is not there, and return its directory."""
    images = LabelledImages(options.cifar10 / "train")
    rows = [
        (images.labels == label).nonzero().flatten()[: options.train]
        for label in range(len(images.classes))
    ]
    plan = make_plan(
        part_of(images, torch.cat(rows)).images,
        recipe=RECIPE,
        settings=(*SETTINGS, f"key_momentum={momentum}"),
        epochs=options.epochs,
        run=options.folder / f"{momentum:g}-{seed}",
        device="cpu",
        seed=seed,
        workers=0,
        signals_every=EVERY,
    )
    return train(plan)


def by_age(run: Path) -> dict[int, tuple[float, float]]:
    """Return of each age the mean cosine, and 1 - cosine over that between different images.

    Of readings in the second half of the run.
    """
    readings = [row for row in read_lines(run / "signals.jsonl") if row.get("consistency")]
    readings = readings[len(readings) // 2 :]
    cosines, moved = defaultdict(list), defaultdict(list)
    for row in readings:
        between_images = row["feature_deviation"] ** 2  # 1 - the mean cosine of embeddings
        for age, cosine in row["consistency"]:
            cosines[age].append(cosine)
            moved[age].append((1 - cosine) / max(between_images, 1e-9))
    return {age: (mean(cosines[age]), mean(moved[age])) for age in sorted(cosines)}


def collected(options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing and return the figures of all runs."""
    runs = []
    for seed in options.seeds:
        for momentum in options.momenta:
            run = trained(momentum, seed, options)
            last = read_lines(run / "signals.jsonl")[-1]
            losses = [row["loss"] for row in read_lines(run / "metrics.jsonl")[-20:]]
            runs.append(
                {
                    "key_momentum": momentum,
                    "seed": seed,
                    "ages": [[age, *found] for age, found in by_age(run).items()],
                    "last_loss": mean(losses),
                    "key_drift": last["key_drift"],
                    "feature_deviation": last["feature_deviation"],
                }
            )
            print(json.dumps(runs[-1]), flush=True)
    return {
        "recipe": RECIPE.name,
        "settings": list(SETTINGS),
        "images_per_class": options.train,
        "epochs": options.epochs,
        "runs": runs,
    }


def draw(figures: dict[str, Any], file: Path) -> None:
    """Draw both panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    momenta = sorted({run["key_momentum"] for run in figures["runs"]})
    for momentum, marker in zip(momenta, "osD^v<>*", strict=False):
        of_age: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for run in figures["runs"]:
            if run["key_momentum"] == momentum:
                for age, cosine, moved in run["ages"]:
                    of_age[age].append((cosine, moved))
        ages = sorted(of_age)
        for place, panel in enumerate(panels):
            values = [[seed[place] for seed in of_age[age]] for age in ages]
            (line,) = panel.plot(
                ages, [mean(row) for row in values], marker=marker, label=f"m = {momentum:g}"
            )
            panel.fill_between(
                ages,
                [min(row) for row in values],
                [max(row) for row in values],
                color=line.get_color(),
                alpha=0.2,
                linewidth=0,
            )
    panels[0].set_ylabel("cosine of a key then and now")
    panels[1].set_ylabel("how far it moved, over the distance of images")
    panels[1].set_yscale("log")
    panels[1].axhline(1, color="grey", linewidth=0.8, linestyle="--")
    for panel in panels:
        panel.set_xlabel("age of the key, steps")
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    panels[0].legend(title="key momentum")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Train, write FILE.json, draw FILE.png."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("consistency.png"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--momenta", type=float, nargs="+", default=[0.0, 0.9, 0.99, 0.999])
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    figures = collected(options)
    options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    draw(figures, options.out)


if __name__ == "__main__":
    main()
