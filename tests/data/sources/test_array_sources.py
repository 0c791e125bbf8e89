from __future__ import annotations

import gzip
import io
import pickle
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from any_damage import check_errors, open_with_labels, same_draws
from hypothesis import given
from hypothesis import strategies as st
from source_makers import idx, save_array

from moco.data.images import UnreadableImageError
from moco.data.sources import arrays
from moco.data.sources.opening import open_images
from moco.errors import DataError

DRAW = np.random.default_rng(2)
GREY = DRAW.integers(0, 256, (5, 9, 11), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (5, 9, 11, 3), dtype=np.uint8)


class Trap:
    """An object whose loading would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # of the stack, of an image
    "grey": ((2, 9, 11), (9, 11, 1)),
    "channels last": ((2, 9, 11, 3), (9, 11, 3)),
    "channels first": ((2, 3, 9, 11), (9, 11, 3)),
    "one channel first": ((2, 1, 9, 11), (9, 11, 1)),
    "twelve bands": ((2, 12, 64, 64), (64, 64, 12)),
    "all equal": ((2, 5, 5, 5), (5, 5, 5)),
    "narrow": ((2, 3, 50, 3), (3, 50, 3)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_smaller_side_holds_the_channels(kind: str, tmp_path: Path) -> None:
    shape, expected = SHAPES[kind]
    stack = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    images = open_images(save_array(tmp_path / "x.npy", stack))
    assert len(images) == 2
    assert images.read(1).shape == expected
    last = stack[1].reshape(expected) if expected[2] == 1 else stack[1]
    first = last.shape != expected
    np.testing.assert_array_equal(images.read(1), last.transpose(1, 2, 0) if first else last)


TYPES = {
    "uint8": "uint8",
    "uint16": "uint16",
    ">u2": "uint16",
    "float32": "float32",
    ">f4": "float32",
    "float64": "float32",
    "float16": "float32",
    "int8": "float32",
    "int16": "float32",
    "bool": "uint8",
}


@pytest.mark.parametrize("stored", TYPES)
def test_types_of_values(stored: str, tmp_path: Path) -> None:
    stack = (GREY.astype(np.int64) - (100 if "int" in stored and "u" not in stored else 0)) // 2
    stack = stack.astype(stored)
    read = open_images(save_array(tmp_path / "x.npy", stack)).read(3)
    assert read.dtype == np.dtype(TYPES[stored])
    assert read.dtype.isnative
    np.testing.assert_array_equal(read[:, :, 0], stack[3] * (255 if stored == "bool" else 1))


@pytest.mark.parametrize("stored", ["int32", "uint32", "int64", "complex64", "U3", "datetime64[s]"])
def test_types_that_cannot_be_pixels_are_refused(stored: str, tmp_path: Path) -> None:
    path = save_array(tmp_path / "x.npy", np.zeros((2, 9, 9), stored))
    with pytest.raises(DataError, match=r"values cannot be pixels; convert them with \.astype"):
        open_images(path)


def test_values_that_are_no_numbers_are_one_bad_image(tmp_path: Path) -> None:
    stack = np.ones((3, 9, 9), np.float64)
    stack[1, 2, 3], stack[2, 0, 0] = np.nan, 1e300
    images = open_images(save_array(tmp_path / "x.npy", stack))
    assert images.read(0).max() == 1
    for number in (1, 2):
        with pytest.raises(UnreadableImageError, match="infinite or not a number"):
            images.read(number)


BAD_SHAPES = {
    (9, 9): "has shape",
    (9,): "has shape",
    (): "has shape",
    (1, 2, 3, 4, 5): "has shape",
    (0, 9, 9): "no image in it",
    (4, 0, 9, 3): "no image in it",
    (480, 640, 3): "looks like one image",
}


@pytest.mark.parametrize("shape", BAD_SHAPES)
def test_shapes_that_are_no_stack_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=BAD_SHAPES[shape]):
        open_images(save_array(tmp_path / "x.npy", np.zeros(shape, np.uint8)))


def header(text: str, version: bytes = b"\1\0") -> bytes:
    body = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(body).to_bytes(2, "little") + body


PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"
HOSTILE = {
    "huge": (header(PLAIN % "(1000000000000, 64, 64)"), "promises .* it was cut off"),
    "beyond 64 bits": (header(PLAIN % f"({10**30}, 64, 64)"), "promises"),
    "huge image": (header(PLAIN % "(1, 1000000, 1000000)"), "over 1 GiB"),
    "negative": (header(PLAIN % "(-1, -64, 64)"), "header is damaged"),
    "bool": (header(PLAIN % "(True, 64, 64)"), "header is damaged"),
    "code": (header(PLAIN % "(__import__('os').system('touch canary'), 2, 2)"), "not a usable"),
    "deep": (header("(" * 5000), "not a usable"),
    "long": (header(PLAIN % "(1, 2, 3)" + " " * 20_000), "not a usable"),
    "open quote": (header("{'descr"), "not a usable"),
    "version": (header(PLAIN % "(1, 2, 3)", b"\3\0"), "version"),
    "text": (b"<!DOCTYPE html>", "not a usable NumPy file"),
    "empty": (b"", "not a usable NumPy file"),
    "short": (b"\x93NUMPY\1\0\xff\xff{", "not a usable NumPy file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, reason = HOSTILE[kind]
    (tmp_path / "x.npy").write_bytes(content + bytes(100))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content + bytes(100))
    for name in ("x.npy", "x.npz"):
        began = time.process_time()
        with pytest.raises(DataError) as caught:
            open_images(tmp_path / name)
        assert time.process_time() - began < 1
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=reason):
        open_images(tmp_path / "x.npy")
    assert not (tmp_path / "canary").exists()


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    trap = np.empty((2, 9, 9), object)
    trap[:] = Trap(tmp_path / "canary")
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=trap)
    np.savez(tmp_path / "y.npz", images=GREY, labels=trap[:, 0, 0])
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match="Python objects"):
            open_images(tmp_path / name)
    assert open_images(tmp_path / "y.npz").labels() is None
    with pytest.raises(DataError, match="cannot be unpacked"):  # were it put there meanwhile
        arrays.read_array(tmp_path / "x.npz", "images")
    (tmp_path / "z.npy").write_bytes(pickle.dumps(Trap(tmp_path / "canary")))
    with pytest.raises(DataError, match="not a usable NumPy file"):
        open_images(tmp_path / "z.npy")
    assert not (tmp_path / "canary").exists()


def test_fortran_order_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = save_array(tmp_path / "x.npy", np.asfortranarray(GREY))
    with pytest.raises(DataError, match=r"numpy\.ascontiguousarray"):
        open_images(path)


def test_an_array_is_read_from_disk_image_by_image(tmp_path: Path) -> None:
    stack = np.zeros((200, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=stack)
    save_array(tmp_path / "x.npy", stack)
    for name in ("x.npy", "x.npz"):
        tracemalloc.start()
        images = open_images(tmp_path / name)
        images.read(150)
        assert tracemalloc.get_traced_memory()[1] < stack.nbytes / 5
        tracemalloc.stop()


def test_a_file_that_was_cut_meanwhile_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    images = open_images(save_array(tmp_path / "x.npy", COLOUR))
    with open(tmp_path / "x.npy", "r+b") as file:
        file.truncate(500)
    assert images.read(0).shape == (9, 11, 3)
    with pytest.raises(UnreadableImageError, match="ends before"):
        images.read(4)


ARCHIVES: dict[str, tuple[dict[str, np.ndarray], str | None]] = {  # arrays; images, or why not
    "keras": ({"x_train": COLOUR, "y_train": np.ones((5, 1)), "x_test": COLOUR[:2]}, "x_train"),
    "unnamed": ({"arr_0": COLOUR, "arr_1": np.arange(5)}, "arr_0"),
    "only one": ({"scans": GREY, "ages": np.arange(5.0)}, "scans"),
    "x and images": ({"x": GREY[:1], "images": GREY}, "images"),
    "two": ({"left": GREY, "right": GREY}, None),
    "none": ({"ages": np.arange(5)}, None),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_which_array_holds_the_images(kind: str, packed: bool, tmp_path: Path) -> None:
    arrays, wanted = ARCHIVES[kind]
    (np.savez_compressed if packed else np.savez)(tmp_path / "x.npz", **arrays)
    if wanted is None:
        with pytest.raises(DataError, match="Call it images; found"):
            open_images(tmp_path / "x.npz")
        return
    images = open_images(tmp_path / "x.npz")
    assert len(images) == len(arrays[wanted])
    np.testing.assert_array_equal(images.read(0).squeeze(), arrays[wanted][0])


LABELS: dict[str, tuple[np.ndarray, list[str] | None]] = {
    "numbers": (np.array([3, 1, 4, 1, 5]), ["3", "1", "4", "1", "5"]),
    "a column": (np.array([[3], [1], [4], [1], [5]], np.uint8), ["3", "1", "4", "1", "5"]),
    "text": (np.array(list("abcde")), list("abcde")),
    "bytes": (np.array(list("abcde")).astype("S"), list("abcde")),
    "too few": (np.arange(4), None),
    "one-hot": (np.eye(5, dtype=int), None),
    "fractions": (np.arange(5.0), None),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_beside_the_images(kind: str, packed: bool, tmp_path: Path) -> None:
    labels, expected = LABELS[kind]
    save = np.savez_compressed if packed else np.savez
    save(tmp_path / "x.npz", images=GREY, labels=labels)
    images = open_images(tmp_path / "x.npz")
    if expected is None:
        with pytest.raises(DataError, match="one integer or text for each of the 5 images"):
            images.labels()
    else:
        assert images.labels() == expected


def test_archives_that_are_bombs_or_damaged_are_refused(tmp_path: Path) -> None:
    zeros = io.BytesIO()
    np.save(zeros, np.zeros((70, 1024, 1024), np.uint8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", zeros.getvalue())
    assert (tmp_path / "x.npz").stat().st_size < 200_000
    del zeros
    tracemalloc.start()
    with pytest.raises(DataError, match=r"too many for the memory; save it by numpy\.save"):
        open_images(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    np.savez_compressed(tmp_path / "y.npz", images=COLOUR)
    whole = bytearray((tmp_path / "y.npz").read_bytes())
    whole[300:320] = bytes(20)
    (tmp_path / "y.npz").write_bytes(whole)
    with pytest.raises(DataError):
        open_images(tmp_path / "y.npz")


@same_draws(80)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(["x.npy", "x.npz", "packed.npz"]))
    if name == "x.npy":
        save_array(tmp_path / name, COLOUR)
    else:
        save = np.savez if name == "x.npz" else np.savez_compressed
        save(tmp_path / name, images=COLOUR, labels=np.arange(5))
    content = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        from_end = data.draw(st.booleans())
        place = data.draw(st.integers(0, 250))
        content[-place if from_end else place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    (tmp_path / name).write_bytes(content)
    check_errors(lambda: open_with_labels(tmp_path / name))


CIFAR_SIZES = {
    0: "has 0 bytes",
    3073 * 2 - 1: "cut off, or no binary",
    27648: "no multiple of 3073",
}


@pytest.mark.parametrize("size", CIFAR_SIZES)
def test_files_that_are_no_cifar_are_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=CIFAR_SIZES[size]):
        open_images(tmp_path / "x.bin")


def test_single_cifar_files_and_their_classes(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes([7]) + bytes(3072))
    images = open_images(tmp_path / "test_batch.bin")
    assert images.labels() == ["7"]
    assert images.name(0) == "test_batch.bin row 0"
    assert len(open_images(tmp_path)) == 1
    (tmp_path / "test.bin").write_bytes(bytes([3, 99]) + bytes(3072))
    assert open_images(tmp_path / "test.bin").labels() == ["99"]
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match="row 0 has class 10; CIFAR-10 has 10 classes"):
        open_images(tmp_path / "test_batch.bin")
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(3000))
    with pytest.raises(DataError, match=r"data_batch_2\.bin has 3000 bytes"):
        open_images(tmp_path)


def test_pickled_cifar_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for name in ("data_batch_1", "batches.meta"):
        (tmp_path / name).write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(DataError, match="use its binary version"):
        open_images(tmp_path)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_of_grey_images_by_their_names(end: str, tmp_path: Path) -> None:
    write = gzip.compress if end else bytes
    below = tmp_path / "MNIST" / "raw"
    below.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 2)):
        for mark in "-.":
            (below / f"{part}-images{mark}idx3-ubyte{end}").write_bytes(write(idx(GREY[:count])))
            labels = idx(np.arange(count, dtype=np.uint8) + count)
            (below / f"{part}-labels{mark}idx1-ubyte{end}").write_bytes(write(labels))
    assert len(open_images(tmp_path)) == 5
    for mark in "-.":
        images = open_images(below / f"t10k-images{mark}idx3-ubyte{end}")
        np.testing.assert_array_equal(images.read(1)[:, :, 0], GREY[1])
        assert images.labels() == ["2", "3"]
    (below / f"t10k-labels-idx1-ubyte{end}").unlink()
    assert open_images(below / f"t10k-images-idx3-ubyte{end}").labels() is None
    (below / f"t10k-labels-idx1-ubyte{end}").write_bytes(write(idx(np.zeros(3, np.uint8))))
    with pytest.raises(DataError, match="has 3 labels, expected 2"):
        open_images(below / f"t10k-images-idx3-ubyte{end}").labels()


BAD_IDX = {
    "short": (idx(GREY)[:-1], "expected 51[01]|expected 495"),
    "long": (idx(GREY) + b"x", "expected"),
    "labels": (idx(GREY[0, 0]), "begins with 0x00000801, expected 0x00000803 or 0x00000804"),
    "other type": (b"\0\0\x0d\3" + idx(GREY)[4:], "begins with 0x00000d03"),
    "empty": (b"", "begins with 0x, expected"),
    "three bytes": (b"\0\0\x08", "begins with 0x000008, expected"),
    "no axes": (b"\0\0\x08\0", "begins with 0x00000800, expected"),
    "half a header": (b"\0\0\x08\3" + bytes(5), "ends within its header; .* copy it again"),
    "no image": (idx(GREY[:0]), "no image in it"),
    "huge": (b"\0\0\x08\3" + b"\xff" * 12, "over 1 GiB|expected"),
    "many": (b"\0\0\x08\3\xff\xff\xff\xff\0\0\0\x20\0\0\0\x20", "expected|promises"),
}


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("kind", BAD_IDX)
def test_idx_files_whose_size_does_not_fit_are_refused(kind: str, end: str, tmp_path: Path) -> None:
    content, reason = BAD_IDX[kind]
    path = tmp_path / f"train-images-idx3-ubyte{end}"
    path.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(DataError, match=reason):
        open_images(path)


def test_compressed_idx_bombs_are_refused(tmp_path: Path) -> None:
    shape = (70 * 1024, 32, 32)
    head = b"\0\0\x08\3" + b"".join(side.to_bytes(4, "big") for side in shape)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(head + bytes(70 << 20)))
    tracemalloc.start()
    with pytest.raises(DataError, match="unpack it by gunzip"):
        open_images(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    path.write_bytes(gzip.compress(idx(GREY) + bytes(70 << 20)))  # more than it promises
    tracemalloc.start()
    with pytest.raises(DataError, match="has more values"):
        open_images(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    path.write_bytes(gzip.compress(idx(GREY))[:-20])
    with pytest.raises(DataError, match="cannot be unpacked"):
        open_images(path)
