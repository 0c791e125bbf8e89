"""`moco export`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.errors import UsageError
from moco.export.exporting import Exported, check_export, export_model
from moco.export.format_names import GRAPHS
from moco.export.source import read_source


def run(arguments: argparse.Namespace) -> int:
    """Write a backbone for another library, check it, and say how it compares."""
    check_json_path(arguments.json)
    to, out, license_id = arguments.to, arguments.out, arguments.license
    check_export(to, out, license_id, overwrite=arguments.overwrite)
    if arguments.dynamic_size and to not in GRAPHS:
        raise UsageError(f"--dynamic-size goes with --to {' and '.join(GRAPHS)}; leave it out")
    passed_over: list[str] = []
    source = replace(
        read_source(Path(arguments.model), passed_over), dynamic_size=arguments.dynamic_size
    )
    for line in passed_over:
        print(printable(f"an older checkpoint is exported: {line}"), file=sys.stderr)
    exported = export_model(source, to, out, license_id=license_id, overwrite=arguments.overwrite)
    files = ", ".join(f"{name} ({size / 1e6:,.1f} MB)" for name, size in exported.files.items())
    say(printable(f"{out}: {files}; README.md has the lines that load it"))
    say(printable(exported.check.words))
    write_json(arguments.json, figures(exported))
    return 0


def figures(exported: Exported) -> dict[str, object]:
    """Return what `--json` writes."""
    source, check = exported.source, exported.check
    return {
        "out": str(exported.folder),
        "format": exported.format,
        "files": sorted(exported.files),
        "bytes": sum(exported.files.values()),
        "backbone": source.encoder.backbone,
        "features": source.features,
        "checked_by": check.by,
        "is_loaded": check.is_loaded,
        "largest_difference": check.difference,
        "largest_feature": check.largest,
        "names_checked": check.keys,
        "license": exported.license_id,
    }
