"""OFF, OBJ, STL and PLY as people bring them: polygons, byte orders, line ends, letter case."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.prepare import meshes
from sightline.platform.data.prepare.formats import obj, polygons, shapes
from sightline.platform.data.prepare.formats import ply as ply_format
from sightline.platform.data.prepare.formats.polygons import Polygons, triangulated
from sightline.platform.data.prepare.formats.shapes import Cloud, Mesh

CASES = Path(__file__).resolve().parents[5].parent / "shared" / "cases"
ARROW = [[0, 0, 0], [4, 2, 0], [0, 4, 0], [1, 2, 0]]
"""A concave quad of area 6; cut from its first corner, half of it lies outside."""
LETTER = [[0, 0, 0], [3, 0, 0], [3, 1, 0], [1, 1, 0], [1, 3, 0], [0, 3, 0]]
"""An L of area 5."""


def parsed(name: str, content: str | bytes) -> Mesh | Cloud:
    return meshes.READERS[Path(name).suffix](content if isinstance(content, bytes) else content.encode(), name)


def mesh(name: str, content: str | bytes) -> Mesh:
    found = parsed(name, content)
    assert isinstance(found, Mesh)
    return found


def turned_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Along z; positive where the triangle turns as the polygon does."""
    a, b, c = (np.asarray(vertices, float)[faces[:, i]] for i in range(3))
    return np.asarray(np.cross(b - a, c - a)[:, 2] / 2)


@pytest.mark.parametrize(("polygon", "area"), [(ARROW, 6), (LETTER, 5), (ARROW[1:] + ARROW[:1], 6), (LETTER[::-1], -5)])
def test_concave_polygons_keep_their_area_and_their_side(polygon: list[list[int]], area: float) -> None:
    for shift in range(len(polygon)):
        rolled = np.roll(np.array(polygon, float), shift, axis=0)
        faces = triangulated(rolled, Polygons(np.arange(len(rolled)), np.array([len(rolled)])))
        parts = turned_areas(rolled, faces)
        assert parts.sum() == pytest.approx(area) and (parts * area > 0).all()
        assert np.abs(parts).sum() == pytest.approx(abs(area))


def test_convex_polygons_are_cut_as_they_always_were() -> None:
    """Data sets made before stay the same: triangles, first halves of quads, second halves, fans."""
    corners = [[0, 0, 0], [2, 0, 0], [3, 1, 0], [2, 2, 0], [0, 2, 0]]
    given = Polygons(np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]), np.array([5, 4, 3]))
    expected = [[0, 1, 2], [0, 1, 2], [2, 3, 0], [0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert triangulated(np.array(corners, float), given).tolist() == expected
    in_order = [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 1, 2], [2, 3, 0], [0, 1, 2]]
    assert triangulated(np.array(corners, float), given, in_order=True).tolist() == in_order
    with pytest.raises(ValueError, match="names vertex 5 of 5"):
        triangulated(np.array(corners, float), Polygons(np.array([0, 1, 5]), np.array([3])))


def in_off(points: list[list[int]], faces: list[list[int]], first: str = "OFF", after: str = "") -> str:
    rows = [f"{x} {y} {z}{after}" for x, y, z in points] + [" ".join(map(str, [len(face), *face])) for face in faces]
    return "\n".join([first, f"{len(points)} {len(faces)} 0", *rows]) + "\n"


@pytest.mark.parametrize(
    ("first", "after"),
    [
        ("OFF", ""),
        ("off", ""),
        ("\ufeffOFF", ""),
        ("# a\n\nOFF # b", ""),
        ("COFF", " 9 9 9 255"),
        ("NOFF", " 0 0 1"),
        ("STCNOFF", " 0 0 1 1 1 1"),
    ],
)
def test_off_with_any_header(first: str, after: str) -> None:
    text = in_off(LETTER, [[0, 1, 2, 3, 4, 5]], first, after)
    for ends in ("\n", "\r\n", "\r"):
        found = mesh("a.off", text.replace("\n", ends))
        assert turned_areas(found.vertices, found.faces).sum() == 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (in_off(ARROW, [[0, 1, 2, 3]])[4:], "cannot be read as OFF: a.off, its first line is '4 1 0', and not the word OFF"),
        (in_off(ARROW, [[0, 1, 2, 3]], "4OFF"), "OFF of other than three dimensions"),
        (in_off(ARROW, [[0, 1, 2, 3]], "OFF BINARY"), "binary OFF is not read"),
        (in_off(ARROW, [[0, 1, 2, 3], [0, 1, 2]])[:-8], "cut short: 5 lines for 4 vertices and 2 faces"),
        ("OFF\n", "does not say how many"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n1 1 0\n4 0 1 2\n", "a face of 4 corners has 3"),
    ],
)
def test_off_that_is_none_says_why(content: str, says: str) -> None:
    with pytest.raises(BrokenSampleError, match=says):
        parsed("a.off", content)


