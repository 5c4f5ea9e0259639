from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.foreign_rows import check_type, columns_of, decode, rows_of
from sightline.platform.data.kinds import IMAGES, PAIRS, POINTS, DataKind

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 255, (4, 5, 3), np.uint8)


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _tensor(arrays: np.ndarray) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(arrays.dtype), arrays.shape[1:])
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(arrays.ravel(), type=kind.storage_type))


def _read(kind: DataKind, table: pa.Table, asked: dict[str, str] | None = None) -> list[dict[str, Any]]:
    columns = columns_of(kind, kind.samples, asked or {}, table.column_names, "parquet:x")
    for ours, theirs in columns.items():
        check_type(next(column for column in kind.columns if column.name == ours), theirs, table.schema, "parquet:x")
    return [decode(row, kind) for row in rows_of(table, columns)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([_png(PHOTO)]),
        pa.array([_png(PHOTO)], pa.large_binary()),
        pa.array([{"bytes": _png(PHOTO), "path": "a.png"}]),
        pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([_png(PHOTO)])),
        _tensor(PHOTO[None]),
        _tensor(PHOTO.transpose(2, 0, 1)[None]),
        _tensor((PHOTO / 255).astype(np.float32)[None]),
        pa.array([PHOTO.tolist()], pa.list_(pa.list_(pa.list_(pa.uint8())))),
        pa.array([PHOTO.tolist()]),
        pa.array([[[], []], PHOTO.tolist()], pa.list_(pa.large_list(pa.list_(pa.uint8(), 3)))).slice(1),
        pa.array(
            [{"data": PHOTO.ravel().tolist(), "shape": [4, 5, 3]}],
            pa.struct([("data", pa.list_(pa.uint8())), ("shape", pa.list_(pa.int64()))]),
        ),
    ],
    ids=[
        "bytes",
        "large bytes",
        "hugging face",
        "dictionary",
        "tensor",
        "channels first",
        "floats",
        "lists",
        "lists of Python",
        "fixed lists",
        "data and shape",
    ],
)
def test_an_image_is_read_from_every_arrow_type(column: pa.Array) -> None:
    (row,) = _read(IMAGES, pa.table({"photo": column}), {"image": "photo"})
    np.testing.assert_array_equal(row["image"], PHOTO)
    assert row["id"].startswith("row-")


def test_a_row_of_hugging_face_with_a_path_alone_is_told() -> None:
    with pytest.raises(BrokenSampleError, match=r"only the path of a file is there, '/photos/a.png'.*embed_table_storage"):
        _read(IMAGES, pa.table({"image": [{"bytes": None, "path": "/photos/a.png"}, {"bytes": _png(PHOTO), "path": None}]}))
    with pytest.raises(BrokenSampleError, match=r"only the path of a file is there, '/photos/a.png'"):
        _read(IMAGES, pa.table({"image": [{"bytes": None, "path": "/photos/a.png"}]}))


def test_grey_and_alpha_arrays_are_as_grey_and_alpha_files() -> None:
    (grey,) = _read(IMAGES, pa.table({"image": _tensor(PHOTO[None, ..., 0])}))
    np.testing.assert_array_equal(grey["image"], np.repeat(PHOTO[..., :1], 3, 2))
    clear = np.dstack([PHOTO, np.zeros((4, 5), np.uint8)])
    (white,) = _read(IMAGES, pa.table({"image": _tensor(clear[None])}))
    assert (white["image"] == 255).all()


