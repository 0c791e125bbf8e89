from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from moco.data.images import (
    IMAGE_SUFFIXES,
    FolderImages,
    SequenceImages,
    UnreadableImageError,
    decode,
    find_images,
    to_grey_or_rgb,
)
from moco.errors import DataError

DRAW = np.random.default_rng(0)
COLOUR = DRAW.integers(0, 256, (12, 20, 3), dtype=np.uint8)
GREY = DRAW.integers(0, 256, (12, 20), dtype=np.uint8)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(Image.fromarray(GREY)))


def test_finds_nested_images_sorted_and_leaves_other_files_alone(tmp_path: Path) -> None:
    wanted = [".hidden/a.jpg", "a/b/c/deep.PNG", "a/x.jpeg", "b.gif", "b/1.webp", "b/10.webp"]
    touch(tmp_path, *reversed(wanted))
    touch(tmp_path, "notes.txt", "a/labels.csv", "b/png", "b/image.png.bak", "c/.gitignore")
    assert find_images(tmp_path) == wanted
    images = FolderImages(tmp_path)
    assert [images.name(number) for number in range(len(images))] == wanted
    assert images.path(1) == tmp_path / "a/b/c/deep.PNG"


def test_every_suffix_counts_in_either_case(tmp_path: Path) -> None:
    names = sorted(f"x{suffix}" for suffix in IMAGE_SUFFIXES)
    touch(tmp_path, *names, *(f"upper/X{suffix.upper()}" for suffix in IMAGE_SUFFIXES))
    assert len(find_images(tmp_path)) == 2 * len(IMAGE_SUFFIXES)


def test_order_does_not_depend_on_how_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "a.png", "a-b/1.png", "a/0.png")
    monkeypatch.chdir(tmp_path)
    relative, absolute = find_images(Path()), find_images(tmp_path)
    assert relative == absolute == find_images(tmp_path / "a" / "..") == sorted(absolute)


def test_a_missing_folder_a_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_images(tmp_path / "none")
    touch(tmp_path, "x.png")
    with pytest.raises(DataError, match="is a file, not a folder"):
        find_images(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no image below .*empty; files that count end in .*\.png"):
        find_images(tmp_path / "empty")


TRANSPARENT_PALETTE = Image.fromarray(COLOUR).quantize(16)
MODES: dict[str, tuple[bytes, np.ndarray]] = {  # a file, and the pixels it should give
    "colour": (encoded(Image.fromarray(COLOUR)), COLOUR),
    "grey": (encoded(Image.fromarray(GREY)), GREY),
    "palette": (
        encoded(Image.fromarray(COLOUR).quantize(16)),
        pixels(Image.fromarray(COLOUR).quantize(16).convert("RGB")),
    ),
    "palette with transparency": (
        encoded(TRANSPARENT_PALETTE, transparency=bytes(range(0, 256, 16))),
        pixels(TRANSPARENT_PALETTE.convert("RGB")),
    ),
    "gif": (
        encoded(Image.fromarray(COLOUR).quantize(16), "GIF"),
        pixels(Image.fromarray(COLOUR).quantize(16).convert("RGB")),
    ),
    "alpha": (encoded(Image.fromarray(np.dstack([COLOUR, GREY]))), COLOUR),
    "one bit": (
        encoded(Image.fromarray(GREY > 127)),
        ((GREY > 127) * 255).astype(np.uint8),
    ),
    "bmp": (encoded(Image.fromarray(COLOUR), "BMP"), COLOUR),
    "ppm": (encoded(Image.fromarray(COLOUR), "PPM"), COLOUR),
    "pgm": (encoded(Image.fromarray(GREY), "PPM"), GREY),
    "tiff": (encoded(Image.fromarray(COLOUR), "TIFF"), COLOUR),
    "webp": (encoded(Image.fromarray(COLOUR), "WEBP", lossless=True), COLOUR),
}


@pytest.mark.parametrize("kind", MODES)
def test_every_kind_of_file_gives_its_pixels(kind: str, tmp_path: Path) -> None:
    content, expected = MODES[kind]
    path = tmp_path / "x.png"  # the content decides, not the suffix
    path.write_bytes(content)
    image = decode(path)
    assert image.mode == ("L" if expected.ndim == 2 else "RGB")
    np.testing.assert_array_equal(pixels(image), expected)


def test_grey_with_alpha_and_cmyk_are_near_their_colours(tmp_path: Path) -> None:
    with_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (20, 12), 99)])
    with_alpha.save(tmp_path / "la.png")
    np.testing.assert_array_equal(pixels(decode(tmp_path / "la.png")), np.dstack([GREY] * 3))
    flat = Image.new("RGB", (32, 32), (200, 100, 50))
    flat.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    image = decode(tmp_path / "cmyk.jpg")
    assert image.mode == "RGB"
    np.testing.assert_allclose(pixels(image), pixels(flat), atol=4)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 12 * 20).round().astype(np.uint16).reshape(12, 20)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = decode(tmp_path / "deep.png")
    assert image.mode == "L"
    assert np.abs(pixels(image) / 255 - deep / 65535).max() <= 1 / 255
    assert (pixels(image).min(), pixels(image).max()) == (0, 255)


