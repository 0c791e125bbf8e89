"""Which decoder is asked, what it may raise or say, and what Pillow's images become."""

from __future__ import annotations

import logging
import threading
import warnings

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin
from test_image_zoo import COLOUR, DEEP, FLOAT, GREY, NOISE, PALETTE, ZOO, array_file, encoded

from moco.data.decoding import bounds, decode, pixels_of
from moco.data.images import UnreadableImageError

MODES = {
    "1": (GREY > 127)[:, :, None] * np.uint8(255),
    "L": GREY[:, :, None],
    "LA": NOISE[:, :, :1],
    "La": None,
    "P": np.asarray(PALETTE.convert("RGB")),
    "PA": np.asarray(PALETTE.convert("RGB")),
    "RGB": NOISE,
    "RGBA": NOISE,
    "RGBX": NOISE,
    "RGBa": None,
    "CMYK": NOISE,  # black is 0
    "YCbCr": None,
    "LAB": None,
    "HSV": None,
    "I;16": DEEP[:, :, None],
    "I;16B": DEEP[:, :, None],
    "I": DEEP[:, :, None].astype(np.float32) * -3,
    "F": FLOAT[:, :, None],
}


def image_of(mode: str) -> Image.Image:
    """Return an image of a mode of Pillow's."""
    if mode in ("1", "L", "F"):
        return Image.fromarray({"1": GREY > 127, "L": GREY, "F": FLOAT}[mode])
    if mode == "I":
        return Image.fromarray(DEEP.astype(np.int32) * -3)
    if mode in ("P", "PA"):
        return PALETTE.convert(mode)
    if mode.startswith("I;16"):
        order = ">" if mode.endswith("B") else "<"
        return Image.frombytes(mode, (64, 48), DEEP.astype(order + "u2").tobytes())
    channels = NOISE
    if mode == "CMYK":
        channels = np.dstack([255 - NOISE, 0 * GREY])
    elif len(mode) == 4 and mode != "CMYK":
        channels = np.dstack([NOISE, GREY])
    elif mode in ("LA", "La"):
        channels = NOISE[:, :, :2]
    return Image.frombytes(mode, (64, 48), np.ascontiguousarray(channels).tobytes())


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_have_one_or_three_channels(mode: str) -> None:
    pixels, expected = pixels_of(image_of(mode)), MODES[mode]
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert pixels.dtype.isnative
    if expected is None:
        assert pixels.shape == (48, 64, 1 if mode == "La" else 3)
        assert pixels.std() > 9
    else:
        assert pixels.dtype == expected.dtype
        np.testing.assert_array_equal(pixels, expected)


def test_pixels_of_says_why_an_image_is_of_no_use() -> None:
    with pytest.raises(UnreadableImageError, match="no pixels"):
        pixels_of(Image.new("L", (0, 5)))
    with pytest.raises(UnreadableImageError, match="1 of 4 values are not finite"):
        pixels_of(Image.fromarray(np.array([[1, np.nan], [0, 2]], np.float32)))
    closed = Image.new("L", (5, 5))
    closed.close()
    with pytest.raises(UnreadableImageError):
        pixels_of(closed)


def test_numbers_that_are_not_finite_are_counted() -> None:
    values = np.zeros((64, 64), np.float32)
    values.flat[:12] = [np.nan, np.inf, -np.inf] * 4
    with pytest.raises(UnreadableImageError, match=r"^12 of 4096 values are not finite$"):
        decode(array_file(values))
    with pytest.raises(UnreadableImageError, match=r"^1 of 4 values are not finite$"):
        decode(array_file(np.array([[1, 2], [3, 1e300]])))  # too large for float32


