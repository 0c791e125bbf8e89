"""What pre-training on solar cells is worth with few labels and with all of them.

    python benchmarks/elpv_few_labels.py DIR [SEEDS]

For each seed (3): pre-trains on the demo's ELPV cells without labels (96 px, its 36 epochs, one
thread), then scores each cell of the demo's test blocks as sound or defective with 1 %, 10 % and
all labels of the others: linear probes of raw pixels, of the untrained encoder (as drawn, and with
the statistics of the images), and of the trained one; and the whole network fine-tuned from the
trained weights and from scratch. Probes with few labels are means of 5 draws of them; fine-tuning
has one. Prints balanced accuracy (also of votes divided by the classes' shares, which suit it) and
ROC AUC (%) with 95 % t intervals over seeds and the paired differences; DIR keeps each seed's
figures as JSON, and the same command goes on where it stopped.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from moco.demo import untrained_backbone
from moco.demo_data import DemoData, solar_cells
from moco.device import fast_precision
from moco.evaluation.compare import measured
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.features import extract_features
from moco.evaluation.few_labels import probe
from moco.evaluation.finetune import finetune, random_backbone
from moco.evaluation.finetune_spec import FINETUNE, FROM_SCRATCH
from moco.evaluation.finetune_training import Compute
from moco.evaluation.label_splits import Amount, Split, draw_splits
from moco.evaluation.labelled_part import LabelledPart, part_of
from moco.evaluation.paired import paired_difference, t_interval
from moco.loading import load
from moco.plan import Plan, make_plan
from moco.pretraining import train

PRETRAIN_EPOCHS, STATISTICS_STEPS = 36, 60
DRAWS = 5
AMOUNTS = [Amount(share=0.01), Amount(share=0.1), Amount(share=1.0)]
CORRECTED = "balanced_accuracy_corrected"
"""Votes divided by the classes' shares of the labels: the answers that suit balanced accuracy."""
MEASURES = ("balanced_accuracy", CORRECTED, "roc_auc")
SHORTER = {"epochs": 16, "fewest_steps": 160, "warmup_epochs": 2.0, "patience": 8}
"""Than the defaults: the same for both starts, and both early stopped where labels suffice."""
PIXELS, UNTRAINED, STATISTICS = "raw pixels, probe", "untrained, probe", "untrained+stats, probe"
TRAINED, FINETUNED, SCRATCH = "pre-trained, probe", "pre-trained, fine-tuned", "from scratch"
METHODS = (PIXELS, UNTRAINED, STATISTICS, TRAINED, FINETUNED, SCRATCH)
PAIRS = [(TRAINED, PIXELS), (TRAINED, UNTRAINED), (TRAINED, STATISTICS), (FINETUNED, SCRATCH)]
PAIRS += [(FINETUNED, TRAINED), (TRAINED, SCRATCH)]

Scores = dict[str, dict[str, dict[str, float]]]
"""Method, amount of labels, measure."""


def of_seed(folder: Path, seed: int) -> Scores:
    """Return this seed's scores, from its file if it was done before."""
    path = folder / f"seed-{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text())["scores"])
    data, began = solar_cells(), time.process_time()
    plan = make_plan(
        data.train,
        settings=data.settings,
        epochs=PRETRAIN_EPOCHS,
        run=folder / f"run-{seed}",
        device="cpu",
        seed=seed,
        workers=0,
    )
    train(plan)
    seconds = {"pre-training": time.process_time() - began}
    names = [data.train.name(image_id) for image_id in range(len(data.train))]
    splits = draw_splits(data.train_labels, names, data.classes, AMOUNTS, draws=DRAWS, seed=seed)
    scores: Scores = {}
    for method in METHODS:
        began = time.process_time()
        tuned = method in (FINETUNED, SCRATCH)
        votes = (
            fine_tuned(plan, data, splits, method) if tuned else probed(plan, data, splits, method)
        )
        seconds[method] = time.process_time() - began
        scores[method] = {
            title: {
                measure: mean(scored(measure, vote, data) for vote in own) for measure in MEASURES
            }
            for title, own in votes.items()
        }
        print(f"seed {seed}, {method}: {scores[method]} {seconds[method]:.0f} s", flush=True)
    labels = {split.title: len(split.rows) for split in splits}
    text = json.dumps({"scores": scores, "seconds": seconds, "labels": labels}, indent=1)
    path.write_text(text + "\n")
    return scores


