"""`export_model`: write a backbone for another library, load it there, and keep it if it is right.

OUT/  the library's files      whatever their names, see each format
README.md                the model card
export.json              what was written and how it was checked
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from moco import __version__
from moco.checkpoint_reading import read_json
from moco.errors import MocoError, StorageError, UsageError, storage_remedy
from moco.export.card import model_card
from moco.export.catalogue import FORMATS, able_formats
from moco.export.check import Check, WrongExportError
from moco.export.format_names import FORMAT_NAMES, README, RECORD, UNKNOWN_LICENSE
from moco.export.formats import Format
from moco.export.source import ExportSource
from moco.plain_files import open_regular

LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    format: str
    source: ExportSource
    check: Check
    files: dict[str, int]
    """Bytes of each file by name, the card and the record left out."""
    license_id: str


def export_model(
    source: ExportSource,
    to: str,
    out: Path,
    *,
    license_id: str = UNKNOWN_LICENSE,
    overwrite: bool = False,
) -> Exported:
    """Write a directory for another library, checked by loading it there where that is installed.

    Args:
        to: a name of `FORMAT_NAMES`.
        out: a new directory.
        license_id: an identifier of SPDX, for the model card.
        overwrite: replace an earlier export; nothing else is ever replaced.

    Raises:
        UsageError: An argument makes no sense, or the format cannot hold this backbone.
        WrongExportError: The written files do not give the same features; nothing is left.
        StorageError: It cannot be written.
    """
    check_export(to, out, license_id, overwrite=overwrite)
    kind = next(each for each in FORMATS if each.name == to)
    if reason := kind.refusal(source):
        able = able_formats(source)
        raise UsageError(
            f"{source.title} cannot go --to {to}: {reason}; --to {', '.join(able)} can hold it"
        )
    aside = out.parent / f".{out.name}.tmp-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        kind.write(source, aside)
        check = _checked(kind, source, aside)
        files = {path.name: path.stat().st_size for path in sorted(aside.iterdir())}
        _write_text(aside / README, model_card(source, kind, check, license_id))
        _write_text(aside / RECORD, json.dumps(_record(aside, kind, source, check), indent=1))
        _put(aside, out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"cannot write {out}: {reason}; {storage_remedy(error)}, or name another --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(out, to, source, check, files, license_id)


def check_export(to: str, out: Path, license_id: str, *, overwrite: bool) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        UsageError: There is no such format, the licence is no identifier, or something that is not
            to be replaced is in the directory's place.
    """
    if to not in FORMAT_NAMES:
        near = difflib.get_close_matches(to, FORMAT_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"take one of {', '.join(FORMAT_NAMES)}"
        raise UsageError(f"--to {to} is no format; {hint}")
    if not LICENSE.fullmatch(license_id):
        raise UsageError(f"--license {license_id} is no licence's identifier; write one as MIT")
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise UsageError(f"{out} is there already; name another --out, or add --overwrite")
    if os.path.islink(out) or not _is_export(out):
        raise UsageError(f"{out} is there and no export of ours; name another --out")


def _checked(kind: Format, source: ExportSource, folder: Path) -> Check:
    try:
        return kind.check(source, folder)
    except (MocoError, OSError):
        raise
    except Exception as error:  # whatever a library says of a file that it does not take
        reason = " ".join(str(error).split())
        raise WrongExportError(
            f"{kind.library} does not load the export ({reason:.300}); nothing is kept of it"
        ) from error


def _is_export(folder: Path) -> bool:
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("made_by") == "moco export"


def _record(folder: Path, kind: Format, source: ExportSource, check: Check) -> dict[str, object]:
    """Return what export.json says."""
    names = sorted(path.name for path in folder.iterdir() if path.name != README)
    return {
        "made_by": "moco export",
        "version": __version__,
        "format": kind.name,
        "backbone": source.encoder.backbone,
        "features": source.features,
        "checked_by": check.by,
        "largest_difference": check.difference,
        "files": {name: {"sha256": _sha256(folder / name)} for name in names},
    }


def _put(aside: Path, out: Path) -> None:
    """Sync what was written and give it its name; an earlier export makes way whole."""
    for path in [*aside.iterdir(), aside]:
        _sync(path)
    before = out.parent / f".{out.name}.old-{os.getpid()}"
    if os.path.lexists(out):
        os.rename(out, before)
    try:
        os.rename(aside, out)
    except OSError:
        if os.path.lexists(before):
            os.rename(before, out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot sync a directory
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