@pytest.mark.parametrize(
    "error",
    [
        *(
            ValueError("a\n\x1b[31m" + "b" * 999),
            MemoryError(),
            RecursionError("deep"),
            KeyError(3),
        ),
        *(OverflowError(), AttributeError("x"), AssertionError(), Image.DecompressionBombError("")),
        *(
            OSError(5, "Input/output error"),
            SyntaxError("not a PNG"),
            UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
        ),
        UnreadableImageError("so\nit is"),
    ],
    ids=repr,
)
def test_whatever_a_decoder_raises_becomes_a_short_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*call: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", failing)
    with pytest.raises(UnreadableImageError) as caught:
        decode(encoded(NOISE))
    reason = str(caught.value)
    assert 0 < len(reason) <= 200
    assert reason.isprintable()


def test_an_interruption_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*call: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(encoded(NOISE))
    assert bounds.Silence.rule not in warnings.filters


def test_the_content_decides_and_no_reader_that_starts_a_program_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *call: started.append(call))
    script = ZOO["postscript"].content
    for start in (b"", b"\xff\xd8\xff", b"GIF89a", b"BM", b"P6\n", b"RIFF\0\0\0\0WEBP"):
        with pytest.raises(UnreadableImageError):
            decode(start + script, "x.eps")
    assert not started
    asked = []
    opened = Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, formats: asked.append(formats) or opened(file, formats=formats)
    )
    for kind in ("JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        assert decode(encoded(COLOUR, kind), "x.png").shape == COLOUR.shape
    assert asked == [("GIF",), ("BMP",), ("TIFF",), ("WEBP",)]


def test_a_name_serves_the_reason_only() -> None:
    page = ZOO["web page"].content
    with pytest.raises(UnreadableImageError) as caught:
        decode(page, "/home/someone/a.b.jpg")
    reason = "no image of a kind that is read although its name ends in .jpg"
    assert str(caught.value) == reason + ": it begins with <!DOCTYPE html><"
    with pytest.raises(UnreadableImageError, match=r"^no image of a kind that is read$"):
        decode(bytes(99))


def warn_and_log(data: bytes, kind: str) -> np.ndarray:
    with bounds.Silence():
        warnings.warn_explicit("doubts", UserWarning, "a", 1, module="PIL.Image")
        logging.getLogger("tifffile").error("doubts")
    return NOISE


def test_decoders_are_silent_and_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    broken = ZOO["jpeg bad profile"].content  # warnings are errors here
    filters = list(warnings.filters)
    decode(broken)
    warn_and_log(b"", "")
    assert not caplog.records
    assert list(warnings.filters) == filters
    with bounds.Silence():
        with pytest.warns(UserWarning, match="of another"):
            warnings.warn_explicit("of another", UserWarning, "a", 1, module="elsewhere")
        outside = threading.Thread(target=logging.getLogger("tifffile").error, args=("heard",))
        outside.start()
        outside.join()
    logging.getLogger("tifffile").error("heard")
    assert [record.message for record in caplog.records] == ["heard", "heard"]


def test_threads_leave_the_filters_of_warnings_as_they_were() -> None:
    files = [ZOO[name].content for name in ("png palette, transparent", "tiff float", "gif")]
    filters, failures = list(warnings.filters), []

    def work() -> None:
        try:
            for number in range(60):
                decode(files[number % len(files)])
        except UnreadableImageError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(warnings.filters) == filters


def test_damage_never_shows_as_any_other_error() -> None:
    draw, outcomes = np.random.default_rng(3), {True: 0, False: 0}
    whole = [kind.content for kind in ZOO.values() if len(kind.content) > 20]
    for number in range(6 * len(whole)):
        changed = bytearray(whole[number % len(whole)])
        for _ in range(draw.integers(1, 6)):
            place = int(
                draw.integers(len(changed)) if draw.random() < 0.5 else draw.exponential(80)
            )
            changed[min(place, len(changed) - 1)] = int(draw.choice([0, 255, draw.integers(256)]))
        if draw.random() < 0.2:
            del changed[draw.integers(len(changed)) :]
        try:
            pixels = decode(bytes(changed))
            assert pixels.ndim == 3
            assert pixels.dtype in (np.uint8, np.uint16, np.float32)
            assert pixels.flags.c_contiguous
            outcomes[True] += 1
        except UnreadableImageError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 60
