"""`moco evaluate label-free`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.progress_lines import ProgressLines
from moco.cli.terminal import print_table
from moco.data.images import Images, spread
from moco.data.sources.opening import open_images
from moco.device import pick_device
from moco.errors import CheckpointError, DataError, UsageError
from moco.evaluation.label_free import MEASURES, LabelFreeResult, chosen, label_free
from moco.evaluation.view_features import extract_view_features
from moco.loading import kept_checkpoints, load_with_recipe
from moco.plan import check_seed
from moco.specs import ViewsSpec


@dataclass(frozen=True)
class Row:
    """One checkpoint's measures."""

    name: str
    path: Path
    views: ViewsSpec
    result: LabelFreeResult


def run(arguments: argparse.Namespace) -> int:
    """Print each checkpoint's measures, and which one each measure would choose."""
    _check(arguments)
    device = pick_device(arguments.device)
    images = open_images(arguments.images)
    paths = checkpoint_paths(arguments.runs, every=arguments.checkpoints == "all")
    rows = [
        row
        for name, path in zip(short_names(paths), paths, strict=True)
        if (row := _measured(name, path, images, device, arguments)) is not None
    ]
    if not rows:
        raise CheckpointError(f"none of the {len(paths)} checkpoints can be used")
    looked_at = ", ".join(sorted({f"{row.result.images:,}" for row in rows}))
    print_table(
        f"without labels, {arguments.layer} features of {looked_at} images of {arguments.images}",
        ["checkpoint", *(measure.title for measure in MEASURES.values())],
        [[row.name, *_figures(row.result)] for row in rows],
    )
    for line in [*_directions(), *choices_in_words(rows)]:
        say(line)
    write_json(arguments.json, _json(rows, arguments))
    return 0


def checkpoint_paths(runs: Sequence[Path], *, every: bool) -> list[Path]:
    """Return what is to be loaded, one path for each row of the table.

    Raises:
        CheckpointError: A path is not there, or a run keeps no checkpoint.
    """
    paths: list[Path] = []
    for path in runs:
        is_checkpoint = (path / "manifest.json").exists()
        kept = [path] if is_checkpoint else kept_checkpoints(path)
        paths += kept if every or is_checkpoint else [path]
    return paths


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return `step 100`, or `RUN step 100` of several runs; whole paths where names are alike."""
    of_steps = [path.name.startswith("step_") and path.name[5:].isdigit() for path in paths]
    one_run = all(of_steps) and len({path.parent for path in paths}) == 1
    names = []
    for path, has_step in zip(paths, of_steps, strict=True):
        step = f"step {int(path.name[5:])}" if has_step else ""
        owner = path.absolute().parent.parent.name if has_step else path.name
        names.append(step if one_run else f"{owner} {step}".rstrip())
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def choices_in_words(rows: Sequence[Row]) -> list[str]:
    """Return which checkpoint each measure would choose, and why not to trust one alone."""
    if len(rows) < 2:
        return []
    picked = chosen([row.result for row in rows])
    lines = []
    for number, row in enumerate(rows):
        titles = [MEASURES[name].title for name, choice in picked.items() if choice == number]
        if titles:
            lines.append(f"would choose {row.name}: {', '.join(titles)}")
    if len(lines) > 1:
        lines.append(
            f"they disagree over {len(lines)} checkpoints; score those with labels, however few"
        )
    lines.append(
        "alignment alone chooses a collapsed or untrained network: read it beside uniformity"
    )
    if len({row.views for row in rows}) > 1:
        lines.append(
            "warning: the recipes draw different views, so alignment, neighbour consistency and "
            "view match are not of the same task"
        )
    if len({row.result.features for row in rows}) > 1:
        lines.append(
            "warning: the networks have different numbers of features, which bounds the rank"
        )
    return lines


def _check(arguments: argparse.Namespace) -> None:
    check_json_path(arguments.json)
    check_seed(arguments.seed)
    if arguments.workers < 0:
        raise UsageError(f"--workers must be from 0, got {arguments.workers}")
    if arguments.neighbours < 1:
        raise UsageError(f"--neighbours must be at least 1, got {arguments.neighbours}")
    if arguments.most_images < arguments.neighbours + 2:
        raise UsageError(
            f"--most-images must be at least {arguments.neighbours + 2}, two more than "
            f"--neighbours, got {arguments.most_images}"
        )


def _measured(
    name: str,
    path: Path,
    images: Images,
    device: torch.device,
    arguments: argparse.Namespace,
) -> Row | None:
    """Return the row, None where the checkpoint is damaged and others of its run are there."""
    part = "encoder" if arguments.layer == "head" else "backbone"
    passed_over: list[str] = []
    try:
        network, recipe = load_with_recipe(path, part, passed_over=passed_over)  # type: ignore[arg-type]
    except CheckpointError as error:
        if path in arguments.runs:
            raise
        print(printable(f"left out: {error}"), file=sys.stderr)
        return None
    for line in passed_over:
        print(printable(f"an older checkpoint is evaluated: {line}"), file=sys.stderr)
    with ProgressLines(name) as lines:
        found = extract_view_features(
            network.to(device),
            images,
            spread(len(images), arguments.most_images),
            recipe.views,
            device=device,
            seed=arguments.seed,
            workers=arguments.workers,
            report=lines.report,
        )
    for file, reason in found.skipped:
        print(printable(f"skipped {file}: {reason}"), file=sys.stderr)
    try:
        views = (found.view_a, found.view_b)
        result = label_free(found.plain, views, neighbours=arguments.neighbours)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Row(name, path, recipe.views, result)


def _figures(result: LabelFreeResult) -> list[str]:
    values = {name: getattr(result, name) for name in MEASURES}
    return [f"{value:.{1 if name == 'effective_rank' else 3}f}" for name, value in values.items()]


def _directions() -> list[str]:
    better: Mapping[str, list[str]] = {
        way: [measure.title for measure in MEASURES.values() if measure.better == way]
        for way in ("higher", "lower")
    }
    return [f"meant to be {way}: {', '.join(titles)}" for way, titles in better.items()]


def _json(rows: Sequence[Row], arguments: argparse.Namespace) -> dict[str, object]:
    picked = chosen([row.result for row in rows]) if len(rows) > 1 else {}
    return {
        "layer": arguments.layer,
        "neighbours": arguments.neighbours,
        "seed": arguments.seed,
        "checkpoints": [
            {
                "path": str(row.path),
                **{entry.name: getattr(row.result, entry.name) for entry in fields(row.result)},
            }
            for row in rows
        ],
        "chosen": {name: str(rows[number].path) for name, number in picked.items()},
    }
