"""What is stored of a photo is what Pillow decodes of the file, whatever its format, mode and orientation."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.images import Resize, decode_image, open_image, resized_image
from sightline.platform.data.remarks import collected

LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "WEBP": {"lossless": True}}
SIZE = (48, 64)


def _picture() -> np.ndarray:
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    return np.stack([x * 4, y * 5, (x + y) * 2], -1).astype(np.uint8)


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _stored(data: bytes) -> np.ndarray:
    """The pixels of what `prepare` stores; it is one of the three formats that every reader of a data set knows."""
    kept, _ = resized_image(data, Resize())
    assert open_image(kept).format in ("JPEG", "MPO", "PNG", "WEBP")
    return decode_image(kept)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    np.testing.assert_array_equal(_stored(_bytes(Image.fromarray(_picture()), kind, **LOSSLESS[kind])), _picture())


@pytest.mark.parametrize(("kind", "mode"), [(k, m) for k in ("PNG", "TIFF", "GIF", "BMP") for m in ("1", "L", "P")] + [("TIFF", "CMYK")])
def test_modes_are_as_pillow_converts_them(kind: str, mode: str) -> None:
    image = Image.fromarray(_picture())
    data = _bytes(image.quantize(16) if mode == "P" else image.convert(mode), kind)
    np.testing.assert_array_equal(_stored(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    rgba = np.dstack([np.full((*SIZE, 3), 200, np.uint8), np.zeros(SIZE, np.uint8)])
    rgba[:, 32:, 3] = 255
    stored = _stored(_bytes(Image.fromarray(rgba), kind))
    assert stored[:, :28].min() > 250 and abs(float(stored[:, 40:].mean()) - 200) < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_is_scaled(kind: str) -> None:
    deep = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    data = _bytes(Image.fromarray(deep), kind)
    np.testing.assert_allclose(decode_image(data)[..., 0], deep / 257, atol=0.51)
    assert np.abs(_stored(data)[..., 0] - deep / 257).mean() < (2 if kind == "JPEG2000" else 0.51)


def test_big_endian_16_bit_tiff_is_the_same() -> None:
    deep = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE).astype(">u2")
    data = _bytes(Image.frombytes("I;16B", SIZE[::-1], deep.tobytes()), "TIFF")
    np.testing.assert_allclose(_stored(data)[..., 0], deep / 257, atol=0.51)


@pytest.mark.parametrize("array", [np.ones(SIZE, np.float32), np.full(SIZE, -5, np.int32)])
def test_values_without_a_known_white_are_refused(array: np.ndarray) -> None:
    with pytest.raises(BrokenSampleError, match="no known white"):
        _stored(_bytes(Image.fromarray(array), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"lossless": True} if kind == "WEBP" else {} if kind in ("PNG", "TIFF") else {"quality": 95, "subsampling": "4:4:4"}
    if kind == "HEIF":
        quality = {"quality": 95}
    # What Pillow gives is compared with the turn that the tag asks for, made by hand, so that neither is believed.
    turned = {
        **{1: _picture(), 2: _picture()[:, ::-1], 3: _picture()[::-1, ::-1], 4: _picture()[::-1]},
        **{5: _picture().transpose(1, 0, 2), 6: np.rot90(_picture(), 3)},
        **{7: np.rot90(_picture().transpose(1, 0, 2), 2), 8: np.rot90(_picture(), 1)},
    }[orientation]
    stored = _stored(_bytes(Image.fromarray(_picture()), kind, exif=exif.tobytes(), **quality))
    assert stored.shape == turned.shape
    assert np.abs(stored.astype(int) - turned).mean() < 4


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO", "AVIF"])
def test_of_several_images_the_first_is_stored_and_that_is_told(kind: str) -> None:
    first, second = Image.new("RGB", SIZE[::-1], (255, 0, 0)), Image.new("RGB", SIZE[::-1], (0, 0, 255))
    data = _bytes(first, kind, save_all=True, append_images=[second])
    with collected() as remarks:
        stored = _stored(data)
    assert stored[..., 0].min() > 240 and stored[..., 2].max() < 15
    assert any("more than one image" in text for text in remarks)


def test_a_colour_profile_that_is_not_srgb_is_told() -> None:
    image = Image.fromarray(_picture())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with collected() as remarks:
        _stored(_bytes(image, "JPEG", icc_profile=srgb))
        _stored(_bytes(image, "JPEG", icc_profile=b"no profile"))
        assert not remarks
        _stored(_bytes(image, "JPEG", icc_profile=lab))
    assert [text for text in remarks if "colour profile" in text]


def test_nearly_black_16_bit_is_told() -> None:
    with collected() as remarks:
        _stored(_bytes(Image.fromarray(np.full(SIZE, 4095, np.uint16)), "PNG"))
    assert any("nearly black" in text for text in remarks)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"%PDF-1.7", "PDF"),
        (b"\xff\xd8\xff\xe0", "JPEG, but is damaged"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, words: str) -> None:
    with pytest.raises(BrokenSampleError, match=words):
        decode_image(data)


def test_a_heic_without_its_reader_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.platform.data.images.readable_formats", lambda: ("JPEG", "AVIF"))
    with pytest.raises(BrokenSampleError, match=r"pip install .*heic"):
        decode_image(b"\0\0\0\x18ftypheic" + bytes(64))


def test_metadata_that_cannot_be_read_cost_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(image: Image.Image) -> Image.Exif:
        raise TypeError("'str' object cannot be interpreted as an integer")

    data = _bytes(Image.fromarray(_picture()), "PNG")
    monkeypatch.setattr(Image.Image, "getexif", damaged)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.getexif", damaged)
    with collected() as remarks:
        np.testing.assert_array_equal(_stored(data), _picture())
    assert any("EXIF" in text for text in remarks)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "AVIF", "JPEG2000", "PPM"])
def test_hurt_files_are_skipped_and_raise_nothing_else(kind: str) -> None:
    whole = _bytes(Image.fromarray(_picture()), kind)
    rng = np.random.default_rng(0)
    for _ in range(12):
        hurt = bytearray(whole[: rng.integers(8, len(whole))])
        for place in rng.integers(4, len(hurt), 6):
            hurt[place] = rng.integers(0, 256)
        try:
            assert _stored(bytes(hurt)).shape[2] == 3
        except BrokenSampleError as error:
            assert str(error)


def test_upright_pixels_are_those_of_pillow() -> None:
    """The check of the check: `exif_transpose` and our hand-made turns agree for JPEG."""
    exif = Image.Exif()
    exif[0x0112] = 5
    image = Image.open(io.BytesIO(_bytes(Image.fromarray(_picture()), "PNG", exif=exif)))
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), _picture().transpose(1, 0, 2))


@pytest.mark.slow
def test_pillow_writes_nothing_to_the_screen() -> None:
    """In a process of its own, because pytest turns warnings into errors."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\0\0\x1a\0\0\0"  # a text of 65,535 bytes that is not there
    script = (
        "import io, sys, warnings\nfrom PIL import Image\n"
        "if 'bare' not in sys.argv:\n    from sightline.platform.data import images\n"
        f"buffer = io.BytesIO()\nImage.new('RGB', (40, 40)).save(buffer, 'JPEG', exif={exif!r})\n"
        "image = Image.open(io.BytesIO(buffer.getvalue()))\nimage.getexif()\n"
        "buffer = io.BytesIO()\nImage.new('1', (10_000, 9_500)).save(buffer, 'PNG')\nImage.open(io.BytesIO(buffer.getvalue()))\n"
    )
    bare, ours = (
        subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True).stderr
        for words in (["bare"], [])
    )
    assert "EXIF" in bare and "DecompressionBombWarning" in bare, "the files of this test make Pillow warn"
    assert ours == ""
