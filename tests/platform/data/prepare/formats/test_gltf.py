"""glTF: what a file asks for is applied, or it is refused by its name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.prepare import meshes
from sightline.platform.data.prepare.formats import gltf
from sightline.platform.data.prepare.formats.shapes import Mesh

CASES = Path(__file__).resolve().parents[5].parent / "shared" / "cases"
SQUARE = np.array([[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0]])
TWO = np.array([0, 1, 2, 0, 2, 3])
TYPES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}


class Document:
    """A glTF document in the making; each array becomes a buffer view and an accessor."""

    def __init__(self, **more: Any) -> None:
        self.data, self.views, self.accessors = b"", list[Any](), list[Any]()
        self.more: dict[str, Any] = {"scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], **more}

    def view(self, values: np.ndarray) -> int:
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes})
        self.data += values.tobytes() + b"\0" * (-values.nbytes % 4)
        return len(self.views) - 1

    def array(self, values: Any, kind: str = "f4", **more: Any) -> int:
        values = np.asarray(values, f"<{kind}")
        of = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (16,): "MAT4"}[values.shape[1:]]
        self.accessors.append({"bufferView": self.view(values), "componentType": TYPES[kind], "count": len(values), "type": of, **more})
        return len(self.accessors) - 1

    def mesh(self, positions: Any = SQUARE, indices: Any = TWO, **more: Any) -> dict[str, Any]:
        primitive = {"attributes": {"POSITION": self.array(positions)}, **more}
        if indices is not None:
            primitive["indices"] = self.array(indices, "u2")
        return primitive

    def text(self, **buffer: Any) -> dict[str, Any]:
        parts = {"accessors": self.accessors, "bufferViews": self.views, "buffers": [{"byteLength": len(self.data), **buffer}]}
        return {"asset": {"version": "2.0"}, **parts, **self.more}

    def glb(self) -> bytes:
        return glb(self.text(), self.data)

    def read(self) -> Mesh:
        return gltf.read_gltf(self.glb(), "a.glb", fetch=lambda name: b"")


def glb(document: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def area(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def box(mesh: Mesh) -> list[list[float]]:
    used = mesh.vertices[np.unique(mesh.faces)] if len(mesh.faces) else mesh.vertices
    return [used.min(axis=0).tolist(), used.max(axis=0).tolist()]


def test_quantised_positions_have_their_size() -> None:
    """`KHR_mesh_quantization`: whole numbers that stand for fractions, with and without sign, are divided; others stay."""
    for kind, normalised, expected in (("u2", True, [1, 0.5, 0]), ("i1", True, [1, 0.5, 0]), ("u1", False, [254, 127, 0])):
        document = Document(extensionsRequired=["KHR_mesh_quantization"])
        most = {"u2": 65535, "i1": 127, "u1": 254}[kind]
        half = (most + 1) // 2
        position = document.array([[0, 0, 0], [most, 0, 0], [most, half, 0], [0, half, 0]], kind, normalized=normalised)
        primitive = {"attributes": {"POSITION": position}, "indices": document.array(TWO, "u2")}
        document.more["meshes"] = [{"primitives": [primitive]}]
        np.testing.assert_allclose(box(document.read())[1], expected, rtol=0.02)


def test_strips_and_fans_are_triangles_and_lines_are_none() -> None:
    for mode, indices in ((5, [0, 1, 3, 2]), (6, [0, 1, 2, 3]), (4, TWO)):
        document = Document()
        lines = document.mesh(SQUARE * 9, [0, 1], mode=1)
        document.more["meshes"] = [{"primitives": [document.mesh(indices=indices, mode=mode), lines]}]
        mesh = document.read()
        a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
        assert area(mesh) == 2 and (np.cross(b - a, c - a)[:, 2] > 0).all(), mode
    document = Document()
    document.more["meshes"] = [{"primitives": [document.mesh(), {"attributes": {}}]}]
    assert area(document.read()) == 2, "a primitive without positions is nothing"
    document = Document()
    document.more["meshes"] = [{"primitives": [document.mesh(indices=None, mode=0)]}]
    assert len(document.read().vertices) == 4 and not len(document.read().faces)


def test_sparse_accessors_morph_targets_and_instances_are_applied() -> None:
    document = Document()
    primitive = document.mesh()
    index, value = document.view(np.array([2, 3], "<u2")), document.view(np.array([[2, 5, 0], [0, 5, 0]], "<f4"))
    document.accessors[0]["sparse"] = {
        "count": 2,
        "indices": {"bufferView": index, "componentType": 5123},
        "values": {"bufferView": value},
    }
    document.more["meshes"] = [{"primitives": [primitive]}]
    assert area(document.read()) == 10
    document = Document()
    primitive = document.mesh(targets=[{"POSITION": document.array([[0, 0, 0], [2, 0, 0], [2, 0, 0], [0, 0, 0]])}])
    document.more["meshes"] = [{"primitives": [primitive], "weights": [0.5]}]
    assert area(document.read()) == 3
    document = Document(extensionsRequired=["EXT_mesh_gpu_instancing"])
    document.more["meshes"] = [{"primitives": [document.mesh()]}]
    at, scale = [[0, 0, 0], [10, 0, 0], [0, 0, 10]], [[1, 1, 1], [2, 2, 2], [1, 1, 1]]
    attributes = {"TRANSLATION": document.array(at), "SCALE": document.array(scale)}
    document.more["nodes"] = [{"mesh": 0, "translation": [0, 7, 0], "extensions": {"EXT_mesh_gpu_instancing": {"attributes": attributes}}}]
    assert area(document.read()) == 2 + 8 + 2 and box(document.read()) == [[0, 7, 0], [14, 9, 10]]


def test_a_skin_takes_its_mesh_where_its_joints_are() -> None:
    """The place of the node itself does not count then: exporters leave scales of 100 there."""
    document = Document()
    primitive = document.mesh()
    primitive["attributes"] |= {"JOINTS_0": document.array(np.zeros((4, 4)), "u1"), "WEIGHTS_0": document.array([[1, 0, 0, 0]] * 4)}
    document.more["meshes"] = [{"primitives": [primitive]}]
    document.more["skins"] = [{"joints": [1]}]
    document.more["scenes"] = [{"nodes": [0, 1]}]
    document.more["nodes"] = [{"mesh": 0, "skin": 0, "scale": [100, 100, 100]}, {"translation": [0, 0, 3]}]
    assert box(document.read()) == [[0, 0, 3], [2, 1, 3]]


def test_places_multiply_down_the_tree_and_mirrors_turn_faces() -> None:
    document = Document()
    document.more["meshes"] = [{"primitives": [document.mesh()]}]
    turn = [0, 0, np.sqrt(0.5), np.sqrt(0.5)]  # a quarter about z
    document.more["nodes"] = [{"children": [1], "translation": [1, 0, 0], "scale": [2, 2, 2]}, {"mesh": 0, "rotation": turn}]
    np.testing.assert_allclose(box(document.read()), [[-1, 0, 0], [1, 4, 0]], atol=1e-12)
    document.more["nodes"] = [{"mesh": 0, "scale": [-1, 1, 1]}]
    mesh = document.read()
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()


@pytest.mark.parametrize(
    ("extension", "says"),
    [
        ("KHR_draco_mesh_compression", r"Draco compression \(KHR_draco_mesh_compression\) is not read"),
        ("EXT_meshopt_compression", r"meshopt compression \(EXT_meshopt_compression\) is not read"),
        ("EXT_from_tomorrow", "the glTF extension EXT_from_tomorrow is not read"),
    ],
)
def test_what_is_required_and_not_applied_is_refused_by_name(extension: str, says: str) -> None:
    document = Document(extensionsRequired=["KHR_materials_unlit", "KHR_texture_transform", extension])
    document.more["meshes"] = [{"primitives": [document.mesh()]}]
    with pytest.raises(BrokenSampleError, match=says):
        document.read()
    document.more["extensionsRequired"].pop()
    assert area(document.read()) == 2, "what concerns looks alone does not matter"


def test_compressed_numbers_without_a_plain_copy_are_refused_though_nothing_is_required() -> None:
    document = Document()
    primitives = [document.mesh(), document.mesh(extensions={"KHR_draco_mesh_compression": {"bufferView": 0}})]
    document.more["meshes"] = [{"primitives": primitives}]
    assert area(document.read()) == 4, "a plain copy is there and is taken"
    del document.accessors[primitives[1]["attributes"]["POSITION"]]["bufferView"]
    with pytest.raises(BrokenSampleError, match="KHR_draco_mesh_compression"):
        document.read()
    document = Document()
    document.more["meshes"] = [{"primitives": [document.mesh()]}]
    text = document.text()
    text["buffers"].append({"byteLength": 10**6, "extensions": {"EXT_meshopt_compression": {"fallback": True}}})
    text["bufferViews"][0] |= {"buffer": 1, "extensions": {"EXT_meshopt_compression": {"buffer": 0}}}
    with pytest.raises(BrokenSampleError, match="EXT_meshopt_compression"):
        gltf.read_gltf(glb(text, document.data), "a.glb", fetch=lambda name: b"")


def test_a_gltf_of_text_takes_its_numbers_from_beside_it_alone(tmp_path: Path) -> None:
    document = Document()
    document.more["meshes"] = [{"primitives": [document.mesh()]}]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b.bin").write_bytes(document.data)
    (tmp_path / "sub" / "link.bin").symlink_to("/etc/hostname")
    path = tmp_path / "sub" / "a.gltf"
    outside = ("../sub/a b.bin", "link.bin", "http://x/y.bin")
    for uri, says in (("a%20b.bin", ""), *((uri, "outside") for uri in outside), ("no.bin", "missing")):
        path.write_text(json.dumps(document.text(uri=uri)))
        if says:
            with pytest.raises(BrokenSampleError, match=says):
                meshes.read_cloud(str(path), 10, np.random.default_rng(0))
        else:
            assert len(meshes.read_cloud(str(path), 10, np.random.default_rng(0)).points) == 10
            assert gltf.needed_files(path.read_bytes()) == {"a b.bin"}


def test_scenes_that_grow_are_refused_before_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that hangs twice from each node above it, and one that hangs from itself."""
    document = Document()
    document.more["meshes"] = [{"primitives": [document.mesh()]}]
    document.more["nodes"] = [{"children": [i + 1, i + 1]} for i in range(40)] + [{"mesh": 0}]
    with pytest.raises(BrokenSampleError, match="a scene of more than 100,000 nodes"):
        document.read()
    document.more["nodes"] = [{"children": [0]}]
    with pytest.raises(BrokenSampleError, match="go in a circle"):
        document.read()
    document.more["nodes"] = [{"mesh": 0}] * 30
    document.more["scenes"] = [{"nodes": list(range(30))}]
    monkeypatch.setattr(gltf, "MAX_SCENE", 100)
    with pytest.raises(BrokenSampleError, match="a scene of more than 100 vertices"):
        document.read()


