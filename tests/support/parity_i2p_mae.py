"""What I2P-MAE's vectors may hold, and our value for each number in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from parity_harness import Kind, Limits, ParityError, Vector, guarded, same_names
from parity_i2p_geometry import by_family, distances, normalised_image, operations, projection, projection_limits
from parity_i2p_teacher import teacher, teacher_limits, tower
from torch import Tensor

from sightline.methods.contract import BuildContext
from sightline.methods.finetune_points.network import PointClassifier, Pooling, near, smoothed_cross_entropy
from sightline.methods.i2p_mae import official, views2d
from sightline.methods.i2p_mae.config import I2PConfig, I2PModel
from sightline.methods.i2p_mae.network import Groups, PointEncoder, group_points, spread_masks
from sightline.methods.i2p_mae.pretext import I2PMaePretext, build
from sightline.methods.i2p_mae.schedules import cosine, i2p_schedules
from sightline.methods.layers.points import take
from sightline.methods.optim import Clock, OptimConfig

GIVEN = {"NAME": "I2P_MAE", "local_radius": [0, 0, 0]}
KNOWN = {*official.SAME, *GIVEN, "mask_ratio", "decoder_dims", "decoder_up_blocks", "clip_config"}
FLAT = re.compile(r"(indices|masks|pixels)")
GRADIENT, KINKED = 2e-3, 2e-2
GRADIENTS = 11
"""A whole model's file has those of as many parameters."""
FIRST = "h_encoder.token_embed.0.first_conv.0.weight"


def config_of(vector: Vector, points: int, embed: tuple[int, int]) -> I2PConfig:
    """Our settings for the authors'."""
    theirs = vector.config["model"]
    if strange := theirs.keys() - KNOWN:
        raise ParityError(f"{vector.path.name}: unknown model settings {sorted(strange)}")
    if odd := {k: theirs[k] for k, v in GIVEN.items() if theirs[k] != v}:
        raise ParityError(f"{vector.path.name}: settings our network does not have: {odd}")
    if list(theirs["decoder_dims"]) != [theirs["encoder_dims"][2], theirs["encoder_dims"][1]]:
        raise ParityError(f"{vector.path.name}: decoder widths {theirs['decoder_dims']} are not those of the encoder")
    if theirs["clip_config"].get("visual_encoder") != "stub":
        raise ParityError(f"{vector.path.name}: the teacher is {theirs['clip_config']}, not maps in the file")
    model = {**official.settings_from_official(theirs), "points": points, "embed": embed}
    return I2PConfig.model_validate({"model": model, "pretext": {"mask_ratio": theirs["mask_ratio"]}})


def embed_of(state: Mapping[str, Tensor]) -> tuple[int, int]:
    first = "h_encoder.token_embed.0.first_conv."
    return state[f"{first}0.weight"].shape[0], state[f"{first}3.weight"].shape[0]


def network(vector: Vector) -> I2PMaePretext:
    """With the file's weights: each tensor has its place, each place its tensor."""
    state = vector.part("state")
    pretext = build(config_of(vector, vector.tensors["input.points"].shape[1], embed_of(state)), BuildContext(seed=0))
    loaded, match = official.load(state, pretext.state_dict(), pretext.config)
    if match.missing or match.unexpected:
        raise ParityError(f"{vector.path.name}: {match}")
    same_names("state", official.save(pretext.state_dict(), pretext.config)[0], state)
    pretext.load_state_dict(loaded, strict=True)
    mode = vector.config["module_mode"].partition(" ")[0]
    return pretext.train({"train": True, "eval": False}[mode.rstrip(",;")])


