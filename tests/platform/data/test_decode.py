"""Whatever people call an image becomes uint8 RGB, upright; whatever is none becomes a broken sample with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data import images
from sightline.platform.data.images import (
    Placement,
    Resize,
    decode_depth,
    decode_image,
    encode_depth,
    encode_image,
    plain_jpeg_size,
    resized_image,
)
from sightline.platform.data.remarks import collected


def _bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _picture(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 4, y * 6, (x + y) * 2], -1).astype(np.uint8)


def test_rgb_comes_back_as_it_was() -> None:
    np.testing.assert_array_equal(decode_image(_bytes(Image.fromarray(_picture()))), _picture())
    assert np.abs(decode_image(encode_image(_picture(), 95)).astype(int) - _picture()).mean() < 3
    assert decode_image(_bytes(Image.fromarray(_picture()), "WEBP", lossless=True)).shape == (40, 60, 3)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"quality": 3}, {"optimize": True}])
def test_jpegs_are_the_bits_that_pillow_decodes(subsampling: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (5, 9, 3)).astype(np.uint8)
    for size in ((61, 43), (8, 8), (17, 1)):
        data = _bytes(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), "JPEG", subsampling=subsampling, **options)
        expected = np.asarray(Image.open(io.BytesIO(data)))
        with monkeypatch.context() as patch:
            patch.setattr(images, "to_rgb", None)  # it does not come to Pillow
            np.testing.assert_array_equal(decode_image(data), expected)


def test_what_an_application_put_into_a_jpeg_is_left_to_pillow() -> None:
    """The size is read from the header of a plain one alone; whatever it says, the pixels are those that Pillow gives."""
    picture, turned = Image.fromarray(_picture()), Image.Exif()
    turned[0x0112] = 6
    assert plain_jpeg_size(_bytes(picture, "JPEG", comment=b"x" * 300, progressive=True)) == (40, 60)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    others = [
        _bytes(picture, "JPEG", exif=turned),
        _bytes(picture, "JPEG", icc_profile=profile),
        _bytes(picture.convert("L"), "JPEG"),
        _bytes(picture.convert("CMYK"), "JPEG"),
        _bytes(picture, "PNG"),
        b"",
    ]
    assert [plain_jpeg_size(data) for data in others] == [None] * len(others)
    assert decode_image(others[0]).shape == (60, 40, 3)


@pytest.mark.parametrize("place", [0, 2, 3, 4, 20, 25, 90])
def test_a_header_with_a_wrong_byte_is_read_as_pillow_reads_it(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or refused with the same words."""
    whole = _bytes(Image.fromarray(_picture()), "JPEG")

    def tried(data: bytes) -> bytes | str:
        try:
            return decode_image(data).tobytes()
        except BrokenSampleError as error:
            return str(error)

    for at in (place, whole.index(b"\xff\xc0") + place):
        for value in (0, 1, 0x7F, 0xC2, 0xE1, 0xFF):
            changed = whole[:at] + bytes([value]) + whole[at + 1 :]
            found = tried(changed)
            with monkeypatch.context() as patch:
                patch.setattr(images, "plain_jpeg_size", lambda data: None)
                assert tried(changed) == found