def scored(measure: str, votes: Tensor, data: DemoData) -> float:
    """Return the score, 0 to 1, of votes [T, 2] on the test cells."""
    if measure == CORRECTED:  # a split has the classes' shares of all train labels
        shares = data.train_labels.bincount() / len(data.train_labels)
        return measured("balanced_accuracy", votes / shares, data.test_labels)
    return measured(
        "roc_auc" if measure == "roc_auc" else "balanced_accuracy", votes, data.test_labels
    )


def probed(plan: Plan, data: DemoData, splits: list[Split], method: str) -> dict[str, list[Tensor]]:
    """Return the probe's votes on the test cells for each amount of labels."""
    steps = STATISTICS_STEPS if method == STATISTICS else 0
    network = None
    if method == TRAINED:
        network = load(plan.run)
    elif method != PIXELS:
        network = untrained_backbone(plan, statistics_steps=steps)
    views = plan.recipe.views
    rows = []
    for images in (data.train, data.test):
        assert images is not None  # noqa: S101  solar cells have test images
        found = extract_features(network, images, views, device=plan.device).rows
        # cells are grey: one of three equal channels says all
        rows.append(found[:, : found.shape[1] // 3] if network is None else found)
    known = FeatureSet(rows[0], data.train_labels, data.classes)
    votes: dict[str, list[Tensor]] = {}
    for split in splits:
        votes.setdefault(split.title, []).append(probe(known, rows[1], split).votes)
    return votes


def fine_tuned(
    plan: Plan, data: DemoData, splits: list[Split], method: str
) -> dict[str, list[Tensor]]:
    """Return the fine-tuned network's votes on the test cells, of the first draw of each amount."""
    assert data.test is not None  # noqa: S101
    known = LabelledPart(data.train, data.train_labels, data.classes)
    asked = LabelledPart(data.test, data.test_labels, data.classes)
    scratch = method == SCRATCH
    recipe = plan.recipe  # random weights are the same as the probe's
    backbone = (
        random_backbone(recipe.encoder, recipe.views, plan.seed) if scratch else load(plan.run)
    )
    spec = replace(FROM_SCRATCH if scratch else FINETUNE, **SHORTER)  # type: ignore[arg-type]
    votes = {}
    for split in splits:
        if split.draw == 0:
            found = finetune(
                backbone,
                part_of(known, split.rows),
                asked,
                spec,
                views=plan.recipe.views,
                seed=plan.seed,
                measure="balanced_accuracy",
                compute=Compute(precision=fast_precision(plan.device)),
            )
            kept = f"epoch {found.best_epoch} of {found.epochs} (planned {found.planned_epochs})"
            print(f"  {method}, {split.title}: {kept}", flush=True)
            votes[split.title] = [found.votes]
    return votes


def report(all_scores: list[Scores]) -> dict[str, object]:
    """Print the tables and return their figures."""
    figures: dict[str, object] = {"seeds": len(all_scores)}
    for measure in MEASURES:
        print(f"\n{measure} (%), mean and 95 % t interval over {len(all_scores)} seeds")
        for method in METHODS:
            cells = [
                [of_seed[method][amount.title][measure] for of_seed in all_scores]
                for amount in AMOUNTS
            ]
            for amount, cell in zip(AMOUNTS, cells, strict=True):
                key = f"{method} | {amount.title} | {measure}"
                figures[key] = {"mean": mean(cell), "interval": t_interval(cell), "seeds": cell}
            print(f"{method:26}", *(f"{percent(mean(c), *t_interval(c)):>24}" for c in cells))
        print("differences, paired by seed")
        for better, worse in PAIRS:
            line = f"{better} - {worse}"
            for amount in AMOUNTS:
                above, below = (
                    [of_seed[method][amount.title][measure] for of_seed in all_scores]
                    for method in (better, worse)
                )
                lead = paired_difference(above, below)
                figures[f"{line} | {amount.title} | {measure}"] = [lead.mean, lead.low, lead.high]
                line_part = percent(lead.mean or 0.0, lead.low, lead.high)
                print(f"{line:52} {amount.title:>10} {line_part:>24}  {lead.verdict}")
    return figures


def percent(middle: float, low: float | None, high: float | None) -> str:
    """Return 81.2 (79.9 to 82.4)."""
    if low is None or high is None:
        return f"{100 * middle:.1f}"
    return f"{100 * middle:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main(folder: Path, seeds: int) -> None:
    """Run every seed that is not done, print, and write DIR/figures.json."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    figures = report([of_seed(folder, seed) for seed in range(seeds)])
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python benchmarks/elpv_few_labels.py DIR [SEEDS]")
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 3)
