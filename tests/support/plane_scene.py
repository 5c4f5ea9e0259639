"""Photos of one slanted wall from known cameras: red shows the depth of a pixel, green and blue the place on the wall."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.platform.data.geometry import reproject

SLOPE = 0.3
"""The wall is z = 2 + SLOPE * x, in metres of the world."""
RED = 60.0
"""Red of a metre of depth."""
SIZE = (48, 64)


def camera(number: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(K, camera to world) of a camera that slides, turns and rolls a little; its lens is neither square nor centred."""
    height, width = size
    K = np.array([[1.0 * width, 0, 0.47 * width], [0, 1.05 * width, 0.54 * height], [0, 0, 1]])
    roll, yaw = 0.05 * number, 0.04 * number
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    look = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = look @ turn, (0.1 * number, 0.03 * number, 0)
    return K, pose


def view(K: np.ndarray, pose: np.ndarray, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 H x W x 3, metres H x W) of the wall."""
    rows, columns = np.mgrid[: size[0], : size[1]].reshape(2, -1)
    rays = pose[:3, :3] @ (np.linalg.inv(K) @ np.stack([columns, rows, np.ones_like(rows)]))  # one metre of depth each
    depth = (2 + SLOPE * pose[0, 3] - pose[2, 3]) / (rays[2] - SLOPE * rays[0])
    x, y, _ = rays * depth + pose[:3, 3:]
    colours = np.stack([RED * depth, 128 + 100 * np.sin(5 * x + 2 * y), 128 + 100 * np.sin(6 * y - 3 * x)], 1)
    return colours.round().clip(0, 255).astype(np.uint8).reshape(*size, 3), depth.reshape(size)


def write_png(path: Path, pixels: np.ndarray, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def as_depth(metres: np.ndarray, scale: float = 1000) -> np.ndarray:
    return (metres * scale).round().astype(np.uint16)


def write_frames(folder: Path, count: int = 6, *, size: tuple[int, int] = SIZE, shrink: int = 1, orientation: int = 1, **top: Any) -> None:
    """RGB-D frames with `cameras.json`. Depth has 1 / `shrink` of the size. Everything lies as the pixels of the file do."""
    entries = []
    for i in range(count):
        K, pose = camera(i, size)
        pixels, _ = view(K, pose, size)
        write_png(folder / f"color/{i}.png", pixels, orientation)
        small = np.diag([1 / shrink, 1 / shrink, 1]) @ K + np.array([[0, 0, (1 / shrink - 1) / 2], [0, 0, (1 / shrink - 1) / 2], [0, 0, 0]])
        write_png(folder / f"depth/{i}.png", as_depth(view(small, pose, (size[0] // shrink, size[1] // shrink))[1]))
        known = {"file": f"color/{i}.png", "depth": f"depth/{i}.png", "time_s": i / 10}
        entries.append(known | {"K": K.tolist(), "cam_to_world": pose.tolist()})
    write_cameras(folder, entries, **top)


def write_cameras(folder: Path, entries: list[dict[str, Any]], **top: Any) -> None:
    (folder / "cameras.json").write_text(json.dumps({**top, "frames": entries}))


def entries_of(folder: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / "cameras.json").read_text())["frames"]
    return entries


def warped_error(sample: dict[str, Any], depth: np.ndarray | None = None) -> float:
    """Mean difference of green and blue between view 1 and what view 2 shows at the same points; about 70 for views that do not fit."""
    first, second = sample["image1"].astype(float), sample["image2"].astype(float)
    depth = sample["depth1"] if depth is None else depth
    assert depth.shape == first.shape[:2]
    flat, x, y, z = reproject(depth, sample["K1"], sample["K2"], sample["T_2from1"])
    inside = (z > 0) & (x >= 0) & (x <= second.shape[1] - 1) & (y >= 0) & (y <= second.shape[0] - 1)
    assert inside.mean() > 0.3
    seen = second[y[inside].round().astype(int), x[inside].round().astype(int)]
    return float(np.abs(first.reshape(-1, 3)[flat[inside]] - seen)[:, 1:].mean())


def wall_error(depth: np.ndarray, K: np.ndarray, pose: np.ndarray) -> float:
    """Metres by which the points of a depth map lie off the wall, at most."""
    rows, columns = np.nonzero(depth)
    points = np.linalg.inv(K) @ np.stack([columns, rows, np.ones_like(rows)]) * depth[rows, columns]
    x, _, z = pose[:3, :3] @ points + pose[:3, 3:]
    return float(np.abs(z - 2 - SLOPE * x).max())


def depth_error(image: np.ndarray, depth: np.ndarray) -> float:
    """Metres between a depth map and the depth that the red of its image shows, on average."""
    assert depth.shape == image.shape[:2]
    return float(np.abs(image[..., 0] / RED - depth)[depth > 0].mean())


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
