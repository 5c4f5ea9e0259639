"""glTF 2.0, as `.glb` or `.gltf`: the triangles and points of the scene in their places. Materials and animations are not read.

Applied are node transforms, instances (`EXT_mesh_gpu_instancing`), quantisation (`KHR_mesh_quantization`), sparse accessors, the stated
weights of morph targets, and skins in the pose that their joints have. Any other extension that the file requires is refused by its name.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import urllib.parse
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.core.budget import parse_json

from .polygons import strips
from .shapes import MAX_SCENE, NO_FACES, Mesh, checked, reading

APPLIED = {"KHR_mesh_quantization", "EXT_mesh_gpu_instancing"}
OF_LOOKS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "MSFT_texture_", "KHR_lights_", "EXT_lights_", "KHR_xmp")
"""Extensions that begin so change no geometry."""
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6
MAX_PLACES = 100_000
"""Of nodes, and of instances; a node may hang from several others, which doubles them at every level."""
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
PLACED = {"matrix", "rotation", "scale", "translation"}
Fetch = Callable[[str], bytes]
"""The content of a file beside this one. Raises `BrokenSampleError`."""


def read_gltf(data: bytes, name: str, fetch: Fetch) -> Mesh:
    """All geometries of the scene as one mesh."""
    with reading("GLB" if name.lower().endswith(".glb") else "GLTF", name):
        document, own = _unpacked(data)
        if not isinstance(document, dict) or not str(document.get("asset", {}).get("version", "")).startswith("2."):
            raise ValueError("it is not glTF 2.0")
        for extension in document.get("extensionsRequired", []):
            if extension not in APPLIED and not str(extension).startswith(OF_LOOKS):
                raise _refused(str(extension), name)
        return _Scene(document, own, name, fetch).mesh()


def needed_files(data: bytes) -> set[str]:
    """The names of the files beside a `.gltf` that it takes its numbers from; none where it cannot be read."""
    try:
        return {urllib.parse.unquote(one["uri"]) for one in parse_json(data).get("buffers", []) if not one["uri"].startswith("data:")}
    except (ValueError, LookupError, TypeError, AttributeError):
        return set()


def _refused(extension: str, name: str) -> BrokenSampleError:
    what = {"KHR_draco_mesh_compression": "Draco compression", "EXT_meshopt_compression": "meshopt compression"}.get(extension)
    what = f"{what} ({extension})" if what else f"the glTF extension {extension}"
    return BrokenSampleError(f"{what} is not read: {name}; export it without")


def _unpacked(data: bytes) -> tuple[Any, bytes | None]:
    """(the document, the binary chunk of a `.glb`)"""
    if data[:4] != b"glTF":
        return parse_json(data), None
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise ValueError(f"it is glTF {version}, not 2")
    if length > len(data):
        raise ValueError(f"cut short: {len(data):,} of {length:,} bytes")
    at, chunks = 12, dict[bytes, bytes]()
    while at + 8 <= length:
        size, kind = struct.unpack_from("<I4s", data, at)
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    return parse_json(chunks[b"JSON"]), chunks.get(b"BIN\0")


class _Scene:
    def __init__(self, document: dict[str, Any], own: bytes | None, name: str, fetch: Fetch) -> None:
        self._document, self._own, self._name, self._fetch = document, own, name, fetch
        self._buffers: dict[int, bytes] = {}
        self._places: dict[int, np.ndarray] = {}
        self._left_out: dict[str, None] = {}

    def mesh(self) -> Mesh:
        vertices, faces, first, bare = array("d"), array("q"), 0, 0  # which grow in place
        for corners, triangles in self._parts():
            if (first + len(corners)) > MAX_SCENE:
                raise BrokenSampleError(f"a scene of more than {MAX_SCENE:,} vertices: {self._name}")
            vertices.frombytes(np.ascontiguousarray(corners, np.float64).reshape(-1).view(np.uint8).data)
            faces.frombytes(np.ascontiguousarray(triangles + first, np.int64).reshape(-1).view(np.uint8).data)
            first, bare = first + len(corners), bare + (not len(triangles))
        if not first:
            raise BrokenSampleError(f"an empty mesh: {self._name}")
        if faces and bare:
            self._left_out["points beside the triangles"] = None
        return checked(np.frombuffer(vertices), np.frombuffer(faces, np.int64), self._name)._replace(left_out=tuple(self._left_out))

    def _parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The vertices and triangles of each geometry in each of its places."""
        read: dict[tuple[int, tuple[float, ...]], list[tuple[dict[str, Any], np.ndarray, np.ndarray]]] = {}
        made = 0
        for node, place in list(self._placed()):  # all of them first: a skin needs the places of its joints
            if "mesh" not in node:
                continue
            mesh = self._document["meshes"][node["mesh"]]
            key = node["mesh"], tuple(node.get("weights", mesh.get("weights", [])))
            if key not in read:
                read[key] = []
                for part in self._primitives(mesh, key[1]):
                    read[key].append(part)
                    made += len(part[1])
                    if made > MAX_SCENE:
                        raise BrokenSampleError(f"a scene of more than {MAX_SCENE:,} vertices: {self._name}")
            for primitive, vertices, faces in read[key]:
                if "skin" in node and "JOINTS_0" in primitive["attributes"]:
                    yield self._skinned(vertices, primitive, self._document["skins"][node["skin"]]), faces
                    continue
                for instance in self._instances(node):
                    yield _moved(vertices, faces, place if instance is None else place @ instance)

    def _placed(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Every node of the scene with its place, the last ones first."""
        nodes, scenes = self._document.get("nodes", []), self._document.get("scenes")
        if scenes:
            roots = scenes[self._document.get("scene", 0)].get("nodes", [])
        else:
            below = {child for node in nodes for child in node.get("children", [])}
            roots = [number for number in range(len(nodes)) if number not in below]
        waiting = [(root, np.eye(4), 1) for root in roots]
        for _ in range(MAX_PLACES):
            if not waiting:
                return
            number, above, depth = waiting.pop()
            if depth > len(nodes):
                raise ValueError("its nodes go in a circle")
            node = nodes[number]
            place = above @ _own_place(node) if PLACED & node.keys() else above
            self._places[number] = place
            if not node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True):
                self._left_out["parts that the scene hides"] = None
                continue
            yield node, place
            waiting += [(child, place, depth + 1) for child in node.get("children", [])]
        raise BrokenSampleError(f"a scene of more than {MAX_PLACES:,} nodes: {self._name}")

    def _instances(self, node: dict[str, Any]) -> Iterator[np.ndarray | None]:
        """The places of the copies that `EXT_mesh_gpu_instancing` makes, relative to the node; None without it."""
        given = node.get("extensions", {}).get("EXT_mesh_gpu_instancing", {}).get("attributes", {})
        columns = {key: self._accessor(given[key.upper()]) for key in ("translation", "rotation", "scale") if key.upper() in given}
        if not columns:
            yield None
            return
        count = min(map(len, columns.values()))
        if count > MAX_PLACES:
            raise BrokenSampleError(f"a scene of more than {MAX_PLACES:,} instances: {self._name}")
        for i in range(count):
            yield _own_place({key: values[i] for key, values in columns.items()})

    def _primitives(self, mesh: dict[str, Any], weights: tuple[float, ...]) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        """Each primitive of a mesh with its vertices and triangles; lines, and those without positions, are left out."""
        kinds = {primitive.get("mode", TRIANGLES) for primitive in mesh["primitives"]}
        for primitive in mesh["primitives"]:
            if kinds == {POINTS}:
                self._left_out |= dict.fromkeys(key for key in primitive["attributes"] if key != "POSITION")
            if primitive.get("mode", TRIANGLES) in (POINTS, TRIANGLES, STRIP, FAN) and "POSITION" in primitive["attributes"]:
                yield primitive, *self._primitive(primitive, weights)

    def _primitive(self, primitive: dict[str, Any], weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The vertices and triangles of one primitive."""
        mode, attributes = primitive.get("mode", TRIANGLES), primitive["attributes"]
        for number in (attributes["POSITION"], primitive.get("indices")):
            if number is not None and not self._is_stored(number):  # numbers that are there uncompressed as well are taken
                raise _refused(next(iter(primitive.get("extensions", {})), "that should hold its numbers"), self._name)
        vertices = self._accessor(attributes["POSITION"])[:, :3].astype(np.float64)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            if weight and "POSITION" in target:
                vertices = vertices + weight * self._accessor(target["POSITION"])
        if mode == POINTS:
            return vertices, NO_FACES
        corners = self._accessor(primitive["indices"])[:, 0].astype(np.int64) if "indices" in primitive else np.arange(len(vertices))
        if mode == TRIANGLES:
            return vertices, corners[: len(corners) // 3 * 3].reshape(-1, 3)
        if mode == STRIP:
            return vertices, strips(corners, np.array([len(corners)]))
        return vertices, np.stack([np.repeat(corners[:1], max(len(corners) - 2, 0)), corners[1:-1], corners[2:]], 1)

    def _skinned(self, vertices: np.ndarray, primitive: dict[str, Any], skin: dict[str, Any]) -> np.ndarray:
        """The vertices where the joints of the skin take them; the place of the node itself does not count then."""
        joints, count = skin["joints"], len(skin["joints"])
        bind = self._accessor(skin["inverseBindMatrices"]) if "inverseBindMatrices" in skin else np.tile(np.eye(4).reshape(-1), (count, 1))
        lost = [number for number in joints if number not in self._places]
        if lost:
            raise ValueError(f"joint {lost[0]} of a skin is not in the scene")
        moves = np.stack([self._places[number] @ bind[i].reshape(4, 4).T for i, number in enumerate(joints)])
        whole = np.column_stack([vertices, np.ones(len(vertices))])
        moved, total = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
        for index in range(2):
            if f"JOINTS_{index}" not in primitive["attributes"]:
                break
            numbers = self._accessor(primitive["attributes"][f"JOINTS_{index}"]).astype(np.int64)
            shares = self._accessor(primitive["attributes"][f"WEIGHTS_{index}"]).astype(np.float64)
            for k in range(4):
                moved += shares[:, k, None] * np.einsum("nij,nj->ni", moves[numbers[:, k]], whole)[:, :3]
                total += shares[:, k]
        return np.asarray(moved / np.where(total > 0, total, 1)[:, None])

    def _is_stored(self, number: int) -> bool:
        accessor = self._document["accessors"][number]
        return "bufferView" in accessor or "sparse" in accessor

    def _accessor(self, number: int) -> np.ndarray:
        """Its values, count x width: those that stand for fractions as floats."""
        accessor = self._document["accessors"][number]
        kind, width, count = np.dtype(_COMPONENTS[accessor["componentType"]]), _WIDTHS[accessor["type"]], accessor["count"]
        if not 0 <= count * width <= 4 * MAX_SCENE:
            raise BrokenSampleError(f"a scene of more than {MAX_SCENE:,} vertices: {self._name}")
        if "bufferView" in accessor:
            values = self._strided(accessor["bufferView"], accessor.get("byteOffset", 0), kind, width, count)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            sparse, values = accessor["sparse"], values.copy()
            where, what = sparse["indices"], sparse["values"]
            index = self._strided(
                where["bufferView"], where.get("byteOffset", 0), np.dtype(_COMPONENTS[where["componentType"]]), 1, sparse["count"]
            )
            values[index[:, 0]] = self._strided(what["bufferView"], what.get("byteOffset", 0), kind, width, sparse["count"])
        if accessor.get("normalized") and kind.kind in "iu":
            return np.asarray((values.astype(np.float64) / np.iinfo(kind).max).clip(min=-1))
        return values

    def _strided(self, view: int, offset: int, kind: np.dtype, width: int, count: int) -> np.ndarray:
        """`count` rows of `width` numbers from a buffer view."""
        given = self._document["bufferViews"][view]
        for extension in COMPRESSED:
            if extension in given.get("extensions", {}) and not self._has_bytes(given["buffer"]):
                raise _refused(extension, self._name)
        start, row = given.get("byteOffset", 0), kind.itemsize * width
        step = given.get("byteStride", row)
        data = self._buffer(given["buffer"])[start : start + given["byteLength"]][offset:]
        if min(start, offset, count, given["byteLength"]) < 0 or step < row or (count and len(data) < (count - 1) * step + row):
            raise ValueError(f"cut short: buffer view {view} has {len(data):,} bytes, {count:,} values need more")
        if step == row:
            return np.frombuffer(data, kind, count * width).reshape(count, width)
        rows = np.lib.stride_tricks.as_strided(np.frombuffer(data, np.uint8), (count, row), (step, 1), writeable=False)
        return np.ascontiguousarray(rows).view(kind).reshape(count, width)

    def _has_bytes(self, number: int) -> bool:
        buffer = self._document["buffers"][number]
        return "uri" in buffer or (number == 0 and self._own is not None and not _is_fallback(buffer))

    def _buffer(self, number: int) -> bytes:
        if number not in self._buffers:
            uri = self._document["buffers"][number].get("uri")
            if uri is None and self._own is None:
                raise ValueError(f"cut short: buffer {number} has no bytes")
            self._buffers[number] = self._own if uri is None and self._own is not None else self._of_uri(uri)
        return self._buffers[number]

    def _of_uri(self, uri: str) -> bytes:
        if not uri.startswith("data:"):
            return self._fetch(urllib.parse.unquote(uri))
        head, comma, body = uri.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("a buffer whose address is no base64 data")
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a buffer that is no base64: {error}") from None


def _is_fallback(buffer: dict[str, Any]) -> bool:
    return any("fallback" in buffer.get("extensions", {}).get(extension, {}) for extension in COMPRESSED)


def _own_place(node: dict[str, Any]) -> np.ndarray:
    """The place of a node relative to the one it hangs from: its matrix, or translation times rotation times scale. 4 x 4."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    place = np.eye(4)
    if "rotation" in node:
        x, y, z, w = (float(value) for value in node["rotation"])
        if (square := x * x + y * y + z * z + w * w) > 0:
            x, y, z, w = (value * math.sqrt(2 / square) for value in (x, y, z, w))
            place[0, :3] = 1 - y * y - z * z, x * y - z * w, x * z + y * w
            place[1, :3] = x * y + z * w, 1 - x * x - z * z, y * z - x * w
            place[2, :3] = x * z - y * w, y * z + x * w, 1 - x * x - y * y
    if "scale" in node:
        place[:3, :3] *= np.asarray(node["scale"], np.float64)
    if "translation" in node:
        place[:3, 3] = node["translation"]
    return place


def _moved(vertices: np.ndarray, faces: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mirrored mesh turns its faces the other way, so that their normals still look outwards."""
    if np.array_equal(place, np.eye(4)):
        return vertices, faces
    moved = np.dot(place, np.column_stack([vertices, np.ones(len(vertices))]).T).T[:, :3]
    return moved, faces[:, ::-1] if np.linalg.det(place[:3, :3]) < 0 else faces
