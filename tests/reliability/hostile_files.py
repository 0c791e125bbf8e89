"""Files of a checkpoint as an enemy would make them; each is bytes, or a function that makes it."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Make = Callable[[Path], bytes]
"""From the canary, which the payload makes if it runs, to the file."""


class Runs:
    """Unpickling it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def saved(state: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def as_torch_writes(
    pickled: bytes,
    *,
    name: str = "archive/data.pkl",
    more: tuple[tuple[str, bytes], ...] = (),
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=9) as archive:
        archive.writestr(name, pickled)
        for other, content in (("archive/byteorder", b"little"), ("archive/version", b"3\n")):
            archive.writestr(other, content)
        for other, content in more:
            archive.writestr(other, content)
    return file.getvalue()


def global_call(function: str, argument: bytes) -> bytes:
    """Return a pickle that calls a function with one pickled argument."""
    return (
        b"\x80\x02}X\4\0\0\0stepK\1sX\1\0\0\0x" + f"c{function}\n".encode() + argument + b"\x85R0."
    )


def tensor(size: bytes, stride: bytes, storage: bytes = b"M\x10\0") -> bytes:
    """Return a pickle of {"step": 1, "x": a tensor} of this size and stride, 16 bytes stored."""
    return (
        b"\x80\x02}(X\4\0\0\0stepK\1X\1\0\0\0xctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpu" + storage + b"tQ"
        b"K\0" + size + stride + b"\x89ccollections\nOrderedDict\n)RtRu."
    )


def legacy_tar(canary: Path) -> bytes:
    """Return the oldest of torch's formats with a payload."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Runs(canary), 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def doubling(times: int) -> bytes:
    """Return a pickle of {"step": 1, "x": a list in which one value stands 2**times times}."""
    lists = b"]q\0" + b"".join(
        b"0]q" + bytes([k + 1]) + b"(h" + bytes([k]) + b"h" + bytes([k]) + b"e"
        for k in range(times)
    )
    return b"\x80\x02" + lists + b"0}(X\4\0\0\0stepK\1X\1\0\0\0xh" + bytes([times]) + b"u."


def wide_locator() -> bytes:
    """Return a zip file whose wide directory is not where one reader looks for it."""
    whole = saved({"step": 1})
    at = whole.rindex(b"PK\6\7")
    return whole[: at + 8] + struct.pack("<Q", 40) + whole[at + 16 :]


TRAIN_STATES: dict[str, Make] = {
    "call": lambda canary: saved({"step": 1, "x": Runs(canary)}),
    "nested call": lambda canary: saved(
        {"step": 1, "optimizer": {"state": {0: [({"x": Runs(canary)},)]}}}
    ),
    "call as a name": lambda canary: saved({"step": 1, Runs(canary): 1}),
    "call, protocol 4": lambda canary: saved({"step": 1, "x": Runs(canary)}, pickle_protocol=4),
    "call, torch's older format": lambda canary: saved(
        {"step": 1, "x": Runs(canary)}, _use_new_zipfile_serialization=False
    ),
    "call, torch's oldest format": legacy_tar,
    "plain pickle": lambda canary: pickle.dumps({"step": 1, "x": Runs(canary)}),
    "eval": lambda canary: as_torch_writes(
        global_call(
            "__builtin__\neval", pickle.dumps(f"__import__('os').mkdir({str(canary)!r})", 0)[:-1]
        )
    ),
    "INST": lambda canary: as_torch_writes(
        b"\x80\x02}X\4\0\0\0stepK\1sX\1\0\0\0x("
        + pickle.dumps(str(canary), 0)[:-1]
        + b"ios\nmkdir\n0."
    ),
    "zip-slip": lambda canary: as_torch_writes(
        pickle.dumps({"step": 1}, 2), more=((f"../../..{canary}", b"x"), (str(canary), b"x"))
    ),
    "zip-slip, the pickle": lambda canary: as_torch_writes(
        pickle.dumps({"step": 1, "x": Runs(canary)}, 2), name="../../data.pkl"
    ),
    "Namespace": lambda _: saved({"step": 1, "x": argparse.Namespace(a=1)}),
    "two pickles": lambda canary: as_torch_writes(
        pickle.dumps({"step": 1}, 2),
        more=(("archive/DATA.pkl", pickle.dumps({"step": 1, "x": Runs(canary)}, 2)),),
    ),
    "a program of torch": lambda _: as_torch_writes(
        pickle.dumps({"step": 1}, 2),
        more=(("archive/constants.pkl", pickle.dumps((), 2)), ("archive/code/x.py", b"import os")),
    )[:-4],
    "unpacks to 200 MB": lambda _: as_torch_writes(
        tensor(b"K\4\x85", b"K\1\x85", b"J\x80\xf0\xfa\2"),
        more=(("archive/data/0", bytes(200_000_000)),),
        compression=zipfile.ZIP_DEFLATED,
    ),
    "storage of 4 TB": lambda _: as_torch_writes(
        tensor(b"K\4\x85", b"K\1\x85", b"\x8a\6\0\0\0\0\0\1"), more=(("archive/data/0", bytes(16)),)
    ),
    "tensor of 4 TB": lambda _: as_torch_writes(
        tensor(b"\x8a\6\0\0\0\0\0\1\x85", b"K\1\x85", b"K\4"),
        more=(("archive/data/0", bytes(16)),),
    ),
    "one number as 4 TB": lambda _: as_torch_writes(
        tensor(b"\x8a\6\0\0\0\0\0\1\x85", b"K\0\x85", b"K\4"),
        more=(("archive/data/0", bytes(16)),),
    ),
    "torch.Tensor of 40 GB": lambda _: as_torch_writes(
        global_call("torch\nTensor", b"\x8a\5\0\0\0\0\2")
    ),
    "bytearray of 8 GB": lambda _: as_torch_writes(
        global_call("__builtin__\nbytearray", b"\x8a\5\0\0\0\0\2")
    ),
    "a million keys": lambda _: saved({"step": 1, **{f"k{n}": n for n in range(1_000_000)}}),
    "20,000 empty tensors": lambda _: as_torch_writes(
        pickle.dumps({"step": 1}, 2), more=tuple((f"archive/data/{n}", b"") for n in range(20_000))
    ),
    "a million empty lists": lambda _: as_torch_writes(b"\x80\x02(" + b"]" * 1_000_000 + b"l."),
    "one list a billion times": lambda _: as_torch_writes(doubling(30)),
    "a list in itself": lambda _: as_torch_writes(
        b"\x80\x02}(X\4\0\0\0stepK\1X\1\0\0\0x]q\0h\0au."
    ),
    "cut pickle": lambda _: as_torch_writes(b"\x80\x02}X\xff\xff\xff\x7fstep"),
    "no directory": lambda _: saved({"step": 1})[:-30],
    "two directories": lambda _: wide_locator(),
    "empty zip": lambda _: b"PK\5\6" + bytes(18),
    "a list": lambda _: saved([1, 2]),
    "negative step": lambda _: saved({"step": -1, "optimizer": {}}),
}
RUNNING = (
    *("call", "nested call", "call as a name", "call, protocol 4", "plain pickle", "eval", "INST"),
    *("call, torch's older format", "call, torch's oldest format"),
)
"""Those that make the canary in a reader that trusts them."""


def safetensors(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def entry(shape: object, start: object, end: object) -> str:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}'


def named(**entries: str) -> bytes:
    return ("{" + ",".join(f'"{name}":{text}' for name, text in entries.items()) + "}").encode()


ONE = entry([1], 0, 4)
MODELS: dict[str, Make] = {
    "pickle": lambda canary: saved({"x": Runs(canary)}),
    "header of 2^63 bytes": lambda _: safetensors(b"{}", length=2**63),
    "header beyond the end": lambda _: safetensors(b"{}", length=100_000),
    "header of a gigabyte": lambda _: safetensors(b"{}", length=2**30),
    "seven bytes": lambda _: bytes(7),
    "overlap": lambda _: safetensors(named(a=ONE, b=ONE), bytes(4)),
    "hole": lambda _: safetensors(named(a=ONE, b=entry([1], 8, 12)), bytes(12)),
    "negative": lambda _: safetensors(named(a=entry([1], -4, 0)), bytes(4)),
    "negative shape": lambda _: safetensors(named(a=entry([-1], 0, 4)), bytes(4)),
    "one name twice": lambda _: safetensors(f'{{"a":{ONE},"a":{ONE}}}'.encode(), bytes(4)),
    "NaN": lambda _: safetensors(named(a=entry("[NaN]", 0, 4)), bytes(4)),
    "4 TB": lambda _: safetensors(named(a=entry([10**12], 0, 4 * 10**12)), bytes(4)),
    "product that overflows": lambda _: safetensors(named(a=entry([2**62, 4], 0, 0))),
    "a million keys": lambda _: safetensors(
        named(**{f"k{n}": entry([0], 0, 0) for n in range(1_000_000)})
    ),
    "deep": lambda _: safetensors(b'{"a":' + b"[" * 200_000),
    "other tensors": lambda _: safetensors(named(a=ONE), bytes(4)),
    "no tensors": lambda _: safetensors(b"{}"),
    "huge empty tensors": lambda _: safetensors(
        named(**{"encoder.backbone.conv1.weight": entry([0, 2**40], 0, 0)})
    ),
}

DEEP = b'{"recipe":' + b"[" * 100_000
RECIPES: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "deep": lambda _: DEEP,
    "100 MB": lambda about: json.dumps(about).encode() + b" " * 100_000_000,
    "100,000 keys": lambda about: json.dumps(
        {**about, **{f"k{n}": n for n in range(100_000)}}
    ).encode(),
    "list": lambda about: json.dumps([about]).encode(),
    "recipe of a list": lambda about: json.dumps({**about, "recipe": [1]}).encode(),
    "seed of text": lambda about: json.dumps({**about, "seed": "x"}).encode(),
    "endless seed": lambda about: (
        json.dumps({**about, "seed": 0}).replace('"seed": 0', '"seed": 1e999').encode()
    ),
    "long number": lambda about: (
        json.dumps({**about, "seed": 0}).replace('"seed": 0', '"seed": ' + "9" * 100_000).encode()
    ),
    "NaN": lambda about: changed(about, "temperature", float("nan")),
    "endless": lambda about: changed(about, "temperature", float("inf")),
    "unknown field": lambda about: changed(about, "code", "import os"),
    "wide": lambda about: changed(about, "encoder", {**about["recipe"]["encoder"], "width": 64}),
    "a million layers": lambda about: changed(
        about, "encoder", {**about["recipe"]["encoder"], "stage_blocks": [10**6, 1, 1, 1]}
    ),
    "large head": lambda about: changed(
        about, "encoder", {**about["recipe"]["encoder"], "head_width": 10**9}
    ),
    "network from elsewhere": lambda about: changed(
        about, "encoder", {**about["recipe"]["encoder"], "backbone": "hf-hub:a/b"}
    ),
    "way out": lambda about: changed(
        about, "encoder", {**about["recipe"]["encoder"], "backbone": "../../x"}
    ),
}


def changed(about: dict[str, Any], field: str, value: object) -> bytes:
    return json.dumps({**about, "recipe": {**about["recipe"], field: value}}).encode()


MANIFESTS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "deep": lambda _: b"[" * 100_000,
    "100 MB": lambda manifest: json.dumps(manifest).encode() + b" " * 100_000_000,
    "list": lambda manifest: json.dumps([manifest]).encode(),
    "files of text": lambda manifest: json.dumps({**manifest, "files": "abc"}).encode(),
    "files of pairs": lambda manifest: json.dumps({**manifest, "files": [[1, 2]]}).encode(),
    "sums of numbers": lambda manifest: json.dumps(
        {**manifest, "files": dict.fromkeys(manifest["files"], 7)}
    ).encode(),
    "endless version": lambda manifest: json.dumps(
        {**manifest, "format_version": float("inf")}
    ).encode(),
    "NaN version": lambda manifest: json.dumps(
        {**manifest, "format_version": float("nan")}
    ).encode(),
    "long version": lambda manifest: (
        json.dumps({**manifest, "format_version": 0})
        .replace('"format_version": 0', '"format_version": ' + "9" * 4000)
        .encode()
    ),
    "longer version": lambda manifest: (
        json.dumps({**manifest, "format_version": 0})
        .replace('"format_version": 0', '"format_version": ' + "9" * 100_000)
        .encode()
    ),
    "path up": lambda manifest: with_file(manifest, "../../../etc/passwd"),
    "absolute path": lambda manifest: with_file(manifest, "/etc/passwd"),
    "Windows path": lambda manifest: with_file(manifest, "..\\x"),
    "absolute path alone": lambda manifest: json.dumps(
        {**manifest, "files": {f"/x/{name}": sums for name, sums in manifest["files"].items()}}
    ).encode(),
    "negative sizes": lambda manifest: json.dumps(
        {**manifest, "files": {name: {"sha256": "", "bytes": -1} for name in manifest["files"]}}
    ).encode(),
}


def with_file(manifest: dict[str, Any], name: str) -> bytes:
    sums = {"sha256": "0" * 64, "bytes": 1}
    return json.dumps({**manifest, "files": {**manifest["files"], name: sums}}).encode()


def into_pipe(path: Path) -> None:
    os.mkfifo(path)


OTHER_KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": into_pipe,
    "folder": lambda path: path.mkdir(),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link out": lambda path: path.symlink_to("/etc/passwd"),
}


def match_manifest(folder: Path) -> None:
    """Write the manifest anew, as whoever made the files would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes() if (folder / name).is_file() else b""
        manifest["files"][name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
    path.write_text(json.dumps(manifest))


def copied(run: Path, to: Path) -> Path:
    """Return the only checkpoint of a copy of a run."""
    shutil.copytree(run, to)
    newest = sorted((to / "checkpoints").glob("step_*"))[-1]
    for other in (to / "checkpoints").iterdir():
        if other != newest:
            shutil.rmtree(other)
    return newest
