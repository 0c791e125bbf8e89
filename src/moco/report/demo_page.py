"""What the demo's page says, from a finished run."""

from __future__ import annotations

import platform

import torch

from moco import __version__
from moco.data.views import picture
from moco.demo import RIVALS, Compared, RivalFeatures, nearest, verdict
from moco.demo_data import DemoData
from moco.evaluation.compare import Interval
from moco.plan import Plan
from moco.report.browser_page import Part, page
from moco.report.curves import curves_part
from moco.report.figures import LEARNING
from moco.report.page import (
    Cell,
    neighbour_rows,
    pairs,
    paragraph,
    section,
    table,
)
from moco.report.run_files import read_run
from moco.report.view_samples import readable_ids, view_pairs

MEASURES = {"roc_auc": "ROC AUC", "balanced_accuracy": "balanced accuracy", "top1": "top-1"}
METHODS = {"knn": "kNN, 20 neighbours", "linear": "linear probe"}
VIEWED, ASKED, NEIGHBOURS = 12, 6, 5


def demo_page(
    plan: Plan,
    data: DemoData,
    compared: list[Compared],
    rivals: dict[str, RivalFeatures],
) -> str:
    """Return the page as HTML; the run's own files are read for the curves."""
    return page(
        f"MoCo demo: {data.title}",
        [
            paragraph(data.about, "soft"),
            *_comparison(compared),
            *_learning(plan),
            _views(plan, data),
            _neighbours(data, rivals),
            _settings(plan),
        ],
        made_by="moco demo",
    )


def shown(figure: Interval, *, sign: bool = False) -> str:
    """Return a share as "81.2 %" over its interval."""
    form = "+.1f" if sign else ".1f"
    value, low, high = (
        format(100 * part, form) for part in (figure.value, figure.low, figure.high)
    )
    return f"{value}\n{low} to {high}"


def _comparison(compared: list[Compared]) -> list[str]:
    if not compared:
        return [paragraph("Without labels there is nothing to compare; see the neighbours below.")]
    columns = ["features"]
    for row in compared:
        columns += [f"{METHODS[row.method]}, {MEASURES[row.measure]} %", "trained is ahead by"]
    body = []
    for name in RIVALS:
        cells = [name]
        for row in compared:
            cells.append(shown(row.scores[name]))
            cells.append(shown(row.leads[name], sign=True) if name in row.leads else "")
        body.append(cells)
    return [
        section(
            "Was it worth it?",
            paragraph(verdict(compared), "verdict"),
            table(columns, body, best=len(RIVALS) - 1),
            paragraph(
                "95 % bootstrap intervals over the test images. The probe's penalty "
                "was chosen on part of the training images. Untrained: the same network as it was "
                "drawn; with statistics: its batch norm has seen the images, no weight was "
                "trained, which is the harder rival.",
                "soft",
            ),
        )
    ]


def _learning(plan: Plan) -> list[Part | str]:
    run = read_run(plan.run, plan.run.name)
    candidates, last = plan.recipe.candidates, run.last_rows[-1]
    return [
        curves_part([run], {"Learning": LEARNING}),
        paragraph(
            "Where a dictionary begins with random keys, they are easy to tell apart: the loss "
            "rises while real keys take their place, then falls as the encoder learns. At the end "
            f"a query finds its own key first among {candidates:,} in "
            f"{100 * (last['pretext_top1'] or 0):.0f} % of cases.",
            "soft",
        ),
    ]


def _views(plan: Plan, data: DemoData) -> str:
    ids = readable_ids(data.train, VIEWED)
    return section(
        "Two views of each image",
        pairs(view_pairs(data.train, ids, plan.recipe.views, plan.seed)),
        paragraph(
            "What training compares: the two views of a pair should get the same embedding, "
            "views of different images different ones.",
            "soft",
        ),
    )


def _neighbours(data: DemoData, rivals: dict[str, RivalFeatures]) -> str:
    asked_images = data.test if data.test is not None else data.train
    look = {name: rivals[name] for name in ("untrained", "trained")}
    place = _asked_rows(data, look["trained"])
    # without labels the asked image is among those searched, and comes first: leave it out
    skip = 0 if data.test is not None else 1
    found = {
        name: nearest(features.test.rows[place], features.train.rows, NEIGHBOURS + skip)[:, skip:]
        for name, features in look.items()
    }
    rows = []
    for number, row in enumerate(place):
        asked_id = int(look["trained"].test.image_ids[row])
        asked = Cell(picture(asked_images.read(asked_id)), asked_images.name(asked_id))
        label = int(data.test_labels[asked_id]) if len(data.test_labels) else None
        rows.append(
            (
                asked,
                _cells(data, look["untrained"], found["untrained"][number], label),
                _cells(data, look["trained"], found["trained"][number], label),
            )
        )
    frames = " Green frames: the same class; red: another." if len(data.test_labels) else ""
    return section(
        "Nearest neighbours before and after",
        neighbour_rows(rows),
        paragraph(f"Left of each row the asked image, then its neighbours.{frames}", "soft"),
    )


def _cells(
    data: DemoData, features: RivalFeatures, rows: torch.Tensor, label: int | None
) -> list[Cell]:
    cells = []
    for row in rows.tolist():
        image_id = int(features.train.image_ids[row])
        same = None if label is None else int(data.train_labels[image_id]) == label
        cells.append(Cell(picture(data.train.read(image_id)), data.train.name(image_id), same))
    return cells


def _asked_rows(data: DemoData, features: RivalFeatures) -> list[int]:
    """Return rows to ask for, spread over the classes and over the images; not picked by result."""
    total = len(features.test.image_ids)
    if not len(data.test_labels):
        return [total * number // ASKED for number in range(min(ASKED, total))]
    labels = data.test_labels[features.test.image_ids]
    classes = labels.unique().tolist()  # type: ignore[no-untyped-call]
    rows: list[int] = []
    for number in range(ASKED):
        members = (labels == classes[number % len(classes)]).nonzero().flatten().tolist()
        rows.append(members[len(members) * (number + 1) // (ASKED + 1)])
    return rows


def _settings(plan: Plan) -> str:
    rows = [[choice.field, str(choice.value), choice.reason] for choice in plan.choices]
    return section(
        "How it was trained",
        table(["setting", "value", "reason"], rows),
        paragraph(
            f"moco {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
            f"{plan.device.type}, seed {plan.seed}. The whole recipe is recipe.yaml beside it.",
            "soft",
        ),
    )