@guarded
def whole(vector: Vector) -> Mapping[str, Tensor]:
    """The network from a cloud to losses and gradients, with the file's draw of the visible tokens and its maps of the 2-D model."""
    pretext = network(vector)
    config, given = pretext.config, vector.part("input")
    same_names("input", ["points", "image_features", "cls_attention", "ids_shuffle", "mask_top"], given)
    points, b = given["points"], len(given["points"])
    side = views2d.SIZE // 16
    if given["cls_attention"].shape != (3 * b, side * side + 1):
        raise ParityError(f"attention of shape {tuple(given['cls_attention'].shape)}")
    batch = {
        "points": points,
        "features": given["image_features"].unflatten(0, (3, b)).transpose(0, 1),
        "saliency": given["cls_attention"][:, 1:].reshape(3, b, side, side).transpose(0, 1),
    }
    scales = group_points(points, config.model, skip_origin=config.pretext.official)
    shown = given["ids_shuffle"][:, : config.model.groups[2] - config.masked].long()
    top = torch.ones(b, config.model.groups[2], dtype=torch.bool).scatter_(1, shown, False)
    if not torch.equal(top, given["mask_top"].bool()):
        raise ParityError(f"{vector.path.name}: mask_top is not what ids_shuffle leaves hidden")
    saliency = pretext.saliency_at(batch, scales[2].centres)
    masks = spread_masks(top, scales, official=config.pretext.official)
    out = {**scale_outputs(scales), **view_outputs(points, scales), **mask_outputs(masks)}
    out |= {"point_saliency": saliency, "mask_prob": torch.softmax(saliency, dim=1)}

    encoded = pretext.h_encoder.encode(scales, masks)
    rebuilt = pretext.rebuild(scales, masks, encoded, None)
    out |= encoded_outputs(encoded.embedded, encoded.packed, encoded.out)
    out |= {"dec_0": rebuilt.coarse, "prop_1": rebuilt.spread, "dec_1": rebuilt.fine, "dec_norm": rebuilt.tokens}
    mask = masks[1]
    members = take(pretext.target_features(batch, scales), scales[1].members)
    out |= {
        "rec_3d": pretext.rec_head_3d(rebuilt.tokens[mask]).unflatten(1, (-1, 3)),
        "gt_3d": scales[1].relative[mask],
        "rec_2d": pretext.rec_head_2d(rebuilt.tokens[~mask]).unflatten(1, (config.model.neighbours[1], -1)),
        "tgt_2d": members[~mask],
    }
    losses = {
        "loss_3d": pretext.points_loss(rebuilt.tokens, scales[1], mask),
        "loss_2d": pretext.features_loss(rebuilt.tokens, batch, scales, mask),
    }
    total = losses["loss_3d"] + losses["loss_2d"]
    total.backward()
    after = {official.to_theirs(name): value for name, value in pretext.state_dict().items()}
    out |= {**losses, "loss": total}
    out |= {name: after[name.removeprefix("bn_after.")].clone() for name in vector.part("output") if name.startswith("bn_after.")}

    fresh = network(vector).eval()
    with torch.no_grad():
        out["svm_feature"] = fresh.encoder().eval().pooled(points)
    grads = {}
    for name, parameter in pretext.named_parameters():
        theirs = official.to_theirs(name)
        if f"grad.{theirs}" in vector.tensors and parameter.grad is not None:
            grads[f"grad.{theirs}"] = parameter.grad.view(vector.tensors[f"grad.{theirs}"].shape)
    if len(grads) < GRADIENTS:
        raise ParityError(f"{vector.path.name}: {len(grads)} gradients of {GRADIENTS}")
    return {**shaped(vector, out), **grads}


