"""Lists of millions of records: what comes out is what went in, in few bytes."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from sightline.platform.data.images import Resize
from sightline.platform.data.lenses import Lens
from sightline.platform.data.prepare.crop import Crop
from sightline.platform.data.prepare.images import ImageFile
from sightline.platform.data.prepare.job import item_shards
from sightline.platform.data.prepare.known import Frames
from sightline.platform.data.prepare.packed import Packed, dealt, sorted_by
from sightline.platform.data.prepare.pairs import Pair

K = (60.0, 0.0, 31.5, 0.0, 60.0, 31.5, 0.0, 0.0, 1.0)


def pair(number: int) -> Pair:
    """With every kind of field: texts, None among others, -0.0, poses, lenses that differ, crops."""
    T = (*np.random.default_rng(number).normal(size=11).tolist(), -0.0 if number % 3 else 0.0, 0.0, 0.0, 0.0, 1.0)
    depth = None if number % 5 else f"/walk/{number}.png"
    lens, crop = Lens("OPENCV", (0.1 * number, 0.2)), Crop(number, 2, 64) if number % 2 else None
    image = f"/walk/caf\u00e9 {number:05d}.jpg"
    return Pair(
        f"w/{number}-{number + 1}", "w", image, "b.jpg", number, -1, float(number), K, K, T, depth, None, 0.5, None, lens, None, crop
    )


def held(value: Any, seen: set[int]) -> int:
    """Bytes of an object and all in it, each once."""
    if id(value) in seen or isinstance(value, type) or callable(value):
        return 0
    seen.add(id(value))
    inner = value if isinstance(value, list | tuple) else getattr(value, "__dict__", {}).values()
    return sys.getsizeof(value) + sum(held(one, seen) for one in inner)


def test_what_comes_out_is_what_went_in_and_takes_few_bytes() -> None:
    made = [pair(number) for number in range(1100)]
    packed = Packed(made)
    assert [repr(one) for one in packed] == [repr(one) for one in made] and packed == made
    assert packed[-1] == made[-1] and packed[512] == made[512] and packed[5:7] == made[5:7] and len(packed) == 1100
    assert held(packed.close(), set()) / 1100 < 200
    assert packed[1099] == made[1099] and list(Packed(["a", "b", ""])) == ["a", "b", ""]
    images = Packed(ImageFile(f"p/{number:06d}.jpg", f"/p/{number:06d}.jpg", "p", number % 7) for number in range(1024))
    assert held(images, set()) / 1024 < 30
    packed.append(replace(made[0], id="more"))
    assert len(packed) == 1101 and packed[1100].id == "more" and packed[1099] == made[1099]


def test_records_that_are_none_stay_as_they_are() -> None:
    odd: list[Any] = [{"a": 1}, [2.0], None, "x\0y", 2**70, float("nan"), np.arange(3)]
    assert all(one is other for one, other in zip(Packed(odd), odd, strict=True))


def test_shards_hold_the_items_in_the_order_of_the_draw() -> None:
    items = Packed(pair(number) for number in range(700))
    order = np.random.default_rng(0).permutation(700)
    assert [one.frame1 for part in dealt(items, order, 100) for one in part] == order.tolist()
    assert sorted_by(lambda one: one.frame1, items) is items
    assert [one.frame1 for one in sorted_by(lambda one: -one.frame1, items)] == list(range(699, -1, -1))
    shards = item_shards(items, Resize(), 0)
    assert sorted(one.frame1 for shard in shards for one in shard.items) == list(range(700))  # type: ignore[attr-defined]


def test_frames_hold_matrices_as_arrays_and_what_is_none_as_it_is() -> None:
    frames = Frames()
    for K in ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0], [0]], "none", None):
        frames.add({"file": "a.jpg", "K": K, "more": 1})
    assert isinstance(frames[0].K, np.ndarray) and [frame.K for frame in frames[1:]] == [[[1, 0], [0]], "none", None]