SIDES: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how each orientation stores an image
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("upright", [COLOUR, GREY], ids=["colour", "grey"])
def test_pictures_are_turned_upright(orientation: int, upright: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(SIDES[orientation](upright))
    Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(pixels(decode(tmp_path / "x.png")), upright)


def png_claiming(width: int, height: int) -> bytes:
    """Return a valid 1-bit PNG of that size, all black."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.timeout(20)
def test_a_bomb_is_refused_quickly(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(20000, 20000))
    began = time.process_time()
    with pytest.raises(UnreadableImageError, match="400000000 pixels"):
        decode(tmp_path / "bomb.png")
    assert time.process_time() - began < 0.5
    (tmp_path / "small.png").write_bytes(png_claiming(200, 100))  # the same maker, no bomb
    assert decode(tmp_path / "small.png").size == (200, 100)


PICTURE = Image.fromarray(COLOUR)
BROKEN = {
    "text.jpg": b"not an image at all\n",
    "empty.png": b"",
    "nul.png": bytes(1000),
    "cut.jpg": encoded(PICTURE, "JPEG")[:-200],
    "cut.png": encoded(PICTURE)[:-300],
    "cut.gif": encoded(PICTURE.quantize(16), "GIF")[:-100],
    "cut.webp": encoded(PICTURE, "WEBP")[:60],
    "cut.tif": encoded(PICTURE, "TIFF")[:100],
    "cut.bmp": encoded(PICTURE, "BMP")[:100],
    "header.png": encoded(PICTURE)[:20],
    "html.webp": b"<!DOCTYPE html><html><body>404</body></html>",
    "archive.png": b"PK\x03\x04" + bytes(50),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_say_why(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BROKEN[name])
    images = FolderImages(tmp_path)
    for _ in range(2):
        with pytest.raises(UnreadableImageError) as caught:
            images.read(0)
        assert str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_a_file_of_a_kind_that_starts_another_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *call: started.append(call))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "x.jpg").write_bytes(script)
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / "x.jpg")
    assert not started


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "none.jpg")
    images = FolderImages(tmp_path)
    assert len(images) == 3
    for number in range(3):
        with pytest.raises(UnreadableImageError, match="regular file"):
            images.read(number)


def test_folders_named_like_images_and_circles_of_links_are_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg/inside.png")
    (tmp_path / "x.jpg" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked.png").symlink_to(tmp_path / "x.jpg" / "inside.png")
    images = FolderImages(tmp_path)
    assert images.paths == ["linked.png", "x.jpg/inside.png"]
    np.testing.assert_array_equal(pixels(images.read(0)), GREY)


ODD_NAMES = ["new\nline.png", "café 日本.png", "x" * 246 + ".png", "-rf.png", "'\"$(x).png"]


def test_odd_names_are_read(tmp_path: Path) -> None:
    touch(tmp_path, *ODD_NAMES)
    not_text = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(not_text, "wb") as file:
        file.write(encoded(PICTURE))
    images = FolderImages(tmp_path)
    assert len(images) == len(ODD_NAMES) + 1
    assert {images.name(number) for number in range(len(images))} >= set(ODD_NAMES)
    for number in range(len(images)):
        images.read(number)


def mangled(content: bytes, draw: np.random.Generator) -> bytes:
    """Return the file with a few bytes changed near its beginning, at times cut short."""
    changed = bytearray(content)
    for _ in range(draw.integers(1, 6)):
        place = min(len(changed) - 1, int(draw.exponential(80)))
        changed[place] = int(draw.choice([0, 255, draw.integers(256)]))
    return bytes(changed[: draw.integers(len(changed))] if draw.random() < 0.2 else changed)


# Pillow complains of damage in words too
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damage_never_shows_as_any_other_error(tmp_path: Path) -> None:
    draw, outcomes = np.random.default_rng(3), {True: 0, False: 0}
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(PICTURE, "JPEG", exif=exif)
    whole = [jpeg, *(content for content, _ in MODES.values())]
    for number in range(400):
        path = tmp_path / "x.png"
        path.write_bytes(mangled(whole[number % len(whole)], draw))
        try:
            outcomes[decode(path).mode in ("L", "RGB")] += 1
        except UnreadableImageError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 40


def test_pillows_doubts_about_a_readable_file_are_not_shown(tmp_path: Path) -> None:
    broken_exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x09\x00\x12\x01"
    (tmp_path / "x.jpg").write_bytes(encoded(PICTURE, "JPEG", exif=broken_exif))
    assert decode(tmp_path / "x.jpg").size == PICTURE.size  # a warning would be an error here


def held_bytes(images: FolderImages) -> int:
    """Return what the cached images take in memory: Pillow keeps four bytes for a colour pixel."""
    return sum(
        image.width * image.height * (1 if image.mode == "L" else 4)
        for image in images.cached.values()
    )


@pytest.mark.parametrize("limit", [0, 100, 5_000, 40_000, 10**9])
def test_the_cache_stays_under_its_limit(photos: Path, limit: int) -> None:
    images = FolderImages(photos, cache_bytes=limit)
    for _ in range(2):
        for number in range(len(images)):
            images.read(number)
    assert held_bytes(images) <= limit
    assert (len(images.cached) == len(images)) == (limit == 10**9)
    assert bool(images.cached) == (limit >= 5_000)


def test_a_cached_image_is_not_read_again(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    cached, uncached = FolderImages(tmp_path, cache_bytes=1000), FolderImages(tmp_path)
    first = cached.read(0)
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(pixels(cached.read(0)), pixels(first))
    with pytest.raises(UnreadableImageError):
        uncached.read(0)


def test_a_sequence_of_pillow_images_serves_too() -> None:
    images = SequenceImages([Image.fromarray(GREY), PICTURE, PICTURE.quantize(4)])
    assert len(images) == 3
    assert [images.read(number).mode for number in range(3)] == ["L", "RGB", "RGB"]
    assert images.name(2) == "image 2"


def test_grey_or_rgb_keeps_what_is_so_already() -> None:
    np.testing.assert_array_equal(pixels(to_grey_or_rgb(Image.fromarray(GREY))), GREY)
    np.testing.assert_array_equal(pixels(to_grey_or_rgb(PICTURE)), COLOUR)


def test_linked_folders_are_walked_and_each_folder_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "cats/1.png", "dogs/2.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cats", "dogs"):
        (folder / name).symlink_to(tmp_path / "elsewhere" / name, target_is_directory=True)
    (folder / "zebras").symlink_to(tmp_path / "elsewhere" / "dogs", target_is_directory=True)
    assert find_images(folder) == ["cats/1.png", "dogs/2.png"]


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    scan = os.scandir

    def refusing(path: str) -> object:
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"folder .*b cannot be read \(Permission denied\)"):
        find_images(tmp_path)
