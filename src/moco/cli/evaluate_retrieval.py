"""`moco evaluate retrieval`."""

from __future__ import annotations

import argparse

from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import labelled_features
from moco.cli.output import say
from moco.cli.terminal import print_table
from moco.device import pick_device
from moco.errors import UsageError
from moco.evaluation.retrieval import retrieval


def run(arguments: argparse.Namespace) -> int:
    """Print how well test images find train images of their class."""
    check_json_path(arguments.json)
    if min(arguments.depths) < 1:
        raise UsageError("--depths must be at least 1")
    found = labelled_features(arguments)
    gallery, queries = found.train, found.test
    one_source = queries is gallery
    result = retrieval(
        gallery,
        None if one_source else queries,
        depths=arguments.depths,
        device=pick_device(arguments.device),
    )
    rows = zip(result.depths, result.recall, strict=True)
    shares = {f"recall_at_{depth}": value for depth, value in rows}
    shares["mean_average_precision"] = result.mean_average_precision
    print_table(
        f"retrieval on {found.title}: {result.queries:,} queries, a gallery of {result.gallery:,}",
        ["score", "value"],
        [[name, f"{100 * value:.2f} %"] for name, value in shares.items()],
    )
    if one_source:
        say("one source: each image asks for the others, itself left out")
    if result.without_relevant:
        say(
            f"{result.without_relevant:,} images have no other of their class to find and do not "
            "count"
        )
    write_json(
        arguments.json,
        {
            **shares,
            "layer": found.layer,
            "classes": len(gallery.classes),
            "gallery_images": result.gallery,
            "queries": result.queries,
            "without_relevant": result.without_relevant,
            "skipped_files": len(found.skipped),
        },
    )
    return 0
