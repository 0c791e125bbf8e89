"""Every format beside every backbone: the largest difference of a feature, by the library itself.

    python benchmarks/export_table.py FOLDER [--only BACKBONE ...] [--side 224]

Makes each backbone with random weights and random batch norm, statistics too (of a fresh network
many tensors are equal, and swapped ones would not show). Writes it by each format of `moco export`
to a place that is removed again, has the library load it, and compares features of random images;
then reads the file as a stranger's (`moco import`) and compares again.
FOLDER keeps a JSON file for each backbone; the table of all that are there is printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moco.encoders import build_backbone
from moco.errors import MocoError
from moco.export.catalogue import FORMATS
from moco.export.check import compare_features
from moco.export.exporting import export_model
from moco.export.source import ExportSource
from moco.foreign.models import encoder_of
from moco.foreign.reading import read_foreign
from moco.specs import EncoderSpec, ViewsSpec

READABLE = (".pth", ".pth.tar", ".safetensors")
"""What `moco import` takes."""
BACKBONES = {
    "R18": EncoderSpec(backbone="resnet18"),
    "R34": EncoderSpec(backbone="resnet34"),
    "R50": EncoderSpec(backbone="resnet50"),
    "RX50 32x8d": EncoderSpec(backbone="resnext50_32x8d"),
    "R50 w2x": EncoderSpec(backbone="resnet50", width=2.0),
    "ViT-S": EncoderSpec(backbone="moco_v3_vit_small"),
    "ViT-B": EncoderSpec(backbone="moco_v3_vit_base"),
}


def main() -> None:
    """Measure what was asked for, and print the table of all that is known."""
    asked = parsed()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for title in asked.only or BACKBONES:
        figures = measured(title, asked.side)
        name = title.replace(" ", "-")
        (asked.folder / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(table(asked.folder))


def measured(title: str, side: int) -> dict[str, Any]:
    """Return what each format makes of a backbone."""
    source = made(BACKBONES[title], side)
    rows: dict[str, Any] = {}
    read: dict[str, Any] = {}
    for each in FORMATS:
        reason = each.refusal(source)
        if reason:
            rows[each.name] = {"refused": reason}
            continue
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            done = export_model(source, each.name, Path(place) / "out")
            file = next((name for name in done.files if name.endswith(READABLE)), None)
            if file is not None:
                read[each.name] = read_back(source, Path(place) / "out" / file)
        rows[each.name] = {
            "largest_difference": done.check.difference,
            "largest_feature": done.check.largest,
            "checked_by": done.check.by,
            "is_loaded": done.check.is_loaded,
            "names_checked": done.check.keys,
            "bytes": sum(done.files.values()),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(f"{title} {each.name}: {done.check.words}; in: {read.get(each.name)}", flush=True)
    return {
        "backbone": title,
        "side": side,
        "parameters": sum(value.numel() for value in source.backbone.parameters()),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "out": rows,
        "in": read,
    }


def read_back(source: ExportSource, file: Path) -> dict[str, Any]:
    """Return how far a file's features are from the source's, read as anybody's."""
    told = source.encoder.backbone if "vit" in source.encoder.backbone else None
    try:  # a ViT-S may have 6 or 12 heads, in tensors of the same shapes: it must be told
        weights = read_foreign(file, backbone=told)
    except MocoError as error:
        return {"refused": str(error).replace(str(file), file.name)}
    network = encoder_of(weights).backbone
    check = compare_features(source, network, weights.kind)
    return {
        "largest_difference": check.difference,
        "largest_feature": check.largest,
        "kind": weights.kind,
        "used": len(weights.used),
    }


def made(spec: EncoderSpec, side: int) -> ExportSource:
    """Return a backbone of which no two tensors are alike."""
    views = ViewsSpec(image_size=side, evaluation_size=side, evaluation_resize=side * 8 // 7)
    torch.manual_seed(0)
    network = build_backbone(spec, side)
    draw = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            shape = layer.weight.shape
            layer.weight.data.copy_(0.7 + 0.6 * torch.rand(shape, generator=draw))
            layer.bias.data.copy_(0.2 * torch.randn(shape, generator=draw))
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.copy_(0.2 * torch.randn(shape, generator=draw))
            layer.running_var.copy_(0.5 + torch.rand(shape, generator=draw))  # type: ignore[union-attr]
    return ExportSource(spec.backbone, network.eval(), spec, views)


def table(folder: Path) -> str:
    """Return the Markdown table of all backbones that were measured."""
    known = {}
    for title in BACKBONES:
        path = folder / f"{title.replace(' ', '-')}.json"
        if path.exists():
            known[title] = json.loads(path.read_text())
    lines = [
        " | ".join(["| out, `--to` | loaded by", *known]) + " |",
        "|---" * (2 + len(known)) + "|",
    ]
    for each in FORMATS:
        rows = [figures["out"][each.name] for figures in known.values()]
        by = next((row for row in rows if "refused" not in row), None)
        if by is not None:
            told = by["checked_by"] if by["is_loaded"] else f"names of {by['checked_by']} *"
            lines.append(" | ".join([f"| `{each.name}` | {told}", *map(cell, rows)]) + " |")
    for each in FORMATS:
        rows = [figures["in"].get(each.name) for figures in known.values()]
        told = sorted({row["kind"] for row in rows if row is not None and "kind" in row})
        if told:
            kinds = ", ".join(told)
            cells = ["-" if row is None else cell(row) for row in rows]
            lines.append(" | ".join([f"| in, a file of `{each.name}` | as {kinds}", *cells]) + " |")
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    """Return a difference, relative to the largest feature too."""
    if "refused" in row:
        return "refused"
    difference = row["largest_difference"]
    if difference == 0:
        return "0"
    return f"{difference:.1e} ({difference / row['largest_feature']:.0e})"


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=BACKBONES, metavar="BACKBONE")
    parser.add_argument("--side", type=int, default=224)
    return parser.parse_args()


if __name__ == "__main__":
    main()