def test_obj_counts_from_either_end_and_takes_any_spacing() -> None:
    """Negative numbers count back from the last vertex so far, not from the last of the file."""
    lines = ["# c", "v\t0 0 0", "  v 2 0 0 1 0 0", "v 2 1 0", "v 0 1 0", "f -4//1 -3//1 \\", " -2//1 -1//1", "usemtl b"]
    lines += ["v 10 0 0", "v 13 0 0", "v 13 1 0", "vt 0 0", "f -3/1 -2/1 -1/1", "l 1 2", "p 1"]
    for ends in ("\n", "\r\n", "\r"):
        found = mesh("a.obj", ends.join(lines))
        assert turned_areas(found.vertices, found.faces).tolist() == [1.5, 1, 1]
    with pytest.raises(BrokenSampleError, match="curved surfaces"):
        parsed("a.obj", "v 0 0 0\ncstype bspline\nsurf 0 1 0 1 1 1 1 1\n")
    with pytest.raises(BrokenSampleError, match="names vertex 0"):
        parsed("a.obj", "v 0 0 0\nv 1 0 0\nv 1 1 0\nf 0 1 2\n")


def test_stl_of_any_kind() -> None:
    facet = "facet normal 0 0 1\n outer loop\n  vertex 0 0 0\n  VERTEX 2e0 0 0\n  vertex 0 1 0\n endloop\nendfacet\n"
    text = f"solid my vertex solid\n{facet}endsolid my vertex solid\nsolid two\n{facet}endsolid\n"
    for ends in ("\n", "\r\n", "\r"):
        assert turned_areas(*mesh("a.stl", text.replace("\n", ends))[:2]).tolist() == [1, 1]
    one = np.array([0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0], "<f4").tobytes() + b"\0\0"
    for head in (b"solid binary".ljust(80), b"\0" * 80):
        for rest in (b"", b"more") if head[:1] == b"\0" else (b"",):
            assert turned_areas(*mesh("a.stl", head + struct.pack("<I", 1) + one + rest)[:2]).tolist() == [1]
    with pytest.raises(BrokenSampleError, match=r"cut short: a\.stl has 134 bytes, 2 facets need 184"):
        parsed("a.stl", b"\0" * 80 + struct.pack("<I", 2) + one)


def ply(order: str, *, extra: bool = True, strips: bool = False) -> bytes:
    """An L, a triangle, a quad; as strips two triangles and one."""
    points = np.array([*LETTER, [10, 0, 0], [12, 0, 0], [12, 1, 0], [10, 1, 0]])
    faces = [[0, 1, 2, 3, 4, 5], [6, 7, 8], [6, 7, 8, 9]] if not strips else [[6, 7, 9, 8, -1, 0, 1, 2]]
    name = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}[order]
    wide = "property uchar flags\n" if extra else ""
    after = "property list ushort float texcoord\nproperty int group\n" if extra else ""
    head = f"ply\nformat {name} 1.0\ncomment made\nelement vertex {len(points)}\nproperty double x\nproperty float y\nproperty short z\n"
    head += f"element {'tristrips' if strips else 'face'} {len(faces)}\n{wide}property list uchar int vertex_indices\n{after}"
    head += "element edge 1\nproperty int vertex1\nproperty int vertex2\nend_header\n"
    if not order:
        rows = [" ".join(map(str, p)) for p in points]
        for number, face in enumerate(faces):
            words = [*([7] if extra else []), len(face), *face, *([number, *[0.5] * number, number] if extra else [])]
            rows.append(" ".join(map(str, words)))
        return (head + "\n".join([*rows, "0 1"]) + "\n").encode()
    body = b"".join(struct.pack(f"{order}dfh", *p) for p in points.tolist())
    for number, face in enumerate(faces):
        body += struct.pack("B", 7) if extra else b""
        body += struct.pack(f"{order}B{len(face)}i", len(face), *face)
        body += struct.pack(f"{order}H{number}fi", number, *[0.5] * number, number) if extra else b""
    return head.encode() + body + struct.pack(f"{order}ii", 0, 1)


