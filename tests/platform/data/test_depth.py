"""Depth maps as people have them: in any unit and form, with what means no reading."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.depth import read_depth
from sightline.platform.data.images import decode_depth, encode_depth

METRES = np.array([[0.0, 1.5, 2.25], [3.5, 12.0, 0.5]])


def _file(values: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "NPY":
        np.save(buffer, values, allow_pickle=True)
    elif form == "PFM":
        buffer.write(b"Pf\n%d %d\n-1.0\n" % values.shape[::-1] + values[::-1].astype("<f4").tobytes())
    else:
        Image.fromarray(values).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("values", "form", "scale"),
    [
        (METRES * 1000, "PNG", None),
        (METRES * 5000, "PNG", 5000.0),
        (METRES * 1000, "TIFF", None),
        ((METRES * 1000).astype(np.int32), "TIFF", None),
        (METRES.astype(np.float32), "TIFF", None),
        ((METRES * 1000).astype(np.float32), "TIFF", 1000.0),
        (METRES, "NPY", None),
        (METRES.astype(np.float16), "NPY", None),
        (METRES.astype(">f4")[..., None], "NPY", None),
        ((METRES * 100).astype(np.int64)[None], "NPY", 100.0),
        (METRES, "PFM", None),
    ],
)
def test_every_form_says_the_same_metres(values: np.ndarray, form: str, scale: float | None) -> None:
    values = values.astype(np.uint16) if form in ("PNG", "TIFF") and values.dtype == np.float64 else values
    metres, stored_form, units = read_depth(_file(values, form), scale)
    assert units == (scale or (1000 if values.dtype.kind in "iu" else 1))
    assert metres.dtype == np.float32 and metres.shape == (2, 3)
    np.testing.assert_allclose(metres, METRES, rtol=1e-6)
    assert stored_form == (form == "PNG" and scale is None)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (np.array([[1000, 0, 65535]], np.uint16), "PNG"),
        (np.array([[1000, -1, 65535, 2**31 - 1]], np.int32), "TIFF"),
        (np.array([[1, np.nan, np.inf, -np.inf, -1, 0, 1e10, 65.6]], np.float32), "TIFF"),
        (np.array([[1, np.nan, np.inf, -np.inf, -1, 0, 1e300]]), "NPY"),
    ],
)
def test_what_is_no_reading_is_unknown(values: np.ndarray, form: str) -> None:
    metres, stored_form, _ = read_depth(_file(values, form))
    assert metres[0, 0] == 1 and not metres[0, 1:].any() and not stored_form
    assert (decode_depth(encode_depth(metres)) == metres).all()


def test_a_stored_65535_is_no_reading_either() -> None:
    assert not decode_depth(_file(np.full((2, 2), 65535, np.uint16), "PNG")).any()


def _bytes_of(form: str) -> bytes:
    return _file(np.zeros((4, 4, 3), np.uint8), form)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_file(np.zeros((4, 4), np.uint8), "PNG"), "8 bits"),
        (_file(np.zeros((4, 4), np.uint8), "NPY"), "8 bits"),
        (_bytes_of("PNG"), "holds colours"),
        (_bytes_of("JPEG"), "JPEG"),
        (b"v/1\x01" + bytes(40), "OpenEXR"),
        (b"PK\x03\x04" + bytes(40), "npz"),
        (b"nothing", "not a readable depth map"),
        (b"", "not a readable depth map"),
        (_file(METRES, "NPY")[:-8], "damaged array: it is cut short"),
        (_file(np.array([[None]]), "NPY"), "damaged array: it holds Python objects"),
        (_file(np.zeros((2, 3, 4)), "NPY"), "not a map of numbers"),
        (_file(METRES, "PFM")[:-8], "damaged depth map"),
        (_file(np.full((40, 40), 1000, np.uint16), "PNG")[:60], "damaged depth image"),
        (_file((METRES * 1000).astype(np.float32), "TIFF"), "unlikely unit .*--depth-scale.*: from 500 to 1.2e"),
        (_file(np.array([[1, 2, 7]], np.uint16), "PNG"), "unlikely unit .*: from 0.001 to 0.007 m"),
    ],
)
def test_what_is_no_map_of_depth_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(BrokenSampleError, match=says):
        read_depth(data)


@pytest.mark.parametrize("shape", [b"(999999999,)", b"(2, 99999999)", b"(2, 3", b"(9e99,)", b"(-1,-6)"])
def test_a_header_that_lies_takes_no_memory(shape: bytes) -> None:
    honest = b"'shape': (2, 3), }" + b" " * 20
    with pytest.raises(BrokenSampleError, match="damaged array"):
        read_depth(_file(METRES, "NPY").replace(honest, (b"'shape': " + shape + b", }").ljust(len(honest))))