def test_a_jpeg_with_a_fault_is_left_to_pillow() -> None:
    whole = _bytes(Image.fromarray(_picture()), "JPEG", restart_marker_blocks=2)
    at = whole.index(b"\xff\xd0")
    extra = whole[:at] + b"\x12" * 20 + whole[at:]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(extra, "RGB")
    np.testing.assert_array_equal(decode_image(extra), decode_image(whole))
    with pytest.raises(BrokenSampleError, match="damaged"):
        decode_image(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_is_repeated(kind: str) -> None:
    decoded = decode_image(_bytes(Image.fromarray(_picture()[..., 0]), kind))
    assert decoded.shape == (40, 60, 3)
    assert (decoded[..., 0] == decoded[..., 1]).all() and (decoded[..., 0] == decoded[..., 2]).all()


def test_alpha_is_laid_over_white() -> None:
    rgba = np.dstack([_picture(), np.zeros((40, 60), np.uint8)])
    rgba[:, 30:, 3] = 255
    decoded = decode_image(_bytes(Image.fromarray(rgba)))
    assert (decoded[:, :30] == 255).all()
    np.testing.assert_array_equal(decoded[:, 30:], _picture()[:, 30:])


def test_grey_with_alpha_and_palettes_with_transparency_too() -> None:
    grey = np.dstack([np.full((40, 60), 10, np.uint8), np.zeros((40, 60), np.uint8)])
    assert (decode_image(_bytes(Image.fromarray(grey))) == 255).all()
    palette = Image.fromarray(_picture()).quantize(8)
    assert decode_image(_bytes(palette)).shape == (40, 60, 3)
    assert (decode_image(_bytes(Image.new("P", (40, 40), 0), transparency=0)) == 255).all()


def test_cmyk_is_converted() -> None:
    red = Image.new("RGB", (40, 40), (250, 10, 10)).convert("CMYK")
    assert np.abs(decode_image(_bytes(red, "JPEG", quality=95)).mean((0, 1)) - [250, 10, 10]).max() < 12


def test_16_bit_is_scaled_not_clipped() -> None:
    deep = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    decoded = decode_image(_bytes(Image.fromarray(deep)))
    assert decoded.min() == 0 and decoded.max() == 255
    np.testing.assert_allclose(decoded[..., 0], deep / 257, atol=0.51)


def test_one_bit_images_are_black_and_white() -> None:
    bits = Image.fromarray(np.pad(np.full((20, 60), 255, np.uint8), [(0, 20), (0, 0)])).convert("1")
    assert set(np.unique(decode_image(_bytes(bits)))) == {0, 255}


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(_bytes(Image.fromarray(_picture()), "JPEG", quality=98, subsampling=0, exif=exif))
    expected = np.rot90(_picture(), turn)
    assert decoded.shape == expected.shape and np.abs(decoded.astype(int) - expected).mean() < 3


def _bomb(width: int, height: int) -> bytes:
    """A small PNG file that says it is large."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a readable image"),
        (b"this is text, not a picture", "not a readable image"),
        (b"GIF89a" + bytes(50), "image"),
        (_bomb(60_000, 60_000), "exceeds the limit of 64,000,000 pixels: 60000 x 60000"),
        (_bomb(9_000, 9_000), "exceeds the limit of 64,000,000 pixels: 9000 x 9000"),
        (_bytes(Image.fromarray(_picture()), "JPEG")[:400], "JPEG"),
        (_bytes(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)))[:3000], "damaged PNG"),
    ],
)
def test_what_cannot_be_decoded_is_a_broken_sample(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenSampleError) as caught:
        decode_image(data)
    assert reason in str(caught.value)


def test_too_many_bytes_are_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.platform.data.images.MAX_BYTES", 100)
    with pytest.raises(BrokenSampleError, match="exceeds the limit of 100"):
        decode_image(encode_image(_picture()))


def test_an_image_that_need_not_shrink_keeps_its_bytes() -> None:
    data = encode_image(_picture(64, 96))
    assert resized_image(data, Resize()) == (data, Placement((64, 96), 0, 0, (64, 96), (64, 96)))
    assert resized_image(data, Resize(size=64))[0] is data
    square, at = resized_image(data, Resize(size=32, square=True))
    assert (at.top, at.left, at.cut, at.stored) == (0, 16, (64, 64), (32, 32)) and decode_image(square).shape == (32, 32, 3)
    smaller, placement = resized_image(data, Resize(size=32))
    original, stored = placement.original, placement.stored
    assert (original, stored) == ((64, 96), (32, 48)) and decode_image(smaller).shape == (32, 48, 3)


def test_a_tiny_image_is_refused() -> None:
    with pytest.raises(BrokenSampleError, match=r"tiny image .*: 60 x 20"):
        resized_image(_bytes(Image.fromarray(_picture(20, 60))), Resize())


def test_depth_survives_to_the_millimetre_and_unknown_stays_unknown() -> None:
    depth = np.array([[0.0, 1.2344, 65.534], [65.535, np.inf, np.nan]])
    np.testing.assert_allclose(decode_depth(encode_depth(depth)), [[0, 1.234, 65.534], [0, 0, 0]], atol=1e-6)


def test_an_8_bit_image_is_no_depth() -> None:
    with pytest.raises(BrokenSampleError, match="not a 16-bit PNG"):
        decode_depth(_bytes(Image.fromarray(_picture()[..., 0])))


@pytest.mark.parametrize(("orientation", "size"), [(1, (411, 303)), (6, (408, 304))])
@pytest.mark.parametrize("square", [False, True])
def test_a_reduced_decode_is_near_the_whole_one(orientation: int, size: tuple[int, int], square: bool) -> None:
    """The same cut and size; a part of the pixels differs in the last bits."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 15, 3)).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = orientation
    data = _bytes(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), "JPEG", exif=turned)
    with collected() as remarks:
        whole, at = resized_image(data, Resize(size=40, square=square, quality=100))
        assert not remarks
        reduced, there = resized_image(data, Resize(size=40, square=square, quality=100, reduced=True))
    assert at == there and list(remarks.values()) == [1] and reduced != whole
    difference = np.abs(decode_image(reduced).astype(int) - decode_image(whole))
    assert difference.mean() < 1 and difference.max() <= 8
    assert resized_image(data, Resize(size=160, reduced=True)) == resized_image(data, Resize(size=160))
