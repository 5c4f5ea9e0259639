"""Procedural textures: what makes rendered rooms worth completing across views. Each is a tileable S x S x 3 picture in [0, 1]."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

SIZE = 128
"""Side in texels. At the usual 0.7 repeats a metre a texel is about 1 cm: a pixel of a 256 px picture, 2.5 m away."""
_ROWS, _COLUMNS = (np.mgrid[0:SIZE, 0:SIZE] / SIZE).astype(np.float32)


def colour(
    rng: np.random.Generator, value: tuple[float, float] = (0.35, 0.95), saturation: tuple[float, float] = (0.05, 0.6)
) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)), np.float32)


def noise(rng: np.random.Generator, cells: int = 4, octaves: int = 5, decay: float = 0.6) -> np.ndarray:
    """Tileable fractal value noise, S x S, zero mean, about unit deviation. Each octave has an amplitude of `decay` of the one before."""
    total = np.zeros((SIZE, SIZE), np.float32)
    for octave in range(octaves):
        count = min(cells * 2**octave, SIZE)
        total += decay**octave * _stretch(_stretch(rng.standard_normal((count, count), np.float32)).T).T
    result: np.ndarray = (total - total.mean()) / (total.std() + 1e-9)
    return result


def _stretch(grid: np.ndarray) -> np.ndarray:
    """Rows stretched to SIZE with smooth, wrapping interpolation."""
    count = len(grid)
    at = np.arange(SIZE) * count / SIZE
    low = at.astype(int)
    t = ((at - low) ** 2 * (3 - 2 * (at - low))).astype(np.float32)
    result: np.ndarray = grid[low] * (1 - t)[:, None] + grid[(low + 1) % count] * t[:, None]
    return result


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    result: np.ndarray = first + (second - first) * np.clip(share, 0, 1)[..., None]
    return result


def plaster(rng: np.random.Generator) -> np.ndarray:
    base = colour(rng, (0.6, 0.95), (0.05, 0.35))
    return _blend(base * 0.75, base * 1.05, 0.5 + 0.25 * noise(rng, 4, 6, 0.75))


def whitewash(rng: np.random.Generator) -> np.ndarray:
    return colour(rng, (0.85, 1.0), (0, 0.12)) * (1 + 0.05 * noise(rng, 3, 5))[..., None]


def planks(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(4, 9))
    plank = (_ROWS * count).astype(int)
    shift = rng.random(count)[plank]
    board = ((_COLUMNS * 2 + shift) % 2).astype(int)
    tone = rng.uniform(0.65, 1.1, (count, 2))[plank, board]
    grain = np.roll(noise(rng, 2, 4), 1, 0) + 0.8 * np.sin(2 * np.pi * (_ROWS * count * 3 + 0.25 * noise(rng, 3, 3)))
    base = np.array([0.62, 0.42, 0.25]) * rng.uniform(0.6, 1.3) + rng.uniform(-0.08, 0.08, 3)
    gap = ((_ROWS * count) % 1 < 0.05) | (((_COLUMNS * 2 + shift) % 1) < 0.012)
    result: np.ndarray = base * (tone * (1 + 0.10 * grain) * np.where(gap, 0.4, 1))[..., None]
    return result


def tiles(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(3, 7))
    first, second, grout = colour(rng), colour(rng), colour(rng, (0.3, 0.8), (0, 0.15))
    row, column = (_ROWS * count).astype(int), (_COLUMNS * count).astype(int)
    tone = rng.uniform(0.8, 1.15, (count, count))[row, column]
    chequered = rng.random((count, count))[row, column] < 0.5 if rng.random() < 0.5 else (row + column) % 2 == 0
    face = np.where(chequered[..., None], first, second) * (tone * (1 + 0.07 * noise(rng, 8, 4)))[..., None]
    edge = np.minimum((_ROWS * count) % 1, (_COLUMNS * count) % 1) < 0.06
    return np.where(edge[..., None], grout, face)


def bricks(rng: np.random.Generator) -> np.ndarray:
    rows, columns = 8, 4
    row = (_ROWS * rows).astype(int)
    along = (_COLUMNS * columns + 0.5 * (row % 2)) % columns
    tone = rng.uniform(0.65, 1.2, (rows, columns))[row, along.astype(int)]
    base = np.array([0.66, 0.36, 0.28]) * rng.uniform(0.7, 1.3) + rng.uniform(-0.1, 0.1, 3)
    mortar = ((_ROWS * rows) % 1 < 0.12) | (along % 1 < 0.06)
    face = base * (tone * (1 + 0.12 * noise(rng, 8, 4)))[..., None]
    return np.where(mortar[..., None], np.array([0.78, 0.75, 0.7]) * (1 + 0.05 * noise(rng, 16, 3))[..., None], face)


def stripes(rng: np.random.Generator) -> np.ndarray:
    edges = np.sort(rng.random(int(rng.integers(6, 14))))
    palette = np.stack([colour(rng) for _ in range(4)])[rng.integers(0, 4, len(edges) + 1)]
    palette[-1] = palette[0]
    result: np.ndarray = palette[np.searchsorted(edges, _COLUMNS)] * (1 + 0.05 * noise(rng, 16, 3))[..., None]
    return result


def wallpaper(rng: np.random.Generator) -> np.ndarray:
    """A motif in a lattice, each copy in its own tone, on a mottled ground."""
    count = int(rng.integers(3, 6))
    ground, motif, heart = colour(rng, (0.55, 0.95), (0.05, 0.4)), colour(rng, (0.25, 0.9)), colour(rng)
    row = (_ROWS * count).astype(int)
    across = (_COLUMNS * count + 0.5 * (row % 2)) % count
    y, x = (_ROWS * count) % 1 - 0.5, across % 1 - 0.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    petals = 0.26 + 0.12 * np.cos(
        int(rng.integers(3, 8)) * angle + rng.uniform(0, 6) + rng.uniform(0, 6, (count, count))[row, across.astype(int)]
    )
    picture = ground * (1 + 0.06 * noise(rng, 8, 4))[..., None]
    tone = rng.uniform(0.7, 1.2, (count, count))[row, across.astype(int)]
    picture = np.where((radius < petals)[..., None], motif * tone[..., None], picture)
    return np.where((radius < 0.1)[..., None], heart, picture)


def stones(rng: np.random.Generator) -> np.ndarray:
    """Voronoi cells: flagstones, terrazzo, gravel, by their number."""
    count = int(rng.choice([14, 40, 90]))
    seeds = rng.random((count, 2))
    at = (np.arange(SIZE) + 0.5) / SIZE
    dy = np.abs(at[:, None] - seeds[:, 0])
    dx = np.abs(at[:, None] - seeds[:, 1])
    distance = np.minimum(dy, 1 - dy)[:, None, :] ** 2 + np.minimum(dx, 1 - dx)[None, :, :] ** 2
    nearest = distance.argmin(-1)
    two = np.sqrt(np.partition(distance, 1, axis=-1)[..., :2])
    palette = np.stack([colour(rng, (0.35, 0.9), (0.02, 0.35)) for _ in range(count)])
    joint = (two[..., 1] - two[..., 0]) < 0.012
    return np.where(joint[..., None], 0.3, palette[nearest]) * (1 + 0.08 * noise(rng, 8, 4))[..., None]


def fabric(rng: np.random.Generator) -> np.ndarray:
    """Tartan: threads of two directions, half each."""
    threads = np.stack([colour(rng, (0.2, 0.9)) for _ in range(5)])
    order = rng.integers(0, 5, 24)
    lines = threads[order][(np.arange(SIZE) * 24 // SIZE)]
    weave = 0.9 + 0.2 * ((_ROWS * SIZE).astype(int) + (_COLUMNS * SIZE).astype(int) & 1)
    result: np.ndarray = (lines[:, None] + lines[None]) / 2 * (weave * (1 + 0.06 * noise(rng, 16, 3)))[..., None]
    return result


def marble(rng: np.random.Generator) -> np.ndarray:
    vein = np.abs(np.sin(2 * np.pi * (_ROWS + _COLUMNS * int(rng.integers(1, 3))) + 1.6 * noise(rng, 3, 5)))
    return _blend(colour(rng, (0.1, 0.5)), colour(rng, (0.75, 1.0), (0, 0.25)), vein**0.45)


def poster(rng: np.random.Generator) -> np.ndarray:
    """A picture that exists once: ground, shapes, lines of writing, a frame."""
    picture = _blend(colour(rng, (0.2, 1)), colour(rng, (0.2, 1), (0.1, 0.9)), _ROWS + 0.2 * noise(rng, 3, 4))
    for _ in range(int(rng.integers(5, 12))):
        y, x = rng.random(2)
        height, width = rng.uniform(0.05, 0.3, 2)
        turn = rng.uniform(0, np.pi)
        reach = height + width
        window = np.s_[
            int(max(0, y - reach) * SIZE) : int((y + reach) * SIZE) + 1, int(max(0, x - reach) * SIZE) : int((x + reach) * SIZE) + 1
        ]
        right, down = _COLUMNS[window] - np.float32(x), _ROWS[window] - np.float32(y)
        u = np.abs(right * np.float32(np.cos(turn)) + down * np.float32(np.sin(turn))) / np.float32(width)
        v = np.abs(down * np.float32(np.cos(turn)) - right * np.float32(np.sin(turn))) / np.float32(height)
        inside = (u * u + v * v < 1, np.maximum(u, v) < 1, u + v < 1)[int(rng.integers(3))]
        picture[window][inside] = colour(rng, (0.1, 1), (0.2, 0.95))
    if rng.random() < 0.6:
        top = rng.uniform(0.1, 0.7)
        written = (top < _ROWS) & (top + 0.2 > _ROWS) & ((_ROWS * 20) % 1 < 0.5)
        words = rng.random((20, 40))[(_ROWS * 20).astype(int) % 20, (_COLUMNS * 40).astype(int)] < 0.7
        picture = np.where((written & words)[..., None], colour(rng, (0, 0.2)) if rng.random() < 0.5 else 0.95, picture)
    rim = np.minimum(np.minimum(_ROWS, 1 - _ROWS), np.minimum(_COLUMNS, 1 - _COLUMNS)) < 0.035
    return np.where(rim[..., None], colour(rng, (0.1, 0.9), (0, 0.4)), picture)


def books(rng: np.random.Generator) -> np.ndarray:
    """Backs of books on shelves."""
    picture = np.zeros((SIZE, SIZE, 3)) + 0.12
    shelves = int(rng.integers(2, 5))
    for shelf in range(shelves):
        bottom, space, x = int((shelf + 1) * SIZE / shelves) - 3, SIZE // shelves - 4, 0
        while x < SIZE:
            width, height = int(rng.integers(4, 10)), int(space * rng.uniform(0.65, 1))
            back = np.broadcast_to(colour(rng, (0.15, 0.95), (0.1, 0.85)), (height, min(width, SIZE - x), 3)).copy()
            label = int(height * rng.uniform(0.1, 0.6))
            back[label : label + int(height * rng.uniform(0.05, 0.25)), 1:-1] = colour(rng, (0.3, 1))
            back[:, -1:] *= 0.5
            picture[bottom - height : bottom, x : x + width] = back
            x += width
        picture[bottom : bottom + 3] = np.array([0.5, 0.36, 0.22])
    return picture


def leaves(rng: np.random.Generator) -> np.ndarray:
    green = np.array([0.25, 0.5, 0.18]) * rng.uniform(0.6, 1.4) + rng.uniform(-0.05, 0.1, 3)
    return _blend(green * 0.3, green * 1.3, 0.5 + 0.5 * noise(rng, 12, 4, 0.8))


def window(rng: np.random.Generator) -> np.ndarray:
    """A bright view outside behind a crossed frame."""
    hills = 0.55 + 0.10 * np.interp(np.linspace(0, 1, SIZE), np.linspace(0, 1, 9), rng.standard_normal(9))[None]
    sky = _blend(np.array([0.95, 0.97, 1.0]), np.array([0.45, 0.65, 0.95]), 0.6 - _ROWS + 0.15 * noise(rng, 3, 5))
    land = leaves(rng) * 1.2
    picture = np.where((hills < _ROWS)[..., None], land, sky)
    frame = (np.abs(_ROWS - 0.5) < 0.02) | (np.abs(_COLUMNS - 0.5) < 0.02)
    frame |= np.minimum(np.minimum(_ROWS, 1 - _ROWS), np.minimum(_COLUMNS, 1 - _COLUMNS)) < 0.05
    return np.where(frame[..., None], 0.85, picture)


Texture = Callable[[np.random.Generator], np.ndarray]
WALLS: tuple[Texture, ...] = (plaster, wallpaper, bricks, stripes, wallpaper, tiles)
FLOORS: tuple[Texture, ...] = (planks, tiles, stones, planks, marble)
WOODS: tuple[Texture, ...] = (planks, planks, marble, stones)
SOFT: tuple[Texture, ...] = (fabric, stripes, fabric, wallpaper)
RUGS: tuple[Texture, ...] = (poster, fabric, wallpaper)
