"""`moco data stats`, `pack` and `preview`; `check` is shown by `data_check.py`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from PIL import Image

from moco.cli.data_check import run_check
from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.progress_lines import ProgressLines
from moco.cli.signals import StopSignals
from moco.cli.terminal import duration, print_table
from moco.data.images import Images
from moco.data.sources.opening import open_images
from moco.data_tools.check import left_out_lines
from moco.data_tools.encoding import Encoding
from moco.data_tools.pack import Packed, check_apart, pack, plain_name, stored_bytes
from moco.data_tools.preview import Preview, preview, recipe_of_preview
from moco.data_tools.reading import reading_processes
from moco.data_tools.stats import SourceStatistics, recipe_lines, source_statistics
from moco.data_tools.words import counted
from moco.device import pick_device
from moco.errors import StorageError, UsageError
from moco.plan import check_seed

SHOWN_CHANNELS = 32
SHOWN_SKIPPED = 5


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    check_json_path(arguments.json)
    match arguments.kind:
        case "check":
            return run_check(arguments)
        case "stats":
            return run_stats(arguments)
        case "pack":
            return run_pack(arguments)
        case _:
            return run_preview(arguments)


def run_stats(arguments: argparse.Namespace) -> int:
    """Print each channel's figures and the lines for a recipe file."""
    images = open_images(arguments.source)
    count = min(len(images), arguments.sample or len(images))
    with ProgressLines("counted") as progress:
        found = source_statistics(
            images,
            sample=arguments.sample,
            workers=reading_processes(arguments.workers, count),
            report=progress.report,
        )
    kind = found.kind
    depth = "16 bits or floating-point values" if kind.deep else "8 bits"
    columns = ["channel", "mean", "deviation", "lowest", "highest"]
    figures = zip(found.mean, found.std, found.lowest, found.highest, strict=True)
    rows = [
        [str(channel), *(f"{figure:.6g}" for figure in row)] for channel, row in enumerate(figures)
    ]
    channels = counted(kind.channels, "channel")
    title = f"{counted(found.images)} of {channels}, {depth}: {arguments.source}"
    print_table(title, columns, rows[:SHOWN_CHANNELS])
    if len(rows) > SHOWN_CHANNELS:
        say(f"and {len(rows) - SHOWN_CHANNELS} channels more; --json has all")
    show_left_out(images)
    for count, why in (
        (found.unreadable, "could not be read"),
        (found.of_another_kind, "had other channels or values"),
    ):
        if count:
            say(f"not counted: {counted(count)} that {why}; `moco data check` names them")
    say(f"\nfor a recipe file:\n\n{recipe_lines(found)}")
    write_json(arguments.json, stats_figures(found, len(images)))
    return 0


def show_left_out(images: Images) -> None:
    """Say which parts of a source are damaged: they have no image that could be called skipped."""
    for line in left_out_lines(images):
        print(printable(line), file=sys.stderr)


def stats_figures(found: SourceStatistics, images: int) -> dict[str, object]:
    """Return what `--json` has."""
    return {
        "images": images,
        "counted": found.images,
        "unreadable": found.unreadable,
        "other_kind": found.of_another_kind,
        "pixels": found.pixels,
        "channels": found.kind.channels,
        "deep": found.kind.deep,
        "mean": list(found.mean),
        "std": list(found.std),
        "lowest": list(found.lowest),
        "highest": list(found.highest),
    }


def run_pack(arguments: argparse.Namespace) -> int:
    """Pack, and say how much smaller it is."""
    began = time.monotonic()
    encoding = encoding_of(arguments)
    check_apart(arguments.source, arguments.out)
    images = open_images(arguments.source)
    with StopSignals() as signals, ProgressLines("packed") as progress:
        packed = pack(
            images,
            arguments.out,
            encoding,
            name=plain_name(arguments.source),
            shard_bytes=round(1e6 * arguments.shard_megabytes),
            workers=reading_processes(arguments.workers, len(images)),
            bad_limit=arguments.bad_limit,
            report=progress.report,
            stop=signals.asked,
        )
    seconds = time.monotonic() - began
    figures = pack_figures(packed, seconds, stored_bytes(arguments.source, images))
    show_left_out(images)
    show_packed(packed, arguments.out, figures)
    write_json(arguments.json, figures)
    return 0


