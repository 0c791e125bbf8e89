"""A folder of images turned into every format, and damaged or hostile files; for the tests only."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from moco.data.sources.folder import find_images

CLASSES = ("bird", "cat", "dog")
SIDE = 32


def png(draw: np.random.Generator | int = 0, shape: tuple[int, ...] = (8, 8, 3)) -> bytes:
    """Return a PNG of random pixels."""
    pixels = np.random.default_rng(draw).integers(0, 256, shape, dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def make_folder(folder: Path) -> Path:
    """Write 24 images of 32 x 32 pixels: PNG and JPEG, grey and colour, in nested folders."""
    draw = np.random.default_rng(5)
    for number in range(24):
        grey = number % 5 == 0
        corners = draw.integers(0, 256, (4, 4) if grey else (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        below = folder / CLASSES[number % 3] / ("deep/er" if number % 4 == 0 else "")
        below.mkdir(parents=True, exist_ok=True)
        kind, suffix = [("PNG", ".png"), ("JPEG", ".JPG"), ("JPEG", ".jpeg")][number % 3 - 1]
        (below / f"{(number * 7) % 24:02}{suffix}").write_bytes(encoded(image, kind))
    return folder


def names_in(folder: Path) -> list[str]:
    return find_images(folder)


def labels_in(folder: Path) -> list[str]:
    return [name.split("/")[0] for name in find_images(folder)]


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = b"0") -> None:
    """Add a member of any name and kind to a tar archive."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content)
    archive.addfile(member, io.BytesIO(content))