def test_pairs_clouds_and_labels() -> None:
    cloud = RNG.normal(size=(6, 3)).astype(np.float32)
    (pair,) = _read(
        PAIRS, pa.table({"left": [_png(PHOTO)], "right": [_png(255 - PHOTO)], "id": [7]}), {"image1": "left", "image2": "right"}
    )
    assert pair["id"] == "7" and (pair["image2"] == 255 - PHOTO).all()
    for table, asked in (
        (pa.table({"xyz": [cloud.tolist()]}), {"points": "xyz"}),
        (pa.table({"points": _tensor(cloud[None])}), {}),
        (pa.table({name: [cloud[:, axis].tolist()] for axis, name in enumerate("xyz")}), {"points": "x,y,z"}),
    ):
        (row,) = _read(POINTS, table, asked)
        np.testing.assert_array_equal(row["points"], cloud)
        assert row["points"].dtype == np.float32
    columns = columns_of(IMAGES, ("image", "label"), {"label": "cls"}, ["__key__", "jpg", "cls", "pyd"], "webdataset:x")
    assert columns == {"image": ("jpg",), "label": ("cls",)}, "the members of WebDataset, and no pickle"
    table = pa.table({"__key__": ["a/1"], "jpg": [_png(PHOTO)], "cls": [b"3"]})
    (row,) = [decode(row, IMAGES) for row in rows_of(table, columns)]
    assert row["label"] == 3 and row["id"] == "a/1"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "is empty"),
        (b"no image", "not a readable image"),
        (np.full((4, 5, 3), 2.0, np.float32), r"floats of an image lie in \[0, 1\], and these from 2 to 2: convert it to uint8"),
        (np.full((4, 5, 3), -1.0), r"from -1 to -1: undo its normalisation"),
        (np.full((4, 5, 3), 65535, np.uint16), r"an image of uint16 from 65535 to 65535: whole numbers are 0 .. 255"),
        (np.zeros((6, 5, 7), np.uint8), r"shape \(6, 5, 7\) is no image"),
        (np.full((4, 5, 3), 256), "an image of int64 from 256 to 256"),
    ],
)
def test_a_row_that_is_no_image_is_named(value: Any, word: str) -> None:
    with pytest.raises(BrokenSampleError, match=f"^a: image: .*{word}"):
        decode({"id": "a", "image": value}, IMAGES)


def test_floats_may_leave_their_range_by_rounding() -> None:
    seen = decode({"id": "a", "image": np.full((4, 5, 3), [-1e-6, 0.5, 1.00001])}, IMAGES)["image"]
    assert seen[0, 0].tolist() == [0, 128, 255]


def test_a_cloud_far_from_the_origin_keeps_its_shape() -> None:
    cloud = RNG.normal(size=(20, 3))
    seen = decode({"id": "a", "points": cloud + 5e6}, POINTS)["points"]
    np.testing.assert_allclose(seen - seen.mean(axis=0), cloud - cloud.mean(axis=0), atol=1e-5)


def test_a_cloud_with_normals_or_turned_is_told_what_to_give() -> None:
    for cloud, word in ((np.zeros((9, 6)), r"not \(9, 6\); of more columns give x y z alone"), (np.zeros((3, 50)), "it looks transposed")):
        with pytest.raises(BrokenSampleError, match=word):
            decode({"id": "a", "points": cloud}, POINTS)


@pytest.mark.parametrize("cloud", [np.zeros((3, 6)), np.zeros(9), np.full((4, 3), np.nan), np.zeros((0, 3)), [[1.0, 2.0], [3.0]]])
def test_a_row_that_is_no_cloud_is_named(cloud: Any) -> None:
    with pytest.raises(BrokenSampleError, match=r"^a: points: "):
        decode({"id": "a", "points": cloud}, POINTS)


def test_columns_that_are_not_there_are_told_with_those_that_are() -> None:
    with pytest.raises(CallError, match="none of its columns is called image; columns: img, y") as caught:
        columns_of(IMAGES, ("image",), {}, ["img", "y"], "parquet:x")
    assert "?image=NAME" in caught.value.hint
    with pytest.raises(CallError, match="no column 'photo'; columns: img, y"):
        columns_of(IMAGES, ("image",), {"image": "photo"}, ["img", "y"], "parquet:x")
    with pytest.raises(CallError, match="images have no column 'imgae': did you mean 'image'"):
        columns_of(IMAGES, ("image",), {"imgae": "img"}, ["img"], "parquet:x")
    with pytest.raises(CallError, match=r"'data\.pyd' for image is a pickle"):
        columns_of(IMAGES, ("image",), {"image": "data.pyd"}, ["data.pyd"], "webdataset:x")


class _Pickled(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> _Pickled:
        return cls()


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (pa.string(), "is text"),
        (pa.int64(), "int64"),
        (pa.list_(pa.uint8()), "list<"),
        (pa.list_(pa.list_(pa.string())), "list<"),
        (_Pickled(), "pickled Python objects"),
        (pa.list_(_Pickled()), "pickled Python objects"),
        (pa.struct([("path", pa.string())]), "struct<"),
    ],
)
def test_types_that_are_no_image_are_refused_by_name(kind: pa.DataType, word: str) -> None:
    column = next(column for column in IMAGES.columns if column.name == "image")
    with pytest.raises(CallError, match=rf"column 'img' .*{word}"):
        check_type(column, ("img",), pa.schema([("img", kind)]), "parquet:x")
