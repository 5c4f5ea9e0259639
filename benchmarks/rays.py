"""Rays a second of the renderer beside a plain loop over trimesh and Embree, in turns, on the same rooms, cameras and pixels.

  python benchmarks/rays.py --views 20 --size 128

Both give the depth of the middle of each pixel. `shaded` is the whole picture: colour, shadow rays to two lights, four rays more at edges.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import intrinsics
from sightline.platform.data.synthetic.render import Renderer, sample_poses
from sightline.platform.data.synthetic.scenes import build_scene


def plain_depth(caster: RayMeshIntersector, pose: np.ndarray, K: np.ndarray, size: int) -> np.ndarray:
    """As trimesh's examples do it: rays from the camera, first hits, their place along the camera's axis."""
    rows, columns = np.mgrid[0:size, 0:size].reshape(2, -1)
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(size * size)], axis=-1) @ pose[:3, :3].T
    origins = np.tile(pose[:3, 3], (len(rays), 1))
    _, which, places = caster.intersects_id(origins, rays, multiple_hits=False, return_locations=True)
    depth = np.zeros(size * size)
    depth[which] = (places - pose[:3, 3]) @ pose[:3, 2]
    return depth.reshape(size, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    K, rays = intrinsics(args.size, args.size, 60.0), args.size**2
    seconds: dict[str, list[float]] = {"depth": [], "shaded": [], "trimesh": []}
    largest = 0.0
    for index in range(args.views):
        scene = build_scene(keyed_rng("scene", 0, index))
        renderer, plain = (
            Renderer(scene),
            RayMeshIntersector(trimesh.Trimesh(**trimesh.triangles.to_kwargs(scene.triangles), process=False)),
        )
        pose = sample_poses(renderer, keyed_rng("rays", index), 60.0, 1)[0]
        plain_depth(plain, pose, K, 8)  # both have built their trees
        calls = {
            "depth": lambda r=renderer, p=pose: r.depth(p, K, args.size, args.size),
            "trimesh": lambda c=plain, p=pose: plain_depth(c, p, K, args.size),
            "shaded": lambda r=renderer, p=pose: r.view(p, K, args.size, args.size),
        }
        found = {}
        for name in calls if index % 2 else reversed(list(calls)):
            began = time.perf_counter()
            found[name] = calls[name]()
            seconds[name].append(time.perf_counter() - began)
        largest = max(largest, float(np.median(np.abs(found["depth"] - found["trimesh"]))))
    for name, values in seconds.items():
        ratios = np.array(seconds["trimesh"]) / np.array(values)
        low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
        print(
            f"{name:8} {rays / np.median(values) / 1e6:6.2f} million pixels/s; {middle:.2f} (10 to 90 %: {low:.2f} to {high:.2f}) x trimesh"
        )
    print(f"largest median difference of depth: {largest * 1000:.4f} mm")


if __name__ == "__main__":
    main()