@pytest.mark.parametrize("order", ["", "<", ">"], ids=["text", "little", "big"])
@pytest.mark.parametrize("extra", [False, True], ids=["plain", "extra"])
def test_ply_with_polygons_of_any_number_of_corners(order: str, extra: bool) -> None:
    """In text and both byte orders, between other properties of the faces."""
    found = mesh("a.ply", ply(order, extra=extra))
    assert turned_areas(found.vertices, found.faces).sum() == 5 + 1 + 2
    found = mesh("a.ply", ply(order, extra=extra, strips=True))
    assert sorted(turned_areas(found.vertices, found.faces)) == [1, 1, 1.5], "a strip, and another one after -1"


@pytest.mark.parametrize("order", ["", "<", ">"], ids=["text", "little", "big"])
def test_ply_that_is_cut_is_never_read_as_less(order: str) -> None:
    whole = ply(order)
    for cut in range(20, len(whole) - 1, 5):
        with pytest.raises(BrokenSampleError, match=r"cut short|cannot be read"):
            parsed("a.ply", whole[:cut])


def test_ply_header_of_an_old_mac() -> None:
    text = ply("", extra=False)
    assert len(mesh("a.ply", text.replace(b"\n", b"\r")).faces) == len(mesh("a.ply", text.replace(b"\n", b"\r\n")).faces) == 7
    binary = ply("<", extra=False)
    end = binary.index(b"end_header\n") + 11
    assert len(mesh("a.ply", binary[:end].replace(b"\n", b"\r") + binary[end:]).faces) == 7
    assert len(mesh("a.ply", binary[:end].replace(b"\n", b"\r\n") + binary[end:]).faces) == 7


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
def test_mixed_polygons_from_the_field() -> None:
    for path in sorted((CASES / "ply-mixed-polygons").glob("*.ply")):
        found = mesh(path.name, path.read_bytes())
        assert turned_areas(found.vertices, found.faces).tolist() == [0.5, 0.5, 0.5], path.name