def test_what_is_broken_is_named_and_never_crashes() -> None:
    """Every value of the document replaced by another one, and the file cut at any byte."""
    document = Document()
    document.more["meshes"] = [{"primitives": [document.mesh()]}]
    document.more["nodes"] = [{"children": [1], "rotation": [0, 0, 0, 1]}, {"mesh": 0, "scale": [1, 1, 1]}]
    text = json.dumps(document.text())
    whole = document.glb()
    for cut in range(0, len(whole), 7):
        with pytest.raises(BrokenSampleError):
            gltf.read_gltf(whole[:cut], "a.glb", fetch=lambda name: b"")
    g = np.random.default_rng(0)
    for _ in range(300):
        words = text.split(" ")
        words[g.integers(len(words))] = str(g.choice(["-1", "99999999999", "{}", "null", '"x"', "1e308", "[]"])) + ","
        try:
            mesh = gltf.read_gltf(glb_of(" ".join(words), document.data), "a.glb", fetch=lambda name: b"")
            assert mesh.vertices.shape[1] == 3
        except BrokenSampleError as error:
            assert "\n" not in str(error)


def glb_of(text: str, data: bytes) -> bytes:
    body = text.encode()
    chunks = struct.pack("<I4s", len(body), b"JSON") + body + struct.pack("<I4s", len(data), b"BIN\0") + data
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
def test_the_cases_from_the_field() -> None:
    parts = gltf.read_gltf((CASES / "glb-quantised-parts" / "quant_parts.glb").read_bytes(), "a.glb", fetch=lambda name: b"")
    np.testing.assert_allclose(box(parts), [[0, 0, 0], [11, 0.5, 0]], atol=1e-4)
    for name in ("draco.glb", "draco_mixed.glb"):
        with pytest.raises(BrokenSampleError, match="KHR_draco_mesh_compression"):
            gltf.read_gltf((CASES / "glb-draco" / name).read_bytes(), name, fetch=lambda name: b"")


def test_what_a_scene_hides_and_what_points_have_besides_is_told() -> None:
    hidden = {"mesh": 0, "translation": [10, 0, 0], "extensions": {"KHR_node_visibility": {"visible": False}}}
    scene = Document(scenes=[{"nodes": [0, 1]}], nodes=[{"mesh": 0}, hidden])
    scene.more["meshes"] = [{"primitives": [scene.mesh()]}]
    found = scene.read()
    assert found.vertices[:, 0].max() == 2 and found.left_out == ("parts that the scene hides",)
    points = Document()
    points.more["meshes"] = [{"primitives": [points.mesh(indices=None, mode=0)]}]
    points.more["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = 0
    assert points.read().left_out == ("COLOR_0",)
