"""The reference files of sampling, grouping, Chamfer distance and projection to views."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from parity_harness import Limits, ParityError, Vector
from torch import Tensor
from torch.nn.functional import interpolate

from sightline.methods.i2p_mae import views2d
from sightline.methods.i2p_mae.config import I2PConfig
from sightline.methods.i2p_mae.network import group_points
from sightline.methods.layers.colour import imagenet_normalise
from sightline.methods.layers.points import chamfer, chamfer_pairs, farthest_point_sampling, nearest, squared_distances, take


def normalised_image(depth: Tensor) -> Tensor:
    return imagenet_normalise(torch.sigmoid(depth)[:, None].expand(-1, 3, -1, -1))


def by_family(vector: Vector, name: str) -> Limits:
    """`floats` where the file has a tolerance for them; whole numbers exactly."""
    allowed = vector.tolerance.get("floats", vector.tolerance)
    return (allowed["atol"], allowed["rtol"]) if vector.tensors[name].is_floating_point() else (0.0, 0.0)


def operations(vector: Vector) -> Mapping[str, Tensor]:
    """Sampling and grouping of single clouds, and of three scales."""
    out: dict[str, Tensor] = {}
    for name, points in vector.part("input").items():
        case = name.removesuffix(".points")
        theirs = vector.part(f"output.{case}")
        if points.ndim == 2:
            cloud = points[None]
            picks = farthest_point_sampling(cloud, len(theirs["fps_idx"]), skip_origin=True)
            centres = take(cloud, picks)
            near = nearest(centres, cloud, theirs["knn_idx"].shape[1])
            distance = squared_distances(centres, cloud).gather(2, near).sqrt()
            found = {"fps_idx": picks, "centers": centres, "knn_idx": near, "knn_dist": distance}
            out |= {f"output.{case}.{what}": value[0] for what, value in found.items()}
            continue
        setting = {"points": points.shape[1], "groups": [theirs[f"center_{i}"].shape[1] for i in range(3)]}
        setting["neighbours"] = [theirs[f"neighborhood_{i}"].shape[2] for i in range(3)]
        below = points.shape[1]
        for i, groups in enumerate(group_points(points, I2PConfig.model_validate({"model": setting}).model, skip_origin=True)):
            first = torch.arange(len(points))[:, None, None] * below
            found = {"fps_idx": groups.picks, "center": groups.centres, "flat_idx": (groups.members + first).flatten()}
            found |= {"neighborhood": groups.relative, "neighborhood_abs": groups.around}
            out |= {f"output.{case}.{what}_{i}": value for what, value in found.items()}
            below = groups.centres.shape[1]
    return out


def distances(vector: Vector) -> Mapping[str, Tensor]:
    out: dict[str, Tensor] = {}
    for case in {name.partition(".")[0] for name in vector.part("input")}:
        a, b = (vector.tensors[f"input.{case}.{what}"].clone().requires_grad_() for what in ("pred", "target"))
        to_b, to_a = chamfer_pairs(a, b)
        squared = squared_distances(a, b).detach()
        near_b, near_a = squared.gather(2, to_b[..., None])[..., 0], squared.gather(1, to_a[:, None])[:, 0]
        loss = chamfer(a, b)
        loss.backward()
        assert a.grad is not None and b.grad is not None
        found = {"dist1": near_b, "dist2": near_a, "idx1": to_b, "idx2": to_a, "loss_l2": loss}
        found["loss_l1"] = (near_b.sqrt().mean() + near_a.sqrt().mean()) / 2
        out |= {f"output.{case}.{name}": value.reshape(vector.tensors[f"output.{case}.{name}"].shape) for name, value in found.items()}
        out |= {f"grad.{case}.pred": a.grad, f"grad.{case}.target": b.grad}
    return out


def projection(vector: Vector) -> Mapping[str, Tensor]:
    points, maps = vector.tensors["input.points"], vector.tensors["input.feature_maps"]
    out: dict[str, Tensor] = {}
    for number in range(3):
        view = views2d.seen_from(points, number)
        frame = views2d.frame_of(view[..., :2])
        depth = views2d.depth_map(view, frame)
        image = normalised_image(depth)
        parts = {
            "points": view,
            "pc_min": frame.low,
            "grid_size": frame.size,
            "offset": frame.offset,
            "pixel": views2d.pixels(view[..., :2], frame),
            "depth_sum": depth,
            "image_crop": image[:, :, 96:128, 96:128],
            "image_channel_mean": image.mean(dim=(2, 3)),
            "point_feature": views2d.at_points(maps[number], points, points, number),
        }
        out |= {f"output.view{number}.{name}": value for name, value in parts.items()}
    resized = views2d.bicubic_matrix(maps.shape[-1], maps)
    out["output.upsampled_example"] = resized @ maps[0, 0, 0] @ resized.T
    if not torch.allclose(
        out["output.upsampled_example"], interpolate(maps[0, :1, :1], size=views2d.SIZE, mode="bicubic")[0, 0], atol=1e-5
    ):
        raise ParityError("the matrix is not the resize")
    return {name: value.to(vector.tensors[name].dtype) if name in vector.tensors else value for name, value in out.items()}


def projection_limits(vector: Vector, name: str) -> Limits:
    own = name.rpartition(".")[2]
    if own in ("pixel", "offset", "points", "pc_min", "grid_size"):
        return 0.0, 0.0
    group = {"depth_sum": "depth_sum", "point_feature": "point_feature", "upsampled_example": "point_feature"}.get(own, "image")
    return vector.tolerance[group]["atol"], vector.tolerance[group]["rtol"]