def test_obj_read_many_lines_at_once_is_what_its_lines_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces from either end and with normals, quads, comments and materials; long runs of lines are read by NumPy."""
    rng = np.random.default_rng(0)
    corners = rng.random((200, 3)).round(6)
    rows = ["v " + " ".join(map(str, row)) for row in corners]
    faces = rng.integers(1, 201, (300, 3))
    lines = [
        *rows,
        *(f"f {a}//{b} {b}/1/2 {c - 201}" for a, b, c in faces),
        "usemtl b",
        *(f"f {a} {b} {c}  # no" for a, b, c in faces[::-1]),
    ]
    lines += [*(f"f {a} {b} {c} {a}" for a, b, c in faces[:90]), *(f"v {a} {b} {c} 1 0 0" for a, b, c in corners), "f -1 -2 -3"]
    fast = mesh("a.obj", "\n".join(lines))
    monkeypatch.setattr(obj, "MANY", 10**9)
    slow = mesh("a.obj", "\n".join(lines))
    assert np.array_equal(fast.vertices, slow.vertices) and np.array_equal(fast.faces, slow.faces) and len(fast.faces) > 690
    assert np.array_equal(fast.vertices, np.concatenate([corners, corners]))
    for wrong in ("f 0 1 2", "f 1 2 x", "f /1 /2 /3", "v 1 2 # 3"):
        monkeypatch.undo()
        with pytest.raises(BrokenSampleError):
            mesh("a.obj", "\n".join([*rows, *[wrong] * 100]))


def test_obj_and_stl_with_old_letters_and_what_would_be_lost() -> None:
    square = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    assert len(mesh("a.obj", ("# caf\xe9\nusemtl m\xfcll\n" + square + "f 1 2 \\ \n 3 4\n").encode("latin-1")).faces) == 2
    with pytest.raises(BrokenSampleError, match=r"curved surfaces \(surf\) are not read"):
        mesh("a.obj", square + "f 1 2 3\nsurf 0 1 0 1 1 2 3 4\nend\n")
    facet = struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0)
    for said in (0, 2):
        with pytest.raises(BrokenSampleError, match=f"says {said} facets and has 4"):
            mesh("a.stl", b"\0" * 80 + struct.pack("<I", said) + 4 * facet)


def test_areas_in_pieces_give_the_same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vertices, faces = rng.random((30, 3)), rng.integers(0, 30, (100, 3))
    whole = shapes.sampled(vertices, faces, 50, np.random.default_rng(1))
    monkeypatch.setattr(shapes, "PIECE", 7)
    pieces = shapes.sampled(vertices, faces, 50, np.random.default_rng(1))
    assert np.array_equal(whole.points, pieces.points) and np.array_equal(whole.normals, pieces.normals)


def test_polygons_in_pieces_give_the_same_triangles(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vertices, sizes = rng.random((30, 3)), rng.integers(0, 7, 100)
    given = Polygons(rng.integers(0, 30, sizes.sum()), sizes)
    whole = [triangulated(vertices, given, in_order=in_order) for in_order in (False, True)]
    values = b"".join(struct.pack(f"<B{size}h", size, *range(size)) for size in sizes)
    element = ply_format._Element("face", 100, [ply_format._Property("vertex_indices", np.dtype("<i2"), np.dtype("u1"))])
    for module in (polygons, ply_format):
        monkeypatch.setattr(module, "PIECE", 7)
    assert [np.array_equal(triangulated(vertices, given, in_order=bool(i)), whole[i]) for i in (0, 1)] == [True, True]
    read, end = ply_format._uneven(element, values, 0)
    assert end == len(values) and np.array_equal(read["vertex_indices"][0], np.concatenate([np.arange(size) for size in sizes]))
    monkeypatch.setattr(ply_format, "MAX_SCENE", 50)
    with pytest.raises(BrokenSampleError, match=f"more than 50 corners: they have {sizes.sum()}"):
        ply_format._uneven(element, values, 0)


def test_empty_lines_of_an_stl_cost_what_they_are() -> None:
    began = time.process_time()
    with pytest.raises(BrokenSampleError, match="empty mesh"):
        parsed("a.stl", b"solid x\n" + b"\n" * 100_000 + b"endsolid x\n")
    assert time.process_time() - began < 2, "with the square of their number it takes a minute"


def test_what_is_no_mesh_is_told_by_its_content(tmp_path: Path) -> None:
    for content, says in ((b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"), (b"<!DOCTYPE html>", "web page")):
        (tmp_path / "a.glb").write_bytes(content)
        with pytest.raises(BrokenSampleError, match=says):
            meshes.read_cloud(str(tmp_path / "a.glb"), 10, np.random.default_rng(0))


def test_points_in_binary_may_be_larger_than_text(tmp_path: Path) -> None:
    for name, content, limit in (("a.npy", b"\x93NUMPY\0", 256), ("a.pcd", b"VERSION 0.7\n", 64), ("a.glb", b"glTF\0\0", 64)):
        (tmp_path / name).write_bytes(content)
        assert meshes.limit_of(str(tmp_path / name)) == limit * 2**20


def test_a_header_of_too_many_faces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ply", "off"):
        monkeypatch.setattr(f"sightline.platform.data.prepare.formats.{module}.MAX_FACES", 1)
    head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nelement face 2\n"
    body = "0 0 0\n0 0 1\n0 1 0\n3 0 1 2\n3 0 1 2\n"
    with pytest.raises(BrokenSampleError, match="more than 1 faces"):
        meshes.read_ply(f"{head}property list uchar int vertex_indices\nend_header\n{body}".encode(), "x.ply")
    with pytest.raises(BrokenSampleError, match="more than 1 faces"):
        meshes.read_off(f"OFF\n3 2 0\n{body}".encode(), "x.off")
