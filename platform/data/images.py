"""Encodes and decodes images, depth maps and masks. The limits protect against files from untrusted sources."""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from sightline.methods.errors import BrokenSampleError, first_line

from .geometry import Placement
from .remarks import remark

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
MIN_SIDE = 32
"""An image with a smaller side has fewer than 2 x 2 patches, too few to learn from."""
FORMATS = ("JPEG", "PNG", "WEBP", "MPO", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""What is read, by content and not by suffix. JPEG (with MPO), PNG and WebP are stored as they are; the others are converted."""
MASK_FORMATS = ("PNG", "TIFF", "BMP", "DIB", "GIF", "PPM")
"""Formats that keep the index of every pixel."""
LOSSY = ("JPEG2000", "AVIF", "HEIF")
"""Converted to JPEG; what is not lossy becomes PNG, which keeps every pixel."""
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
    *((".heic", ".heif", ".hif") if importlib.util.find_spec("pillow_heif") else ()),
)
_BEGINNINGS = {
    **{b"\xff\xd8": "a JPEG, but is damaged", b"\x89PNG": "a PNG, but is damaged", b"GIF8": "a GIF, but is damaged"},
    **{b"II*\0": "a TIFF, but cannot be read", b"MM\0*": "a TIFF, but cannot be read", b"RIFF": "a WebP, but is damaged"},
    **{b"version https://git-lfs": "a Git LFS pointer: get the file with git lfs pull", b"<": "a web page or an SVG drawing"},
    **{b"%PDF": "a PDF", b"8BPS": "a Photoshop file", b"v/1\x01": "an OpenEXR file", b"PK\x03\x04": "a zip archive"},
}
HEIC = "a HEIC image; pip install 'sightline-pretext[heic]' reads it"
DEPTH_UNIT = 1000.0
"""Depth maps are stored as 16-bit PNG in millimetres; 0 = unknown, and so is 65535, which cameras write for it."""
FARTHEST = 65.534
"""Metres."""
DAMAGED = (Exception,)
"""What decoders raise on the files of strangers is not a closed list: struct.error, TypeError, KeyError and others were met."""
_ORIENTATION = 0x0112
_PGM_LARGEST = re.compile(rb"P[25](?:(?:\s|#[^\n]*\n)+\d+){2}(?:\s|#[^\n]*\n)+(\d+)")
_PNG_TAGS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")

# Pillow warns of odd metadata without naming the file, also from its loggers. What decodes is used, what does not is named by us.
warnings.filterwarnings("ignore", module=r"PIL\.", category=UserWarning)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit is lower
logging.getLogger("PIL").addHandler(logging.NullHandler())


_PLAIN_SEGMENTS = frozenset((0xC4, 0xDB, 0xDD, 0xE0, 0xFE))
"""Huffman tables, quantization tables, restart interval, JFIF, comment."""


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG of three colours without EXIF, colour profile or another segment of an application, from its header.

    None for all else, and for what a decoder may refuse: Pillow says what that is. Pillow needs 0.09 ms for the same.
    """
    at = 2
    if len(data) > MAX_BYTES or data[:2] != b"\xff\xd8":
        return None
    while data[at : at + 1] == b"\xff" and len(data) >= at + 10:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):  # a frame: baseline, extended, progressive
            bits, height, width, colours = struct.unpack_from(">BHHB", data, at + 4)
            usual = (bits, colours, length) == (8, 3, 17) and height and width and height * width <= MAX_PIXELS
            return (height, width) if usual else None
        if marker not in _PLAIN_SEGMENTS or length < 2:
            return None
        at += 2 + length
    return None


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image as Pillow opens it, pixels not decoded yet. Raises `BrokenSampleError` for what is no image or exceeds a limit."""
    if len(data) > MAX_BYTES:
        raise BrokenSampleError(f"image file exceeds the limit of {MAX_BYTES:,} bytes: {len(data):,}")
    too_large = f"image exceeds the limit of {max_pixels:,} pixels"
    try:
        image = Image.open(io.BytesIO(data), formats=readable_formats())
    except Image.DecompressionBombError:
        raise BrokenSampleError(f"{too_large}: {_stated_size(data)}") from None
    except DAMAGED:
        if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis") and "HEIF" not in readable_formats():
            raise BrokenSampleError(HEIC) from None
        raise BrokenSampleError(f"not a readable image{_guess(data)}") from None
    if image.width * image.height > max_pixels:
        raise BrokenSampleError(f"{too_large}: {image.width} x {image.height}")
    return image


@lru_cache
def readable_formats() -> tuple[str, ...]:
    """The formats that this installation reads; HEIF comes with a package of its own."""
    Image.init()
    if importlib.util.find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _guess(data: bytes) -> str:
    """`: what it is instead`, where its first bytes tell."""
    if not data:
        return ": the file is empty"
    kind = next((kind for start, kind in _BEGINNINGS.items() if data.lstrip().startswith(start)), None)
    return f": it begins as {kind}" if kind else ""


def _stated_size(data: bytes) -> str:
    """Width x height of an image that is so large that Pillow does not open it."""
    for name in readable_formats():
        opened, accepts = Image.OPEN[name]
        try:
            if accepts is None or accepts(data[:16]) is True:
                return "{} x {}".format(*opened(io.BytesIO(data), "").size)
        except Exception:  # whatever a format raises for what is not its own
            continue
    return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,}"


_EIGHT_BITS = (np.arange(65536) / 257).round().astype(np.uint8)
"""The 8-bit value of each 16-bit one."""
_TURNS = {
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90},
}


def orientation_of(image: Image.Image) -> int:
    """The EXIF tag that says how the pixels of the file become upright: 1 (they are) to 8. Read before the pixels are."""
    try:
        tag = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever the metadata of a stranger's camera raise: the pixels are good without them
        remark("image(s) with EXIF data that cannot be read: taken as upright")
        return 1
    return tag if tag in range(1, 9) else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, upright. Grey is repeated, 16-bit scaled to 8, alpha laid over white, CMYK and palette converted, EXIF rotation applied.

    White, because most transparent pictures are made for paper or a web page. Raises what Pillow raises.
    """
    kind, info = image.format, image.info  # a transposed copy has no format
    image.load()  # a TIFF is upright after it, and has lost its tag
    turn = _TURNS.get(orientation_of(image))
    if turn is not None:
        image = image.transpose(turn)
        image.info = info
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
        raise BrokenSampleError("grey of 32 bits, floats or negative values has no known white: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip instead of scaling
        return Image.fromarray(_EIGHT_BITS[np.asarray(image).clip(0, 65535)]).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 H x W x 3, upright. Raises `BrokenSampleError` with the reason for everything that cannot be decoded."""
    return _decoded(data, max_pixels)[0]


def _decoded(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """The upright pixels, and the orientation of those of the file."""
    size = plain_jpeg_size(data)
    if size is not None and size[0] * size[1] <= max_pixels and (plain := _plain_jpeg(data)) is not None:
        return plain, 1
    image = open_image(data, max_pixels=max_pixels)
    try:
        orientation = orientation_of(image)  # before the pixels: Pillow takes the tag off a TIFF that it loads
        if size is None and orientation == 1 and (image.format, image.mode) == ("JPEG", "RGB") and (plain := _plain_jpeg(data)) is not None:
            return plain, orientation
        return np.array(to_rgb(image)), orientation  # a copy, because Pillow lends its memory read-only
    except BrokenSampleError:
        raise
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged {image.format} image: {first_line(error)}") from None


def _plain_jpeg(data: bytes) -> np.ndarray | None:
    """uint8 H x W x 3, the bits that Pillow decodes, in a third of the time; None for what has any fault."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    except ValueError:  # Pillow says what it is, or decodes what it can
        return None


def read_placement(data: bytes) -> Placement:
    """The whole of a photo, from its header; pixels are decoded only where a PNG has a tag after them. Raises `BrokenSampleError`."""
    image = open_image(data)
    try:
        tagged = image.format != "PNG" or any(mark in data for mark in _PNG_TAGS)
        orientation = orientation_of(image) if tagged else 1
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged {image.format} image: {first_line(error)}") from None
    turned = orientation > 4 and image.format != "TIFF"  # of a TIFF Pillow gives the upright size
    return Placement.whole(image.size if turned else image.size[::-1], orientation)


def encode_image(array: np.ndarray, quality: int = 90) -> bytes:
    """uint8 H x W x 3 as JPEG. Colour is not subsampled, because the targets of a patch are its pixels."""
    return _jpeg(Image.fromarray(array), quality)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def encode_png(array: np.ndarray) -> bytes:
    """uint8 H x W x 3 as PNG, which keeps every pixel."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


@dataclass(frozen=True)
class Resize:
    """How images are stored: `square` cuts the middle square, `size` is the short side at most (None keeps it)."""

    size: int | None = None
    square: bool = False
    quality: int = 90
    reduced: bool = False
    """Whether a large JPEG is decoded at a part of its size, at least twice what is stored."""

    def placement(self, height: int, width: int, orientation: int) -> Placement:
        """Where the pixels of an upright image of this size come to lie."""
        cut = (min(height, width), min(height, width)) if self.square else (height, width)
        scale = min(1.0, self.size / min(cut)) if self.size else 1.0
        stored = (round(cut[0] * scale), round(cut[1] * scale))
        return Placement((height, width), (height - cut[0]) // 2, (width - cut[1]) // 2, cut, stored, orientation)


Change = Callable[[Image.Image, Placement], Image.Image]
"""Of the pixels that are stored, which keep their number; see `lenses.Straighten`."""


def resized_image(data: bytes, resize: Resize, change: Change | None = None) -> tuple[bytes, Placement]:
    """The image as it will be stored, and where in the original it came from.

    A JPEG, PNG or WebP that need not change keeps its bytes. It is decoded anyway, so that a damaged one is found now. Resizing is
    antialiased. What is stored in another way than a reader would think is told by `remark`.
    Raises `BrokenSampleError` for what cannot be decoded or has a side under `MIN_SIDE`.
    """
    if resize.reduced and (reduced := _reduced_image(data, resize, change)) is not None:
        return reduced
    array, orientation = _decoded(data)
    height, width = array.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise BrokenSampleError(f"tiny image (a side under {MIN_SIDE} px): {width} x {height}")
    at = resize.placement(height, width, orientation)
    remark_on(data, array)
    if at.unchanged and change is None:
        return storable(data, array, resize.quality), at
    image = Image.fromarray(array[at.top : at.top + at.cut[0], at.left : at.left + at.cut[1]])
    if at.stored != at.cut:
        image = image.resize(at.stored[::-1], Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _jpeg(change(image, at) if change else image, resize.quality), at


def cropped_image(
    data: bytes, top: int, left: int, side: int, size: int, quality: int = 90, change: Change | None = None
) -> tuple[bytes, Placement]:
    """A square of the upright image as JPEG, shrunk to `size` where it is larger, and where it came from.

    `change`: of the whole image, before it is cut. Raises `BrokenSampleError` as `resized_image` does, and where the square lies outside.
    """
    array, orientation = _decoded(data)
    height, width = array.shape[:2]
    if not (0 <= top <= height - side and 0 <= left <= width - side):
        raise BrokenSampleError(f"a crop that lies outside its image: {width} x {height}")
    image, whole = Image.fromarray(array), Placement.whole((height, width), orientation)
    image = (change(image, whole) if change else image).crop((left, top, left + side, top + side))
    stored = (min(side, size), min(side, size))
    if stored[0] != side:
        image = image.resize(stored, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _jpeg(image, quality), Placement((height, width), top, left, (side, side), stored, orientation)


def _reduced_image(data: bytes, resize: Resize, change: Change | None = None) -> tuple[bytes, Placement] | None:
    """As `resized_image`, from a JPEG that libjpeg decodes at some eighths of its size; None where that is not less or it has a fault."""
    image = open_image(data)
    if (image.format, image.mode) != ("JPEG", "RGB") or min(image.size) < MIN_SIDE:
        return None
    orientation = orientation_of(image)
    width, height = image.size[::-1] if orientation > 4 else image.size
    at = resize.placement(height, width, orientation)
    scale = 2 * at.stored[0] / at.cut[0]
    if scale > 7 / 8:
        return None
    try:
        least = (math.ceil(scale * side) for side in image.size)
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=next(least), min_height=next(least))
    except ValueError:
        return None
    small = Image.fromarray(pixels)
    part = round(8 * small.width / image.width) / 8
    if orientation != 1:
        if small.size != (image.width * part, image.height * part):  # rounded up; the rest would come to lie at another edge
            return None
        small = small.transpose(_TURNS[orientation])
    box = (at.left * part, at.top * part, (at.left + at.cut[1]) * part, (at.top + at.cut[0]) * part)
    remark_on(data, pixels)
    remark("JPEG(s) decoded at a part of their size (--reduced-decode)")
    small = small.resize(at.stored[::-1], Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    return _jpeg(change(small, at) if change else small, resize.quality), at


def storable(data: bytes, array: np.ndarray, quality: int = 90) -> bytes:
    """The bytes of an image whose pixels are `array`, as they are or in a format that every reader knows."""
    if plain_jpeg_size(data) is not None:
        return data
    kind = open_image(data).format or ""
    if kind in ("JPEG", "MPO", "PNG", "WEBP"):
        return data
    remark(f"{kind} image(s) stored as {'JPEG' if kind in LOSSY else 'PNG'}")
    return encode_image(array, quality) if kind in LOSSY else encode_png(array)


def remark_on(data: bytes, array: np.ndarray) -> None:
    """Tell what of the file is not in its pixels, uint8 H x W x 3."""
    if plain_jpeg_size(data) is not None:
        return
    image = open_image(data)
    try:
        if getattr(image, "is_animated", False):
            remark(f"{image.format} file(s) with more than one image: the first is stored")
        if profile := image.info.get("icc_profile"):
            name = _profile_name(bytes(profile))
            if name and "srgb" not in name.lower() and image.mode != "L":
                remark(f"image(s) with the colour profile {name}: their values are used as sRGB, as most loaders do")
    except DAMAGED:  # of what follows the first image
        remark(f"{image.format} file(s) whose later images are damaged: the first is stored")
    if image.mode.startswith("I") and array.max() < 64:
        remark("16-bit image(s) nearly black, the largest value under a quarter of 65,535: stretch their values if that is not meant")


@lru_cache(maxsize=64)
def _profile_name(profile: bytes) -> str:
    """What an ICC profile calls itself, empty for none that can be read."""
    try:
        return " ".join(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).split())[:60]
    except (ImageCms.PyCMSError, *DAMAGED):
        return ""


def decode_depth(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """float32 H x W in metres from a stored 16-bit PNG in millimetres; 0 = unknown. Raises `BrokenSampleError`."""
    image = open_image(data, max_pixels=max_pixels)
    if image.format != "PNG" or not image.mode.startswith("I"):
        raise BrokenSampleError(f"depth is a {image.format} of mode {image.mode}, not a 16-bit PNG")
    try:
        millimetres = np.asarray(image)
        return np.where(millimetres == 65535, 0, millimetres).astype(np.float32) / np.float32(DEPTH_UNIT)
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged depth image: {first_line(error)}") from None


def encode_depth(depth: np.ndarray) -> bytes:
    """Metres, H x W, as 16-bit PNG in millimetres. What is not finite, negative or beyond `FARTHEST` becomes 0 = unknown."""
    millimetres = (np.where(np.isfinite(depth), depth, 0) * DEPTH_UNIT).round()
    millimetres = np.where((millimetres >= 0) & (millimetres < 65535), millimetres, 0).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(millimetres).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def decode_segmentation(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 or uint16 H x W of class indices from a PNG, TIFF, BMP, GIF or PGM of 8 or 16 bits. Raises `BrokenSampleError`, also for
    colours instead of indices.

    The colours of a palette do not matter: the pixels are the indices. Grey that is stored as equal red, green and blue, or
    with an alpha that hides nothing, is grey.
    """
    image = open_image(data, max_pixels=max_pixels)
    if image.format not in MASK_FORMATS:
        raise BrokenSampleError(f"mask is no PNG: {image.format} changes the indices")
    try:
        largest = _largest_grey(data, image)
        indices = np.array(image)
    except BrokenSampleError:
        raise
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged mask: {first_line(error)}") from None
    if indices.ndim == 3 and (indices[..., 1:3] == indices[..., :1]).all() and (indices[..., 3:] == 255).all():
        return indices[..., 0]
    if image.mode == "LA" and (indices[..., 1] == 255).all():
        return indices[..., 0]
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise BrokenSampleError(f"mask holds colours, not class indices: {image.format} of mode {image.mode}; --palette names them")
    if largest and image.mode in ("L", "I"):  # Pillow stretches grey to the whole range
        indices = (indices * (largest / (255 if image.mode == "L" else 65535))).round()
        return indices.astype(np.uint8 if largest < 256 else np.uint16)
    if not image.mode.startswith("I"):
        return indices.astype(np.uint8)
    if indices.min() < 0 or indices.max() > 65535:
        raise BrokenSampleError(f"mask holds values that are no class index: {indices.min()} to {indices.max()}")
    return indices.astype(np.uint16)


def _largest_grey(data: bytes, image: Image.Image) -> int | None:
    """The largest grey value that a file of 2 or 4 bits, or a PGM with a maximum of its own, can hold; None where Pillow keeps values.

    Raises `BrokenSampleError` for a TIFF whose 0 is white, because readers do not agree on its values.
    """
    if image.format == "PNG":
        bits, grey = data[24], data[25] == 0
        return 2**bits - 1 if grey and bits in (2, 4) else None
    if image.format == "PPM":
        stated = _PGM_LARGEST.match(data)
        return int(stated[1]) if stated and int(stated[1]) not in (255, 65535) else None
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, photometric = tags.get(258, (1,))[0], tags.get(262)
        if photometric == 0 and bits <= 8:
            raise BrokenSampleError("mask is a TIFF whose 0 is white, and readers do not agree on its values (save it as PNG)")
        return 2**bits - 1 if photometric == 1 and bits in (2, 4) else None
    return None


def is_stored_mask(data: bytes) -> bool:
    """Whether a mask is stored as it is: a PNG of one channel, whose values every reader takes for the same."""
    image = open_image(data)
    return image.format == "PNG" and len(image.getbands()) == 1 and _largest_grey(data, image) is None


def count_indices(indices: np.ndarray) -> dict[int, int]:
    """Value -> number of pixels, for the values that occur, in order."""
    counts = np.bincount(indices.ravel())
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def encode_segmentation(indices: np.ndarray) -> bytes:
    """Class indices, uint8 or uint16 H x W, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(indices).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