def write_tar(path: Path, files: dict[str, bytes], *, format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in files.items():
            add(archive, name, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


def tar_as(format: int) -> Callable[[Path, Path], Path]:
    def make(folder: Path, out: Path) -> Path:
        return write_tar(out / "images.tar", contents(folder), format=format)

    return make


def shards(folder: Path, out: Path) -> Path:
    files = list(contents(folder).items())
    for number in range(3):
        write_tar(out / f"train-{number:06}.tar", dict(files[8 * number : 8 * number + 8]))
    return out


def shard_pattern(folder: Path, out: Path) -> Path:
    return shards(folder, out) / "train-{000000..000002}.tar"


def shard_glob(folder: Path, out: Path) -> Path:
    return shards(folder, out) / "train-*.tar"


def web_dataset(folder: Path, out: Path) -> Path:
    """Write shards by webdataset itself, labels in .cls files."""
    with webdataset.ShardWriter(str(out / "w-%03d.tar"), maxcount=10, verbose=0) as writer:
        for number, (name, content) in enumerate(contents(folder).items()):
            suffix = name.rpartition(".")[2]
            label = name.split("/")[0]
            writer.write({"__key__": f"{number:05}", suffix: content, "cls": label.encode()})
    return out


def json_labels(folder: Path, out: Path) -> Path:
    files: dict[str, bytes] = {}
    for number, (name, content) in enumerate(contents(folder).items()):
        files[f"{number:05}.{name.rpartition('.')[2]}"] = content
        files[f"{number:05}.json"] = json.dumps({"label": name.split("/")[0]}).encode()
    return write_tar(out / "j.tar", files)


def zip_as(method: int) -> Callable[[Path, Path], Path]:
    def make(folder: Path, out: Path) -> Path:
        with zipfile.ZipFile(out / "images.zip", "w", method) as archive:
            for name, content in reversed(contents(folder).items()):
                archive.writestr(name, content)
            archive.writestr("notes.txt", "no image")
            archive.writestr("__MACOSX/._1.png", "no image either")
        return out / "images.zip"

    return make


def list_with_header(folder: Path, out: Path) -> Path:
    with open(out / "list.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "Target", "Image_Path"])
        for number, name in enumerate(names_in(folder)):
            rows.writerow([number, name.split("/")[0], folder / name])
    return out / "list.csv"


def list_without_header(folder: Path, out: Path) -> Path:
    (out / "images").symlink_to(folder, target_is_directory=True)
    lines = [f"images/{name}\t{name.split('/')[0]}\r\n" for name in names_in(folder)]
    (out / "list.tsv").write_text("".join(lines), newline="")
    return out / "list.tsv"


def list_of_paths(folder: Path, out: Path) -> Path:
    lines = [f"{folder / name} {name.split('/')[0]}" for name in names_in(folder)]
    (out / "list.txt").write_text("# made for a test\n\n" + "\n".join(lines))
    return out / "list.txt"


def parquet_of_structs(folder: Path, out: Path) -> Path:
    """Write files as `datasets` does: structs of bytes and path, class names beside."""
    files = list(contents(folder).items())
    feature = {"names": list(CLASSES), "_type": "ClassLabel"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (out / "data").mkdir()
    for number in range(2):
        part = files[12 * number : 12 * number + 12]
        table = pa.table(
            {
                "image": pa.array([{"bytes": data, "path": name} for name, data in part], kind),
                "label": pa.array([CLASSES.index(name.split("/")[0]) for name, _ in part]),
            }
        ).replace_schema_metadata({"huggingface": json.dumps(info)})
        place = out / "data" / f"train-{number:05}-of-00002.parquet"
        pq.write_table(table, place, row_group_size=5)
    return out


def parquet_of_bytes(folder: Path, out: Path) -> Path:
    table = pa.table(
        {
            "id": list(range(24)),
            "picture": pa.array(list(contents(folder).values()), pa.large_binary()),
            "labels": pa.array(labels_in(folder)),
        }
    )
    pq.write_table(table, out / "x.parquet", row_group_size=7)
    return out / "x.parquet"


ENCODED: dict[str, Callable[[Path, Path], Path]] = {
    "folder": lambda folder, _: folder,
    "list with header": list_with_header,
    "list without header": list_without_header,
    "list of paths": list_of_paths,
    "zip stored": zip_as(zipfile.ZIP_STORED),
    "zip deflated": zip_as(zipfile.ZIP_DEFLATED),
    "tar ustar": tar_as(tarfile.USTAR_FORMAT),
    "tar gnu": tar_as(tarfile.GNU_FORMAT),
    "tar pax": tar_as(tarfile.PAX_FORMAT),
    "tar shards": shards,
    "tar pattern": shard_pattern,
    "tar glob": shard_glob,
    "webdataset": web_dataset,
    "json labels": json_labels,
    "parquet structs": parquet_of_structs,
    "parquet bytes": parquet_of_bytes,
}
"""Formats that keep the encoded files; each maker takes the folder and an empty one."""


def save_array(path: Path, stack: np.ndarray) -> Path:
    np.save(path, stack)
    return path


def save_arrays(path: Path, stack: np.ndarray, labels: Sequence[str], *, packed: bool) -> Path:
    (np.savez_compressed if packed else np.savez)(path, images=stack, labels=np.array(labels))
    return path


def cifar(stack: np.ndarray, labels: Sequence[str], out: Path, *, hundred: bool = False) -> Path:
    """Write binary CIFAR files of a stack [N, 32, 32, 3]."""
    codes = np.array([[CLASSES.index(label)] for label in labels], np.uint8)
    planes = stack.transpose(0, 3, 1, 2).reshape(len(stack), -1)
    head = [np.full_like(codes, 77), codes] if hundred else [codes]
    records = np.concatenate([*head, planes], axis=1)
    names = "\n".join(CLASSES) + "\n\n"
    (out / ("fine_label_names.txt" if hundred else "batches.meta.txt")).write_text(names)
    if hundred:
        (out / "train.bin").write_bytes(records.tobytes())
        (out / "test.bin").write_bytes(records[:3].tobytes())
        return out
    for number in range(2):
        part = records[12 * number : 12 * number + 12]
        (out / f"data_batch_{number + 1}.bin").write_bytes(part.tobytes())
    (out / "test_batch.bin").write_bytes(records[:5].tobytes())
    return out


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()


def idx_files(stack: np.ndarray, labels: Sequence[str], out: Path, *, packed: bool) -> Path:
    """Write IDX files of a stack with labels beside; returns the folder."""
    codes = np.array([CLASSES.index(label) for label in labels], np.uint8)
    end = ".gz" if packed else ""
    write = gzip.compress if packed else bytes
    (out / f"train-images-idx{stack.ndim}-ubyte{end}").write_bytes(write(idx(stack)))
    (out / f"train-labels-idx1-ubyte{end}").write_bytes(write(idx(codes)))
    (out / f"t10k-images-idx{stack.ndim}-ubyte{end}").write_bytes(write(idx(stack[:2])))
    return out
