"""Do the fast paths learn what the plain one learns? kNN after short CIFAR-10 runs, over seeds.

    python benchmarks/same_learning.py CIFAR10 DIR [--seeds N ...] [--paths NAME ...]
        [--train N] [--test N] [--epochs N]

CIFAR10 has train/ and test/ as class folders (examples/cifar10_folders.py). Trains
examples/cifar10_study.yaml on the first N images of each class (1,000) from each seed: by the plain
path (float32, the loss by its definition, images channels first) and by each fast one, which see
the same views in the same order from the same weights. Scores each by kNN, 200 neighbours, on the
first N test images of each class (200). Prints top-1 for each seed, the mean difference from the
plain path, paired by seed, with its 95 % Student-t interval, and beside it how far seeds of the
plain path lie apart; DIR/same-learning.json keeps all. What is there already is not made again.
bfloat16 encoders are emulated, slowly, on a CPU without the instructions. One thread:
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from moco.encoders import Encoder
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.labelled import LabelledImages
from moco.evaluation.labelled_part import LabelledPart, part_of
from moco.evaluation.paired import paired_difference
from moco.info_nce_paths import score_by_definition
from moco.loading import load_with_recipe
from moco.plan import make_plan
from moco.pretraining import train
from moco.progress import SilentReport

RECIPE = Path(__file__).parents[1] / "examples" / "cifar10_study.yaml"
CPU = torch.device("cpu")
KEYS_OF_A_CHUNK = 200
"""So that the queue of 1,024 takes several, the last one not whole."""


@dataclass(frozen=True)
class Way:
    """A way to take the step."""

    precision: str = "float32"
    settings: tuple[str, ...] = ()
    plain: bool = False
    """The loss by its definition, images channels first."""
    accumulate: int = 1
    """Parts that each batch is taken in."""
    compiled: bool = False
    """The encoders' passes compiled; a run that could not be is an error here."""


WAYS = {
    "plain": Way(plain=True),
    "float32": Way(),
    "bfloat16 keys": Way(settings=("key_precision=bfloat16",)),
    "bfloat16": Way("bfloat16"),
    "accumulated": Way(accumulate=4),
    "compiled": Way(compiled=True),
}


def channels_first(_: Encoder) -> str:
    """Stand in for the test that keeps an encoder from channels last."""
    return "any"


@contextmanager
def taking(way: Way) -> Iterator[None]:
    """Let runs inside take their steps this way."""
    if way.plain:
        with (
            patch("moco.contrast.score", score_by_definition),
            patch("moco.build.narrow_pointwise_stride", channels_first),
        ):
            yield
        return
    with (
        patch("moco.info_nce_chunks.CHUNK_ENTRIES", 1),
        patch("moco.info_nce_chunks.FEWEST_KEYS", KEYS_OF_A_CHUNK),
    ):
        yield


class SteppingAsAsked(SilentReport):
    """Lets no run go on in another way than its own."""

    def note(self, text: str) -> None:
        if "not compiled" in text:
            raise RuntimeError(text)


def first_of_each_class(folder: Path, count: int) -> LabelledPart:
    """Return the first so many images of each class of a folder."""
    images = LabelledImages(folder)
    rows = [
        (images.labels == label).nonzero().flatten()[:count] for label in range(len(images.classes))
    ]
    return part_of(images, torch.cat(rows))


def knn_of(run: Path, known: LabelledPart, asked: LabelledPart) -> float:
    """Return a run's top-1 on the images asked about, 0 to 1."""
    backbone, recipe = load_with_recipe(run)
    found, wanted = (
        extract_features(backbone, images, recipe.views, device=CPU) for images in (known, asked)
    )
    votes = knn_class_scores(
        found.rows, known.labels[found.image_ids], wanted.rows, classes=len(known.classes)
    )
    return float((votes.argmax(dim=1) == asked.labels[wanted.image_ids]).float().mean())


def trained(
    name: str, seed: int, known: LabelledPart, asked: LabelledPart, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one run and return its kNN, its last losses' mean and its seconds."""
    way, began = WAYS[name], time.monotonic()
    plan = make_plan(
        known.images,
        recipe=RECIPE,
        settings=way.settings,
        epochs=options.epochs,
        run=options.folder / name.replace(" ", "-") / str(seed),
        device="cpu",
        seed=seed,
        workers=0,
        precision=way.precision,
        accumulate=way.accumulate,
        compile_networks=way.compiled,
    )
    with taking(way):
        train(plan, report=SteppingAsAsked())
    seconds = time.monotonic() - began
    lines = (plan.run / "metrics.jsonl").read_text().splitlines()[-20:]
    loss = statistics.mean(json.loads(line)["loss"] for line in lines)
    top1 = knn_of(plan.run, known, asked)
    return {"seed": seed, "knn_top1": top1, "last_loss": loss, "seconds": round(seconds, 1)}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the results for people, in percent."""
    plain = {row["seed"]: row["knn_top1"] for row in results.get("plain", [])}
    lines = [
        "| path | kNN top-1, by seed | minus plain, paired (95 %) | last loss | s |",
        "|---|---|---|---|---|",
    ]
    for name, rows in results.items():
        both = [row for row in rows if row["seed"] in plain]
        lead = paired_difference(
            [100 * row["knn_top1"] for row in both], [100 * plain[row["seed"]] for row in both]
        )
        interval = "" if lead.low is None else f" ({lead.low:+.2f} to {lead.high:+.2f})"
        difference = "" if lead.mean is None or name == "plain" else f"{lead.mean:+.2f}{interval}"
        scores = ", ".join(f"{100 * row['knn_top1']:.2f}" for row in rows)
        loss, seconds = (
            statistics.mean(row[key] for row in rows) for key in ("last_loss", "seconds")
        )
        lines.append(f"| {name} | {scores} | {difference} | {loss:.3f} | {seconds:.0f} |")
    if len(plain) > 1:
        deviation = 100 * statistics.stdev(plain.values())
        lines.append(f"\nSeeds of the plain path: standard deviation {deviation:.2f} points.")
    return "\n".join(lines)


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--paths", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    known = first_of_each_class(options.cifar10 / "train", options.train)
    asked = first_of_each_class(options.cifar10 / "test", options.test)
    kept = options.folder / "same-learning.json"
    about = {
        "train": len(known),
        "test": len(asked),
        "epochs": options.epochs,
        "paths": {name: asdict(way) for name, way in WAYS.items()},
    }
    made = json.loads(kept.read_text()) if kept.exists() else {**about, "results": {}}
    if {key: made[key] for key in ("train", "test", "epochs")} != {
        key: about[key] for key in ("train", "test", "epochs")
    }:
        parser.error(f"{kept} is of other images or epochs; name another DIR")
    results: dict[str, list[dict[str, Any]]] = made["results"]
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.paths:
            rows = results.setdefault(name, [])
            if all(row["seed"] != seed for row in rows):
                rows.append(trained(name, seed, known, asked, options))
                kept.write_text(json.dumps(made, indent=1))
                print(name, rows[-1], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
