"""The reference files of the teacher's whole side: from a cloud to what the mask of the coarsest tokens is drawn by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from parity_harness import Limits, ParityError, Vector, guarded, same_names
from torch import Tensor

from sightline.methods.contract import BuildContext
from sightline.methods.i2p_mae import official, views2d
from sightline.methods.i2p_mae.config import I2PConfig
from sightline.methods.i2p_mae.network import group_points
from sightline.methods.i2p_mae.pretext import build
from sightline.methods.i2p_mae.stage import TeacherStage
from sightline.methods.layers.points import take
from sightline.methods.timm_encoder.config import TimmModel
from sightline.methods.timm_encoder.network import TimmEncoder
from sightline.methods.timm_encoder.official import timm_state

CLIP = "vit_base_patch16_clip_quickgelu_224"
AS_RELEASED = {"teacher_input": "imagenet", "saliency": "attention"}
FIXED = {"splat": 5, "reduction": "sum", "image_size": views2d.SIZE, "n_views": 3, "activation": "x*sigmoid(1.702x)"}
VISUAL = {"input_resolution": "img_size", "patch_size": "patch_size", "width": "embed_dim", "layers": "depth", "heads": "num_heads"}


def tower(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> TimmEncoder:
    """CLIP's visual tower as timm has it, with CLIP's own statistics of colour and its head on every patch token."""
    same_names("visual", [*VISUAL, "output_dim"], settings)
    arguments = {**{ours: settings[theirs] for theirs, ours in VISUAL.items()}, "num_classes": settings["output_dim"]}
    encoder = TimmEncoder(TimmModel(name=CLIP, project=True, arguments=arguments)).eval()
    encoder.network.load_state_dict(timm_state(state, encoder.network), strict=True)
    return encoder


@guarded
def teacher(vector: Vector) -> Mapping[str, Tensor]:
    config = vector.config
    if odd := {key: config[key] for key, value in FIXED.items() if config[key] != value}:
        raise ParityError(f"{vector.path.name}: settings our views do not have: {odd}")
    points, encoder = vector.tensors["input.points"], tower(config["visual"], vector.part("state"))
    model = {**official.settings_from_official(config["model"]), "points": points.shape[1], "teacher_dim": encoder.dim}
    task = {"mask_ratio": config["model"]["mask_ratio"], **AS_RELEASED}
    pretext = build(I2PConfig.model_validate({"model": model, "pretext": task}), BuildContext(seed=0))
    if pretext.config.masked != config["num_masked_top"]:
        raise ParityError(f"{vector.path.name}: {config['num_masked_top']} tokens are hidden, ours {pretext.config.masked}")

    stage = TeacherStage(pretext.config, encoder)
    seen = [stage.see(cloud) for cloud in points]  # sample by sample, as in training
    features, saliency = torch.stack([maps for maps, _ in seen]), torch.stack([looked_at for _, looked_at in seen])
    out: dict[str, Tensor] = {}
    for number in range(3):
        view = views2d.seen_from(points, number)
        frame = views2d.frame_of(view[..., :2])
        depth = torch.sigmoid(views2d.depth_map(view, frame))[:, None].expand(-1, 3, -1, -1)
        image = (stage.coloured(depth) - encoder.mean) / encoder.std
        parts = {
            "pc_min": frame.low,
            "grid_size": frame.size,
            "offset": frame.offset,
            "pixel": views2d.pixels(view[..., :2], frame),
            "image": image[:, 0],
            "image_crop": image[:, :, 96:128, 96:128],
            "image_channel_mean": image.mean(dim=(2, 3)),
            "point_feature": views2d.at_points(features[:, number], points, points, number),
            "point_saliency": views2d.at_points(saliency[:, number, None], points, points, number)[..., 0],
        }
        out |= {f"view{number}.{name}": value for name, value in parts.items()}

    scales = group_points(points, pretext.config.model, skip_origin=True)
    batch = {"points": points, "features": features, "saliency": saliency}
    for number in range(3):
        looked_at = views2d.at_points(saliency[:, number, None], points, scales[2].centres, number)
        out[f"view{number}.center_saliency"] = looked_at[..., 0]
    logits = pretext.saliency_at(batch, scales[2].centres)
    view_major = saliency.transpose(0, 1).flatten(0, 1)
    out |= {
        "image_features": features.transpose(0, 1).flatten(0, 1),
        "saliency": view_major[:, None],
        "cls_attention": attention_of_class(stage, encoder, points),
        "center_1": scales[1].centres,
        "center_2": scales[2].centres,
        "neighborhood_abs_1": scales[1].around,
        "neigh_feature": take(pretext.target_features(batch, scales), scales[1].members),
        "point_saliency": logits,
        "mask_prob": torch.softmax(logits, dim=1),
    }
    named = {f"output.{name}": value for name, value in out.items()}
    return {name: value.to(vector.tensors[name].dtype) if name in vector.tensors else value for name, value in named.items()}


def attention_of_class(stage: TeacherStage, encoder: TimmEncoder, points: Tensor) -> Tensor:
    """What the class token looks at, itself first; view by view."""
    images = stage.coloured(views2d.depth_images(points)[:, None].expand(-1, 3, -1, -1))
    with torch.no_grad():
        _, attention = encoder.features_and_attention(images)
    assert attention is not None
    return attention[:, 0]


FAMILIES = {
    "coordinates": ("pc_min", "grid_size", "center_1", "center_2", "neighborhood_abs_1"),
    "image": ("image", "image_crop", "image_channel_mean"),
    "features": ("image_features", "point_feature", "neigh_feature"),
    "saliency": ("saliency", "point_saliency", "center_saliency", "cls_attention", "mask_prob"),
}


def teacher_limits(vector: Vector, name: str) -> Limits:
    own = name.rpartition(".")[2]
    family = next((family for family, names in FAMILIES.items() if own in names), None)
    if family is None:
        assert vector.tolerance["pixels"] == "exact"
        return 0.0, 0.0
    return vector.tolerance[family]["atol"], vector.tolerance[family]["rtol"]
