"""Lists of points: what their columns are, text as people save it, PCD, LAS, KITTI."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.prepare.formats import pcd
from sightline.platform.data.prepare.formats.columns import named_cloud, nameless_cloud
from sightline.platform.data.prepare.formats.lists import read_array_file, read_text
from sightline.platform.data.prepare.formats.ply import read_ply
from sightline.platform.data.prepare.formats.scans import read_bin, read_las
from sightline.platform.data.prepare.formats.shapes import Cloud

CASES = Path(__file__).resolve().parents[5].parent / "shared" / "cases"
G = np.random.default_rng(0)
XYZ = G.random((60, 3)) * 9
NORMALS = (lambda v: v / np.linalg.norm(v, axis=1, keepdims=True))(G.normal(size=(60, 3)))
COLOURS = G.integers(0, 256, (60, 3))
NUMBERS = G.integers(0, 5, (60, 1))
INTENSITY = G.random((60, 1)) - 0.5


@pytest.mark.parametrize(
    ("columns", "normals", "part", "left_out"),
    [
        ([], False, False, ()),
        ([NUMBERS], False, True, ()),
        ([INTENSITY], False, False, ("a column of numbers",)),
        ([NORMALS], True, False, ()),
        ([NORMALS.astype(np.float16)], True, False, ()),
        ([np.where(NUMBERS == 0, 0, NORMALS)], True, False, ()),
        ([COLOURS], False, False, ("colour",)),
        ([COLOURS / 255], False, False, ("colour",)),
        ([np.full((60, 3), 0.577)], False, False, ("colour",)),
        ([NORMALS, NUMBERS], True, True, ()),
        ([COLOURS, NUMBERS], False, True, ("colour",)),
        ([-1000 * NUMBERS - 1, COLOURS], False, True, ("colour",)),
        ([INTENSITY, COLOURS], False, False, ("colour", "a column of numbers")),
        ([COLOURS, NORMALS], True, False, ("colour",)),
        ([NORMALS, COLOURS], True, False, ("colour",)),
        ([COLOURS, INTENSITY, NORMALS], True, False, ("colour", "a column of numbers")),
    ],
)
def test_columns_without_names_are_what_their_values_can_be(
    columns: list[np.ndarray], normals: bool, part: bool, left_out: tuple[str, ...]
) -> None:
    cloud = nameless_cloud(np.concatenate([XYZ, *columns], axis=1), "a.txt")
    assert np.array_equal(cloud.points, XYZ) and (cloud.normals is not None, cloud.part is not None, cloud.left_out) == (
        normals,
        part,
        left_out,
    )


def test_numbers_that_can_be_neither_normals_nor_colours_are_refused() -> None:
    for wrong in (NORMALS * 3, NORMALS * [[1, 1, 1.4]], COLOURS * 0.01 - 1):
        with pytest.raises(BrokenSampleError, match=r"columns 4 to 6 are neither unit normals nor colours.*lengths"):
            nameless_cloud(np.concatenate([XYZ, wrong], axis=1), "a.txt")
    for shape, says in (((5, 5), "not 3, 4, 6, 7, 9 or 10 columns"), ((3, 900), "it looks transposed")):
        with pytest.raises(BrokenSampleError, match=says):
            nameless_cloud(np.zeros(shape), "a.npy")


def test_names_say_what_columns_are() -> None:
    names = dict(zip(["X", "Y", "z", "nx", "ny", "nz"], np.concatenate([XYZ, NORMALS], axis=1).T, strict=True))
    cloud = named_cloud({"red": COLOURS[:, 0], "scalar_Intensity": INTENSITY[:, 0], "Label": NUMBERS[:, 0], **names}, "a.ply")
    assert np.array_equal(cloud.points, XYZ) and cloud.normals is not None and np.array_equal(cloud.normals, NORMALS)
    assert cloud.part is not None and cloud.part.tolist() == NUMBERS[:, 0].tolist() and cloud.left_out == ("colour", "scalar_intensity")
    for scale, why in ((3, "normals, which are no unit vectors"), (0, "normals, which are all zero")):
        cloud = named_cloud({**names, "nx": scale * NORMALS[:, 0], "ny": scale * NORMALS[:, 1], "nz": scale * NORMALS[:, 2]}, "a.ply")
        assert cloud.normals is None and cloud.left_out == (why,)
    with pytest.raises(BrokenSampleError, match=r"points without x, y and z: a\.csv has lon, lat"):
        named_cloud({"lon": XYZ[:, 0], "lat": XYZ[:, 1]}, "a.csv")


ROWS = [[0.5, 1.5, 2.5, 7], [3.5, 4.5, 5.5, 8], [1e6, -2.25, 3, 9]]


@pytest.mark.parametrize(
    ("head", "between", "point"),
    [
        ("", " ", "."),
        ("# made by a tool\n\n", "\t", "."),
        ("3\n", "  ", "."),
        ("x y z i\n", " ", "."),
        ("//X Y Z Intensity\n", " ", "."),
        ("# made by a tool\nx,y,z,i\n", ",", "."),
        ('"Points:0", "Points:1","Points:2","i"\n', ", ", "."),
        ("X [m];Y [m];Z [m];I\n", ";", ","),
    ],
)
def test_text_as_people_save_it(head: str, between: str, point: str) -> None:
    """Counts, comments, headers, separators, decimal commas, line ends, encodings."""
    lines = head + "\n".join(between.join(repr(value).replace(".", point) for value in row) for row in ROWS) + "\n\n"
    for text in (lines, lines.replace("\n", "\r\n"), lines.replace("\n", "\r"), lines.replace("\n", f"{between.strip()}\n")):
        if text.startswith(between.strip() or "?"):
            continue
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            assert np.array_equal(read_text(text.encode(encoding), ".csv", "a.csv").points, np.array(ROWS)[:, :3])
    named = head.rstrip('"\n').lower().endswith(("i", "intensity"))
    assert (read_text(lines.encode(), ".txt", "a.txt").part is None) == named, "a column that a header calls an intensity is no part"


def test_text_that_is_no_list_says_why() -> None:
    for content, says in (
        (b"1 2 3\n4 5\n", "the number of columns changed"),
        (b"1 2 3 chair\n", "could not convert string 'chair'"),
        (b"PK\x03\x04\xff", "a.txt is not text"),
        (b"ncols 4\nnrows 2\ncellsize 1\n1 2 3 4\n5 6 7 8\n", "could not convert string 'ncols'"),
        (b"x,y,z,name\n1,2,3,chair\n", "could not convert string 'chair'"),
        (b"x,y,name\n1,2,3\n", "points without x, y and z"),
    ):
        with pytest.raises(BrokenSampleError, match=says):
            read_text(content, ".txt", "a.txt")


def test_points_of_a_ply_keep_double_precision_and_normals() -> None:
    head = "ply\nformat binary_big_endian 1.0\nelement vertex 60\nproperty double x\nproperty double y\nproperty double z\n"
    head += "property uchar red\nproperty float nx\nproperty float ny\nproperty float nz\nend_header\n"
    table = np.empty(60, [("p", ">f8", 3), ("red", "u1"), ("n", ">f4", 3)])
    table["p"], table["n"] = XYZ + 5e6, NORMALS
    cloud = read_ply(head.encode() + table.tobytes(), "a.ply")
    assert isinstance(cloud, Cloud) and np.array_equal(cloud.points, XYZ + 5e6) and cloud.left_out == ("colour",)
    np.testing.assert_allclose(cloud.normals, NORMALS, atol=1e-6)


@pytest.mark.parametrize("order", ["", "<"], ids=["text", "binary"])
def test_points_of_a_ply_may_have_lists_and_no_faces(order: str) -> None:
    """As multi-view stereo writes them: the cameras that see a point stand in its middle."""
    head = f"ply\nformat {'binary_little_endian' if order else 'ascii'} 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    head += "property list uchar int view\nproperty double z\nelement face 0\nproperty list uchar int vertex_indices\nend_header\n"
    points = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    if order:
        body = b"".join(struct.pack(f"<ffB{i}id", x, y, i, *range(i), z) for i, (x, y, z) in enumerate(points))
    else:
        body = "".join(f"{x} {y} {i} {' '.join(map(str, range(i)))} {z}\n" for i, (x, y, z) in enumerate(points)).encode()
    cloud = read_ply(head.encode() + body, "a.ply")
    assert isinstance(cloud, Cloud) and cloud.points.tolist() == points


def lzf_packed(data: bytes) -> bytes:
    """LZF of runs of one byte, as literals and as copies that overlap what they write."""
    made, at = b"", 0
    while at < len(data):
        run = next((n for n in range(1, 265) if data[at : at + n] != data[at : at + 1] * n), 265) - 1
        if run >= 4:
            made += bytes([0, data[at]]) + (bytes([(run - 3) << 5, 0]) if run - 1 <= 8 else bytes([0xE0, run - 10, 0]))
            at += run
        else:
            made += bytes([0, data[at]])
            at += 1
    return made


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_pcd(form: str) -> None:
    """With normals, packed colour, padding, and points without a reading."""
    points = np.concatenate([np.round(XYZ, 3), [[np.nan] * 3]])
    normals = np.concatenate([NORMALS, [[np.nan] * 3]])
    columns = [*points.T, *normals.T, np.full(61, 4.2e6)]
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z normal_x normal_y normal_z rgb _\nSIZE 8 8 8 4 4 4 4 1\nTYPE F F F F F F F U\n"
    head += f"COUNT 1 1 1 1 1 1 1 4\nWIDTH 61\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 61\nDATA {form}\n"
    kinds = ["<f8"] * 3 + ["<f4"] * 4
    if form == "ascii":
        body = "\n".join(" ".join([*(repr(float(v)) for v in row), "0 0 0 0"]) for row in np.column_stack(columns)).encode()
    elif form == "binary":
        table = np.zeros(61, [*((f"f{i}", kind) for i, kind in enumerate(kinds)), ("_", "u1", 4)])
        for i, column in enumerate(columns):
            table[f"f{i}"] = column
        body = table.tobytes()
    else:
        plain = b"".join(column.astype(kind).tobytes() for column, kind in zip(columns, kinds, strict=True)) + bytes(4 * 61)
        packed = lzf_packed(plain)
        assert pcd.lzf(packed, len(plain)) == plain
        body = np.array([len(packed), len(plain)], "<u4").tobytes() + packed
    cloud = pcd.read_pcd(head.encode() + body, "a.pcd")
    assert np.array_equal(cloud.points, points[:60]) and cloud.left_out == ("colour", "points without a reading (NaN)")
    np.testing.assert_allclose(cloud.normals, NORMALS, atol=1e-6)
    assert len(read_bin(head.replace("TYPE F F F F F F F U", "TYPE f f f f f f f u").encode() + body, "a.pcd.bin").points) == 60
    with pytest.raises(BrokenSampleError, match="cut short"):
        pcd.read_pcd(head.encode() + body[: len(body) // 2], "a.pcd")


def test_pcd_that_lies_is_refused() -> None:
    head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {0}\nHEIGHT 1\nDATA {1}\n"
    for count, form, body, says in (
        (10**9, "binary", b"", "a list of more than 20,000,000 points"),
        (10**7, "binary_compressed", np.array([4, 12 * 10**7], "<u4").tobytes() + b"\xe0\xff\x00\x00", "refer to what is not there"),
        (2, "binary_compressed", np.array([4, 99], "<u4").tobytes() + b"0000", "which unpack to 99; 24 are needed"),
        (2, "zip", b"", "its points are stored as 'zip'"),
        (2, "ascii", b"1 2 3\n", "1 lines for 2 points"),
    ):
        with pytest.raises(BrokenSampleError, match=says):
            pcd.read_pcd(head.format(count, form).encode() + body, "a.pcd")


@pytest.mark.parametrize("packed", [False, True], ids=["las", "laz"])
def test_las_as_laspy_writes_it(packed: bool) -> None:
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.offsets, header.scales = [400_000, 5_400_000, 0], [0.001] * 3
    las = laspy.LasData(header)
    points = np.round(XYZ + np.array([451_000, 5_412_000, 200]), 3)
    las.x, las.y, las.z = points.T
    las.write(file := io.BytesIO(), do_compress=packed)
    cloud = read_las(file.getvalue(), "a.laz")
    np.testing.assert_allclose(cloud.points, points, atol=1e-6)
    assert cloud.left_out == ("intensity", "classification", "colour")
    for cut in (100, 300, len(file.getvalue()) - 40):
        with pytest.raises(BrokenSampleError, match=r"cut short|cannot be read as LAS"):
            read_las(file.getvalue()[:cut], "a.laz")
    for place, promised in ((100, 2**32 - 1), (107, 2**31), (96, 2**32 - 1)):  # records, points, where points begin
        lying = bytearray(file.getvalue())
        lying[place : place + 4] = promised.to_bytes(4, "little")
        with pytest.raises(BrokenSampleError, match=r"cut short|more than 20,000,000 points"):
            read_las(bytes(lying), "a.laz")


def test_bin_is_read_where_a_scanner_could_have_made_it() -> None:
    seen = np.concatenate([XYZ * [5, -5, 0.2], np.abs(INTENSITY)], axis=1).astype("<f4")
    cloud = read_bin(seen.tobytes(), "000000.bin")
    assert np.array_equal(cloud.points, seen[:, :3]) and cloud.left_out == ("intensity",)
    ring = np.concatenate([seen, NUMBERS], axis=1).astype("<f4")
    assert np.array_equal(read_bin(ring.tobytes(), "n015.pcd.bin").points, seen[:, :3])
    for other in (
        b"",
        seen.tobytes()[:-1],
        XYZ.tobytes()[:1440],
        COLOURS.astype("<i4").tobytes(),
        NORMALS.astype("<f4").tobytes(),
        bytes(160),
    ):
        with pytest.raises(BrokenSampleError, match="not the points of KITTI"):
            read_bin(other, "weights.bin")


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
def test_colours_from_the_field_are_no_normals() -> None:
    for path in (CASES / "points-xyzrgb-as-normals").glob("*.txt"):
        cloud = read_text(path.read_bytes(), ".txt", path.name)
        assert cloud.normals is None and cloud.part is None and cloud.left_out == ("colour",)


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_columns_that_would_be_taken_for_others_are_refused() -> None:
    count = np.arange(60)[:, None]
    with pytest.raises(BrokenSampleError, match="its first column counts the rows"):
        nameless_cloud(np.hstack([count, XYZ]), "a.txt")
    with pytest.raises(BrokenSampleError, match="two columns are named x"):
        read_text(b"x,y,z,x\n1,2,3,4\n", ".csv", "a.csv")
    with pytest.raises(BrokenSampleError, match="two columns are named x"):
        named_cloud({"x (m)": count, "X [ft]": count, "y": count, "z": count}, "a.csv")


def test_decimal_commas_between_spaces_or_tabs() -> None:
    for between in (" ", "\t"):
        text = "\n".join(between.join(f"{value:.6f}".replace(".", ",") for value in row) for row in XYZ)
        assert np.allclose(read_text(text.encode(), ".txt", "a.txt").points, XYZ, atol=1e-6)


def test_a_line_without_end_is_refused_before_its_numbers_are_read() -> None:
    with pytest.raises(BrokenSampleError, match="a line of 12,000 characters"):
        read_text(b"1 " * 6000, ".txt", "a.txt")


def test_archives_give_their_normals_and_tell_of_the_rest() -> None:
    cloud = read_array_file(saved(points=XYZ, normals=NORMALS, occupancies=np.zeros(8, "u1")), ".npz", "a.npz")
    assert np.array_equal(cloud.normals, NORMALS) and cloud.left_out == ("occupancies",)  # type: ignore[arg-type]
    assert read_array_file(saved(points=XYZ, normals=NORMALS * 2), ".npz", "a.npz").left_out == ("normals",)
    table = np.zeros(60, [("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "f4")])
    table["x"], table["y"], table["z"] = XYZ.T
    file = io.BytesIO()
    np.save(file, table)
    cloud = read_array_file(file.getvalue(), ".npy", "a.npy")
    assert np.array_equal(cloud.points, XYZ) and cloud.left_out == ("intensity",)


def test_withheld_points_of_las_are_deleted_ones() -> None:
    import laspy

    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.x, las.y, las.z = XYZ.T
    las.withheld = (np.arange(60) < 20).astype("u1")
    file = io.BytesIO()
    las.write(file)
    cloud = read_las(file.getvalue(), "a.las")
    assert np.allclose(cloud.points, XYZ[20:], atol=0.01) and "points that are withheld, which means deleted" in cloud.left_out


@pytest.mark.parametrize("width", [3, 5, 6])
def test_bin_of_another_number_of_columns_is_never_scrambled(width: int) -> None:
    """All numbers positive, as an intensity is, and as many as rows of four would have."""
    near, ring = np.linspace(1, 70, 1200), np.arange(1200) % 32
    rows = np.column_stack([near, np.full(1200, 20.0), *G.random((2, 1200)), ring, G.random(1200)])
    with pytest.raises(BrokenSampleError, match=f"repeat after {width} columns, not 4"):
        read_bin(rows[:, :width].astype("<f4").tobytes(), "a.bin")
    assert len(read_bin(rows[:, :4].astype("<f4").tobytes(), "a.bin").points) == 1200