def shaped(vector: Vector, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By full names; scalars in the form that the file has."""
    named = {f"output.{name}": value for name, value in out.items()}
    for name, value in named.items():
        theirs = vector.tensors.get(name)
        if theirs is not None and value.numel() == theirs.numel() == 1:
            named[name] = value.reshape(theirs.shape)
    return named


def scale_outputs(scales: list[Groups]) -> dict[str, Tensor]:
    out = {}
    for i, groups in enumerate(scales):
        out |= {f"fps_idx_{i}": groups.picks, f"center_{i}": groups.centres, f"knn_idx_{i}": groups.members}
        out[f"neighborhood_{i}"] = groups.relative
    return out


def mask_outputs(masks: list[Tensor]) -> dict[str, Tensor]:
    return {f"mask_{i}": mask.to(torch.uint8) for i, mask in enumerate(masks)}


def encoded_outputs(embedded: list[Tensor], packed: list[Any], tokens: list[Tensor]) -> dict[str, Tensor]:
    out = {f"tokens_{i}": values for i, values in enumerate(embedded)}
    for i, (rows, values) in enumerate(zip(packed, tokens, strict=True)):
        out[f"enc_{i}"] = values * rows.valid[..., None]
        out[f"enc_valid_{i}"] = rows.valid.to(torch.uint8)
    return out


def view_outputs(points: Tensor, scales: list[Groups]) -> dict[str, Tensor]:
    out = {}
    for number in range(3):
        view = views2d.seen_from(points, number)
        frame = views2d.frame_of(view[..., :2])
        image = normalised_image(views2d.depth_map(view, frame))
        around = scales[1].around
        near = views2d.pixels(views2d.seen_from(around.flatten(1, 2), number)[..., :2], frame)
        parts = {
            "pc_min": frame.low,
            "grid_size": frame.size,
            "offset": frame.offset,
            "center_pixel": views2d.pixels(views2d.seen_from(scales[2].centres, number)[..., :2], frame).float(),
            "neigh_pixel": near.unflatten(1, around.shape[1:3]).float(),
            "img_mean": image.mean(dim=(2, 3)),
            "img_std": image.flatten(2).std(dim=2),
        }
        out |= {f"view{number}.{name}": value for name, value in parts.items()}
    return out


def whole_limits(vector: Vector, name: str) -> Limits:
    allowed = vector.tolerance
    if name.startswith("grad."):
        return 0.0, 0.0, KINKED if name == f"grad.{FIRST}" else GRADIENT
    own = name.removeprefix("output.")
    if not vector.tensors[name].is_floating_point() or own.endswith("_pixel"):
        return 0.0, 0.0
    if own.endswith(("img_mean", "img_std")):
        return allowed["image_statistics"]["atol"], 0.0
    group = "coordinates" if re.match(r"(center|neighborhood|view|gt_3d)", own) else "losses" if own.startswith("loss") else "activations"
    return allowed[group]["atol"], allowed[group]["rtol"]


@guarded
def svm(vector: Vector) -> Mapping[str, Tensor]:
    """The exported encoder on its own."""
    state, points = vector.part("state"), vector.tensors["input.points"]
    encoder = PointEncoder(config_of(vector, points.shape[1], embed_of(state))).eval()
    ours, match = official.load(state, {f"h_encoder.{name}": value for name, value in encoder.state_dict().items()}, I2PConfig())
    if match.missing or match.unexpected or vector.config["module_mode"] != "eval":
        raise ParityError(f"{vector.path.name}: {match}, {vector.config['module_mode']}")
    encoder.load_state_dict({name.removeprefix("h_encoder."): value for name, value in ours.items()}, strict=True)
    with torch.no_grad():
        scales = encoder.scales(points)
        masks = spread_masks(torch.zeros(scales[2].centres.shape[:2], dtype=torch.bool), scales, official=True)
        encoded = encoder.encode(scales, masks)
        out = {**mask_outputs(masks), **encoded_outputs([], encoded.packed, encoded.out), "feature": encoder.pooled(points)}
    return shaped(vector, out)


@guarded
def rates(vector: Vector) -> Mapping[str, Tensor]:
    """Learning rates by epoch, and which parameters decay."""
    pretext = build(config_of(vector, 64, (128, 256)), BuildContext(seed=0))
    names = {id(p): official.to_theirs(n) for n, p in pretext.named_parameters()}
    for group in pretext.param_groups(OptimConfig(lr=1.0)):
        same_names(f"parameters with decay {group.decay}", [names[id(p)] for p in group.params], vector.config[group.name])
    out = {}
    for name, law in (("pretrain_lr", vector.config["pretrain"]), ("finetune_lr", vector.config["finetune"])):
        if (law["warmup_lr"], law["weight_decay"][0]) != (law["min_lr"], 0.0):
            raise ParityError(f"{name}: warm-up begins at {law['warmup_lr']}, decay {law['weight_decay']}")
        optim = OptimConfig.model_validate(
            {
                "lr": law["base_lr"],
                "min_lr": law["min_lr"],
                "warmup": f"{law['warmup_epochs']} epochs",
                "decay": f"{law['t_initial']} epochs",
                "weight_decay": law["weight_decay"][1],
                "betas": law["betas"],
                "eps": law["eps"],
            }
        )
        epochs = len(vector.tensors[f"output.{name}"])
        lr = i2p_schedules(optim, Clock(steps=7 * epochs, batch_size=2, samples=14), official=True)["lr"]
        if any(lr(7 * e) != lr(7 * e + 6) for e in range(epochs)):
            raise ParityError("a rate changes within an epoch")
        assert lr(0) == cosine(*map(float, (0, law["warmup_epochs"], law["t_initial"], law["base_lr"], law["min_lr"])))
        out[f"output.{name}"] = torch.tensor([lr(7 * e) for e in range(epochs)], dtype=vector.tensors[f"output.{name}"].dtype)
    return out


POOLING: dict[str, tuple[str, Pooling]] = {
    "mean + max (sum)": ("modelnet40", "sum"),
    "concatenate mean then max": ("scanobjectnn", "concat"),
}


@guarded
def classifiers(vector: Vector) -> Mapping[str, Tensor]:
    """One encoder and norm under the heads of both tasks."""
    points, out = vector.tensors["input.points"], {}
    for words, (task, pooling) in POOLING.items():
        config = vector.config[task]
        if vector.config["pooling"][task] != words or vector.config["module_mode"] != "eval":
            raise ParityError(f"{task}: pooling {vector.config['pooling'][task]}, {vector.config['module_mode']}")
        state = {**vector.part("state"), **vector.part(f"state_{task}")}
        model = I2PModel.model_validate({**official.settings_from_official(config), "points": points.shape[1], "embed": embed_of(state)})
        classes = len(state["cls_head_finetune.8.bias"])
        network = PointClassifier(model, config["local_radius"], pooling, classes).eval()
        ours, match = official.load(state, network.state_dict(), I2PConfig())
        if match.missing or match.unexpected:
            raise ParityError(f"{task}: {match}")
        network.load_state_dict(ours, strict=True)
        labels = vector.tensors[f"input.{task}.labels"].long()
        with torch.no_grad():
            scales = group_points(points, model, skip_origin=True)
            tokens = network.tokens(points)
            logits = network.cls_head_finetune(network.pooled(tokens))
            found = {f"attn_blocked_{i}": (~seen).to(torch.uint8) for i, seen in enumerate(near(scales, network.radii))}
            smooth = config["smooth"] if task == "modelnet40" else 0.0
            found |= {"encoder_tokens": tokens, "logits": logits, "loss": smoothed_cross_entropy(logits, labels, smooth)}
            found["accuracy"] = 100 * (logits.argmax(dim=1) == labels).float().mean()
            assert torch.equal(network(points), logits)
        out |= {f"output.{task}.{name}": value.reshape(vector.tensors[f"output.{task}.{name}"].shape) for name, value in found.items()}
    return out


@guarded
def clip_tower(vector: Vector) -> Mapping[str, Tensor]:
    """CLIP's visual tower as timm has it, with its head on every patch token; the file's images are normalised already."""
    config, state = vector.config, vector.part("state")
    if config["activation"] != "x*sigmoid(1.702x)":
        raise ParityError(f"activation {config['activation']}")
    visual = {key: config[key] for key in ("input_resolution", "patch_size", "width", "layers", "heads", "output_dim")}
    encoder = tower(visual, state)
    encoder.mean.zero_()
    encoder.std.fill_(1)
    with torch.no_grad():
        tokens = encoder.tokens(vector.tensors["input.image"])
        _, attention = encoder.features_and_attention(vector.tensors["input.image"])
    grid = (config["input_resolution"] // config["patch_size"],) * 2
    return {
        "output.feature_map": tokens.transpose(1, 2).unflatten(2, grid),
        "output.attention": attention,
        "output.saliency": attention[:, None, 0, 1:].unflatten(2, grid),
    }


ENCODER = (
    r"h_encoder\.(token_embed\.\d\.(first|second)_conv\.\d\.(weight|bias|running_mean|running_var|num_batches_tracked)|"
    r"encoder_pos_embeds\.\d\.[02]\.(weight|bias)|encoder_norms\.\d\.(weight|bias)|"
    r"encoder_blocks\.\d\.blocks\.\d+\.(norm[12]\.(weight|bias)|attn\.qkv\.weight|attn\.proj\.(weight|bias)|mlp\.fc[12]\.(weight|bias)))"
)
REST = (
    r"mask_token|h_decoder\.\d\.blocks\.\d+\.\S+|decoder_pos_embeds\.\d\.[02]\.(weight|bias)|token_prop\.0\.\S+|decoder_norm\.(weight|bias)|"
    r"rec_head_[23]d\.(weight|bias)"
)
CLOUD = r"(random|large|near_origin|duplicates|lattice\d+)"
KINDS: list[Kind] = [
    Kind(
        "whole model",
        names=(
            rf"(state|grad)\.({ENCODER}|{REST})",
            r"input\.(points|image_features|cls_attention|ids_shuffle|mask_top)",
            r"output\.(fps_idx|center|knn_idx|neighborhood|mask|tokens|enc|enc_valid)_[012]",
            r"output\.view[012]\.(pc_min|grid_size|offset|center_pixel|neigh_pixel|img_mean|img_std)",
            r"output\.(point_saliency|mask_prob|dec_0|dec_1|dec_norm|prop_1|(rec|gt)_3d|(rec|tgt)_2d|loss(_[23]d)?|svm_feature)",
            rf"output\.bn_after\.({ENCODER}|{REST})",
        ),
        needs=(r"input\.image_features", r"output\.rec_2d", r"output\.loss", r"output\.svm_feature", r"grad\..+"),
        compute=whole,
        limits=whole_limits,
    ),
    Kind(
        "frozen features",
        names=(rf"state\.{ENCODER}", r"input\.points", r"output\.(enc|enc_valid|mask)_[012]", r"output\.feature"),
        needs=(r"output\.feature", r"state\..+"),
        compute=svm,
        limits=by_family,
    ),
    Kind(
        "sampling and grouping",
        names=(
            r"input\.\w+\.points",
            rf"output\.{CLOUD}\.(fps_idx|centers|knn_idx|knn_dist)",
            r"output\.multiscale\.(fps_idx|center|flat_idx|neighborhood|neighborhood_abs)_[012]",
        ),
        needs=(r"output\.\w+\.fps_idx\w*",),
        compute=operations,
        limits=by_family,
    ),
    Kind(
        "Chamfer distance",
        names=(r"(input|grad)\.\w+\.(pred|target)", r"output\.\w+\.(dist[12]|idx[12]|loss_l[12])"),
        needs=(r"output\.\w+\.loss_l2", r"grad\..+"),
        compute=distances,
        limits=by_family,
    ),
    Kind(
        "depth views",
        names=(
            r"input\.(points|feature_maps)",
            r"output\.view[012]\.(points|pc_min|grid_size|offset|pixel|depth_sum|image_crop|image_channel_mean|point_feature)",
            r"output\.upsampled_example",
        ),
        needs=(r"input\.feature_maps", r"output\.view0\.depth_sum"),
        compute=projection,
        limits=projection_limits,
    ),
    Kind(
        "learning rates",
        names=(r"output\.(pretrain|finetune)_lr",),
        needs=(r"output\.pretrain_lr",),
        compute=rates,
        limits=by_family,
    ),
    Kind(
        "CLIP's visual tower",
        names=(r"state\.visual\.\S+", r"input\.image", r"output\.(feature_map|attention|saliency)"),
        needs=(r"output\.saliency",),
        compute=clip_tower,
        limits=by_family,
    ),
    Kind(
        "teacher end to end",
        names=(
            r"state\.visual\.\S+",
            r"input\.points",
            r"output\.view[012]\.(pc_min|grid_size|offset|pixel|image|image_crop|image_channel_mean|point_(feature|saliency)|center_saliency)",
            r"output\.(image_features|cls_attention|saliency|center_[12]|neighborhood_abs_1|neigh_feature|point_saliency|mask_prob)",
        ),
        needs=(r"output\.neigh_feature", r"output\.cls_attention", r"state\.visual\.proj"),
        compute=teacher,
        limits=teacher_limits,
    ),
    Kind(
        "fine-tuning heads",
        names=(
            r"state(_\w+)?\.\S+",
            r"input\.points",
            r"input\.\w+\.labels",
            r"output\.\w+\.(attn_blocked_[012]|encoder_tokens|logits|loss|accuracy)",
        ),
        needs=(r"output\.\w+\.logits",),
        compute=classifiers,
        limits=by_family,
    ),
]