def encoding_of(arguments: argparse.Namespace) -> Encoding:
    """Return how images are packed."""
    if arguments.lossless and arguments.quality is not None:
        raise UsageError("--quality is of JPEG, and --lossless writes none; leave out one of them")
    side = arguments.side or (None if arguments.lossless else Encoding.side)
    return Encoding(side, arguments.quality or Encoding.quality, arguments.lossless)


def pack_figures(packed: Packed, seconds: float, before: int | None) -> dict[str, object]:
    """Return what `--json` has."""
    index = packed.index
    figures: dict[str, object] = {
        "images": index.images,
        "new_images": packed.new_images,
        "skipped": len(index.skipped),
        "shards": len(index.shards),
        "bytes": index.bytes,
        "seconds": round(seconds, 1),
        "images_per_second": round(packed.new_images / seconds, 1),
    }
    return figures if before is None else {**figures, "bytes_before": before}


def show_packed(packed: Packed, out: Path, figures: dict[str, object]) -> None:
    """Print what is in the folder now."""
    index, before = packed.index, figures.get("bytes_before")
    for image in index.skipped[:SHOWN_SKIPPED]:
        say(printable(f"left out {image.name}: {image.reason}"))
    if len(index.skipped) > SHOWN_SKIPPED:
        more = len(index.skipped) - SHOWN_SKIPPED
        say(printable(f"and {more} more, in {out / 'index.json'}"))
    size = f"{index.bytes / 1e6:,.1f} MB"
    size += f", {before / 1e6:,.1f} MB before" if isinstance(before, int) else ""
    speed = (
        f"{figures['images_per_second']} images/s, {duration(float(str(figures['seconds'])))}"
        if packed.new_images
        else "all of them packed before"
    )
    say(
        printable(
            f"{counted(index.images)} in {counted(len(index.shards), 'shard')} of {size} "
            f"({speed}); train with `moco pretrain {out}`"
        )
    )


def run_preview(arguments: argparse.Namespace) -> int:
    """Write the picture."""
    out = arguments.out or Path(f"preview-{plain_name(arguments.source)}.png")
    check_is_free_or_png(out)
    check_seed(arguments.seed)
    images = open_images(arguments.source)
    device = pick_device(arguments.device)
    recipe = recipe_of_preview(images, arguments.recipe, arguments.settings, device)
    with ProgressLines("drawn") as progress:
        found = preview(
            images,
            recipe.views,
            count=arguments.images,
            epochs=arguments.epochs,
            seed=arguments.seed,
            size_at=recipe.image_size_at,
            report=progress.report,
        )
    write_png(out, found.grid)
    show_left_out(images)
    for name, reason in found.skipped[:SHOWN_SKIPPED]:
        print(printable(f"passed over {name}: {reason}"), file=sys.stderr)
    sizes = dict.fromkeys(map(recipe.image_size_at, range(arguments.epochs)))
    say(
        printable(
            f"{out}: {counted(len(found.image_ids))}, each with both views of "
            f"{counted(arguments.epochs, 'epoch')} of recipe {recipe.name} at "
            f"{', '.join(map(str, sizes))} pixels"
        )
    )
    write_json(arguments.json, preview_figures(found, out, recipe.name, recipe.views.image_size))
    return 0


def preview_figures(found: Preview, out: Path, recipe: str, size: int) -> dict[str, object]:
    """Return what `--json` has."""
    return {
        "picture": str(out),
        "recipe": recipe,
        "image_size": size,
        "scale": found.scale,
        "image_ids": found.image_ids,
        "skipped": len(found.skipped),
    }


def check_is_free_or_png(path: Path) -> None:
    """Refuse to replace anything but a PNG, and a folder that cannot be written.

    Raises:
        UsageError: Something else is there.
        StorageError: Its folder is missing or not writable.
    """
    folder = path.absolute().parent
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; name a file with --out")
    try:
        if os.path.lexists(path) and not _is_png(path):
            raise UsageError(f"{path} is there and no PNG; name another file with --out")
        is_writable = folder.is_dir() and os.access(folder, os.W_OK)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; name another --out") from error
    if not is_writable:
        raise StorageError(f"cannot write {path}; name a file in a writable folder with --out")


def _is_png(path: Path) -> bool:
    if not os.path.isfile(path):  # reading a pipe would wait for its other end
        return False
    with open(path, "rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def write_png(path: Path, grid: Image.Image) -> None:
    """Write the picture aside and put it in its place.

    Raises:
        StorageError: It cannot be written.
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        grid.save(aside, "PNG")
        os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {path}: {reason}; name another --out") from error
    finally:
        aside.unlink(missing_ok=True)
