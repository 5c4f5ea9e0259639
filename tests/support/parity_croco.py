"""What CroCo's vectors may hold, and our value for each number in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from parity_harness import Kind, ParityError, Vector, same_names
from torch import Tensor
from torch.nn.functional import conv2d

from sightline.methods.contract import BuildContext
from sightline.methods.croco.config import CrocoConfig
from sightline.methods.croco.official import SAME, from_official, official_name, settings_from_official
from sightline.methods.croco.pretext import CrocoPretext, build
from sightline.methods.dense import official
from sightline.methods.dense.config import DenseModel
from sightline.methods.dense.criteria import Criterion
from sightline.methods.dense.network import build_network
from sightline.methods.layers.colour import imagenet_denormalise
from sightline.methods.layers.patches import patchify, unpatchify
from sightline.methods.layers.positions import grid_positions, resize_table, rotary_angles, rotate, sincos_table
from sightline.methods.ops.dense_metrics import flow_metrics, flow_sums, stereo_metrics, stereo_sums
from sightline.methods.ops.tiling import TileWeight, predict_in_tiles, tile_starts
from sightline.methods.optim import OptimConfig, warmup_cosine

SETTINGS = ("img_size", "mask_ratio", "pos_embed", *SAME)
FIXED = {"act": "gelu_exact", "norm_eps": 1e-6, "eps_norm_pix": 1e-6, "in_chans": 3, "qkv_bias": True, "var_unbiased": True}
"""What our network never varies; a file that does is no vector of ours."""


def network(vector: Vector) -> CrocoPretext:
    """The network of the file's own settings with the file's own weights; every tensor of either must have its place in the other."""
    if absent := [name for name in SETTINGS if name not in vector.config]:
        raise ParityError(f"{vector.path.name}: config lacks {absent}")
    if odd := {k: vector.config[k] for k, v in FIXED.items() if vector.config.get(k, v) != v}:
        raise ParityError(f"{vector.path.name}: settings our network does not have: {odd}")
    config = CrocoConfig(**settings_from_official({name: vector.config[name] for name in SETTINGS}))
    pretext = build(config, BuildContext(seed=0))
    theirs = vector.part("state")
    same_names("state", map(official_name, pretext.state_dict()), theirs)
    pretext.load_state_dict(from_official(theirs, pretext.state_dict(), config)[0], strict=True)
    return pretext


def pretraining(vector: Vector) -> Mapping[str, Tensor]:
    pretext = network(vector)
    model, inputs, out = pretext.config.model, vector.part("input"), {}
    image1, image2, mask = inputs["img1"], inputs["img2"], inputs["mask"]
    counts = mask.sum(dim=1).unique().tolist()
    if len(counts) != 1 or tuple(image1.shape[2:]) != model.image_size or mask.shape[1] != model.patches:
        raise ParityError(
            f"{vector.path.name}: images {tuple(image1.shape)} or mask {tuple(mask.shape)} ({counts} hidden) do not fit the config"
        )
    hidden = counts[0]
    views = (model.patches - hidden, model.patches)

    seen: dict[str, Tensor] = {}
    stacks = {
        "enc": (pretext.backbone.enc_blocks, pretext.backbone.enc_norm),
        "dec": (pretext.decoder.dec_blocks, pretext.decoder.dec_norm),
    }
    for stack, (blocks, norm) in stacks.items():
        for name, module in [*((f"{stack}_block{i}", block) for i, block in enumerate(blocks[:-1])), (stack, norm)]:
            module.register_forward_hook(lambda _m, _i, result, name=name: seen.__setitem__(name, result))

    # all patches: intermediates and prediction, put back in raster order
    every = pretext.complete(image1, image2, mask, hidden, every=True)
    raster = every.cells.argsort(dim=1)[..., None]
    for name, tensor in seen.items():
        if name.startswith("enc"):
            for view, part in enumerate(tensor.split(views, dim=1), start=1):
                out[name.replace("enc", f"enc{view}")] = part
        else:
            out[name] = tensor.take_along_dim(raster, dim=1)
    out["pred"] = every.prediction.take_along_dim(raster, dim=1)
    out["target"] = patchify(image1, model.patch_size)
    out["pos"] = grid_positions(model.grid)
    out["patch_embed1"] = pretext.backbone.patch_embed(out["target"])
    out["loss_norm_pix_all"] = every.errors().mean()

    # hidden patches only: the path that trains
    done = pretext.complete(image1, image2, mask, hidden)
    done.prediction.retain_grad()
    out["loss_norm_pix"] = done.errors().mean()
    out["loss_norm_pix"].backward()
    grad = torch.zeros_like(out["pred"])
    assert done.prediction.grad is not None
    out["dloss_dpred"] = grad.scatter(1, done.cells[..., None].expand_as(done.prediction), done.prediction.grad)
    out["loss_raw"] = done._replace(normalised=False).errors().mean()

    wanted = vector.part("grad")
    if len(wanted) < 10 + model.norm_memory:
        raise ParityError(f"{vector.path.name} has {len(wanted)} gradients; its README promises 10, with a memory norm 11")
    grads = {f"grad.{name}": p.grad for n, p in pretext.named_parameters() if (name := official_name(n)) in wanted and p.grad is not None}
    return {f"output.{name}": tensor for name, tensor in out.items()} | grads


def rope(vector: Vector) -> Mapping[str, Tensor]:
    inputs = vector.part("input")
    same_names("cases", vector.config["cases"], {name.rsplit(".", 1)[0] for name in inputs})
    out = {}
    for case, settings in vector.config["cases"].items():
        tokens = inputs[f"{case}.tokens"].detach().requires_grad_()
        angles = rotary_angles(inputs[f"{case}.positions"], tokens.shape[-1], settings["freq"], settings["F0"])
        turned = rotate(tokens, *(t[:, None] for t in angles))
        out[f"output.{case}.tokens"] = turned
        (out[f"output.{case}.grad_in"],) = torch.autograd.grad(turned, tokens, inputs[f"{case}.grad_out"])
    return out


def tables(vector: Vector) -> Mapping[str, Tensor]:
    inputs, outputs = vector.part("input"), vector.part("output")
    out: dict[str, Tensor] = {}
    for name in outputs:
        if match := re.fullmatch(r"sincos_d(\d+)_(\d+)x(\d+)", name):
            dim, rows, columns = map(int, match.groups())
            out[name] = sincos_table(dim, (rows, columns))
    for name, table in inputs.items():
        if match := re.fullmatch(r"((?:enc|dec)_pos_embed)_(\d+)x(\d+)", name):
            targets = [(n, m) for n in outputs if (m := re.fullmatch(match[1] + r"_(\d+)x(\d+)", n))]
            if not targets:
                raise ParityError(f"{vector.path.name}: input.{name} is resized nowhere")
            for target, size in targets:
                out[target] = resize_table(table, (int(match[2]), int(match[3])), (int(size[1]), int(size[2])))
    if "count_image" in inputs:
        image, patches = inputs["count_image"], outputs.get("count_patches")
        patch = math.isqrt(patches.shape[-1] // 3) if patches is not None else 16
        out["count_patches"] = patchify(image, patch)
        if not torch.equal(unpatchify(out["count_patches"], patch, (image.shape[2] // patch, image.shape[3] // patch)), image):
            raise ParityError("unpatchify is not the inverse of patchify")
    for name in inputs:
        if match := re.fullmatch(r"epoch_(.+)", name):
            law = vector.config[f"lr_{match[1]}"]
            rates = [
                warmup_cosine(e, law["warmup_epochs"], law["epochs"], law["lr"], law["min_lr"]) for e in inputs[name].double().tolist()
            ]
            out[f"lr_{match[1]}"] = torch.tensor(rates, dtype=torch.float64)
    check_decay_groups(vector)
    return {f"output.{name}": tensor for name, tensor in out.items()}


def check_decay_groups(vector: Vector) -> None:
    """The names that decay, of a cosine model with one block in each stack."""
    if not (wanted := vector.config.get("weight_decay_groups_tiny_cosine_model")):
        return
    sizes = {
        "image_size": 32,
        "encoder_dim": 8,
        "encoder_depth": 1,
        "encoder_heads": 2,
        "decoder_dim": 8,
        "decoder_depth": 1,
        "decoder_heads": 2,
    }
    pretext = build(CrocoConfig.model_validate({"model": sizes, "pretext": {"mask_ratio": 0.5}}), BuildContext(seed=0))
    names = {id(p): official_name(n) for n, p in pretext.named_parameters()}
    for group in pretext.param_groups(OptimConfig(lr=1e-3, weight_decay=0.05)):
        same_names(f"weight decay group {group.name}", [names[id(p)] for p in group.params], wanted[group.name]["params"])


DOWNSTREAM = ("img_size", "patch_size", "pos_embed", "enc_embed_dim", "enc_depth", "enc_num_heads", "mlp_ratio")


def dense(vector: Vector) -> Mapping[str, Tensor]:
    """A network of one view, or of two with a decoder, read as a published file is; its own copies of tensors come back from an export."""
    config, theirs, inputs = vector.config, vector.part("state"), vector.part("input")
    if absent := [name for name in (*DOWNSTREAM, "dpt") if name not in config]:
        raise ParityError(f"{vector.path.name}: config lacks {absent}")
    if odd := {k: config[k] for k, v in FIXED.items() if config.get(k, v) != v}:
        raise ParityError(f"{vector.path.name}: settings our network does not have: {odd}")
    kwargs = {name: config[name] for name in ("img_size", "pos_embed", *SAME) if name in config}
    content = {"model": theirs, "args": {"croco_args": kwargs}}
    found = official.settings_of(content)
    dpt = config["dpt"]
    ours = {"layer_dims": list(found.model.widths), "feature_dim": found.model.features, "last_dim": found.model.last}
    if wrong := [name for name, value in (ours | {"num_channels": found.channels}).items() if dpt.get(name, value) != value]:
        raise ParityError(f"{vector.path.name}: the head's tensors are not those of config.dpt: {wrong}")
    model = found.model.model_copy(update={"hooks": tuple(dpt["hooks"]) if dpt.get("hooks") else None})
    network = build_network(model, found.channels, BuildContext(seed=0))
    state, match = official.load(content, network.state_dict(), model)
    same_names("state", match.missing + match.unexpected, ())
    same_names("unused buffers", match.left_out, config.get("unused_buffers", ()))
    network.load_state_dict(state, strict=True)
    same_names("exported", exported(network.state_dict(), model), theirs)

    images = [imagenet_denormalise(inputs[name]) for name in sorted(inputs)]
    out = {f"output.tokens{i}": tokens for i, tokens in enumerate(network.block_tokens(*images))}
    out["output.prediction"] = network(*images)
    if tuple(images[0].shape[2:]) != model.image_size:
        raise ParityError(f"{vector.path.name}: images of {tuple(images[0].shape)} are not those of the config")
    out["output.prediction"].square().mean().backward()
    names = {official.official_name(name): p for name, p in network.named_parameters()}
    unused = [name for name, p in names.items() if p.grad is None and name.startswith("head.")]
    same_names("of the head, without gradient", unused, config["params_without_gradient"])
    return out | {f"grad.{name}": p.grad for name in vector.part("grad") if (p := names.get(name)) is not None and p.grad is not None}


def exported(state: Mapping[str, Tensor], model: DenseModel) -> list[str]:
    """Names in a file of the layout; it has no place for hooks."""
    return list(official.save(state, model.model_copy(update={"hooks": None}), "flow", Criterion("l1"), "")[0])


def criteria(vector: Vector) -> Mapping[str, Tensor]:
    """Losses with their gradients, and metrics, all as the authors have them."""
    inputs, out = vector.part("input"), {}
    losses = {name.split(".")[1] for name in vector.part("output") if name.endswith(".loss")}
    if losses - vector.config.keys():
        raise ParityError(f"{vector.path.name}: no settings of {sorted(losses - vector.config.keys())}")
    for task in sorted({name.split(".")[0] for name in inputs if name.endswith(".gt")}):
        truth = inputs[f"{task}.gt"]
        for loss in sorted({n.split(".")[1] for n in vector.part("output") if n.startswith(f"{task}.") and n.endswith(".loss")}):
            given = vector.config[loss]
            if unknown := given.keys() - {"a", "b", "max_gtnorm"}:
                raise ParityError(f"{vector.path.name}: {loss} has unknown settings {sorted(unknown)}")
            name = re.match("laplacian|bounded2|bounded|l1", loss)
            assert name is not None
            numbers = [None if (value := given.get(key)) is None else float(value) for key in ("a", "b", "max_gtnorm")]
            criterion = Criterion(name[0], *numbers, official=True)
            prediction, confidence = inputs[f"{task}.pred"].clone().requires_grad_(), inputs["conf"].clone().requires_grad_()
            value = criterion(prediction, truth, confidence if criterion.with_confidence else None)
            value.backward()
            out |= {f"{task}.{loss}.loss": value, f"{task}.{loss}.grad_pred": prediction.grad}
            if criterion.with_confidence:
                out[f"{task}.{loss}.grad_conf"] = confidence.grad
        out |= task_metrics(task, inputs[f"{task}.pred"].numpy(), truth.numpy())
    return {f"output.{name}": tensor for name, tensor in out.items()}


def task_metrics(task: str, predicted: np.ndarray, true: np.ndarray) -> dict[str, Tensor]:
    """By batch: means over images of their own means; by data set: all pixels together. Each reports a list of its own."""
    if task == "stereo":
        sums, metrics = stereo_sums(predicted[:, 0], true[:, 0]), stereo_metrics
        batch, dataset = (
            ("avgerr", "rmse", "bad@0.5", "bad@1.0", "bad@2.0", "bad@3.0"),
            ("avgerr", "bad@0.5", "bad@1.0", "bad@2.0", "bad@3.0"),
        )
    else:
        sums, metrics = flow_sums(predicted, true, official=True), flow_metrics
        batch = ("EPE", "L1err", "bad@1.0", "bad@3.0", "bad@5.0")
        dataset = (*batch, "bad@0.5", "s0-10", "s10-40", "s40+")
    images, pooled = metrics(sums), metrics(sums.sum(axis=0))
    found = {f"{task}.batch_metric.{name}": images[name].mean() for name in batch}
    found |= {f"{task}.dataset_metric.{'L1err' if name == 'avgerr' else name}": np.nan_to_num(pooled[name]) for name in dataset}
    return {name: torch.tensor(float(value)) for name, value in found.items()}


def tiles(vector: Vector) -> Mapping[str, Tensor]:
    """The toy network of the file, one convolution over both images, in tiles; and where tiles begin."""
    for key, starts in vector.config.get("offsets", {}).items():
        length, tile, overlap = key.split("_")
        if tile_starts(int(length), int(tile), float(overlap)) != starts:
            raise ParityError(f"{vector.path.name}: tiles of {key} start elsewhere")
    inputs, out = vector.part("input"), {}
    same_names("cases", vector.config["cases"], {name.split(".")[0] for name in inputs})
    for case, settings in vector.config["cases"].items():
        weight, bias = (vector.tensors[f"state.{case}.{name}"] for name in ("weight", "bias"))

        def predict(one: Tensor, two: Tensor, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return conv2d(torch.cat([one, two], dim=1), weight, bias, padding=2)

        axes: tuple[Any, ...] = ("x", "y")[: settings["channels"] - 1]
        images = [inputs[f"{case}.img{i}"] for i in (1, 2)]
        done = predict_in_tiles(
            predict, images, tuple(settings["crop"]), axes, settings["overlap"], TileWeight.parse(settings["conf_mode"]), official=True
        )
        out |= {f"output.{case}.pred": done.values, f"output.{case}.conf": done.confidence}
    return out


NAME = r"[A-Za-z0-9_]+"
AFFINE = r"(weight|bias)"
BLOCK = rf"(norm[123]|norm_y|attn\.(qkv|proj)|cross_attn\.(projq|projk|projv|proj)|mlp\.(fc1|fc2))\.{AFFINE}"
TRUNK = (
    rf"(patch_embed\.proj\.{AFFINE}|(enc|dec)_blocks\.\d+\.{BLOCK}|(enc|dec)_norm\.{AFFINE}|(enc|dec)_pos_embed|decoder_embed\.{AFFINE})"
)
UNIT = rf"(out_conv|resConfUnit[12]\.conv[12])\.{AFFINE}"
DPT = (
    rf"head\.dpt\.(act_[1-4]_postprocess\.[01]\.{AFFINE}|act_postprocess\.[0-3]\.[01]\.{AFFINE}|head\.[024]\.{AFFINE}|"
    rf"scratch\.(layer[1-4]_rn\.weight|layer_rn\.[0-3]\.weight|refinenet[1-4]\.{UNIT}))"
)
METRIC = r"(batch|dataset)_metric\.[\w@.+-]+"

PENDING: dict[str, str] = {}
KINDS = [
    Kind(
        "pretraining",
        names=(
            rf"state\.({TRUNK}|mask_token|prediction_head\.{AFFINE})",
            r"input\.(img1|img2|mask)",
            r"output\.(patch_embed1|pos|enc[12](_block\d+)?|dec(_block\d+)?|pred|target|loss_norm_pix|loss_raw|loss_norm_pix_all|dloss_dpred)",
            rf"grad\.({TRUNK}|mask_token|prediction_head\.{AFFINE})",
        ),
        needs=(r"state\.mask_token", r"input\.img1", r"input\.img2", r"input\.mask", r"output\.pred", r"grad\..+"),
        compute=pretraining,
    ),
    Kind(
        "rotary embedding",
        names=(rf"input\.{NAME}\.(tokens|positions|grad_out)", rf"output\.{NAME}\.(tokens|grad_in)"),
        needs=(r"input\..+\.positions", r"output\..+\.tokens"),
        compute=rope,
    ),
    Kind(
        "tables",
        names=(
            r"input\.((enc|dec)_pos_embed_\d+x\d+|count_image|epoch_\w+)",
            r"output\.(sincos_d\d+_\d+x\d+|(enc|dec)_pos_embed_\d+x\d+|count_patches|lr_\w+)",
        ),
        needs=(r"output\.sincos_.+",),
        compute=tables,
    ),
    Kind(
        "binocular DPT",
        names=(rf"(state|grad)\.({TRUNK}|{DPT})", r"input\.img[12]", r"output\.(tokens\d+|prediction)"),
        needs=(r"state\.head\.dpt\..+", r"state\.dec_blocks\..+", r"input\.img1", r"input\.img2", r"output\.prediction"),
        compute=dense,
    ),
    Kind(
        "monocular DPT",
        names=(
            rf"(state|grad)\.(patch_embed\.proj\.{AFFINE}|enc_blocks\.\d+\.{BLOCK}|enc_norm\.{AFFINE}|(enc|dec)_pos_embed|{DPT})",
            r"input\.img1",
            r"output\.(tokens\d+|prediction)",
        ),
        needs=(r"state\.head\.dpt\..+", r"state\.enc_blocks\..+", r"input\.img1", r"output\.prediction"),
        compute=dense,
    ),
    Kind(
        "tiled inference",
        names=(rf"state\.{NAME}\.{AFFINE}", rf"input\.{NAME}\.img[12]", rf"output\.{NAME}\.(pred|conf)"),
        needs=(r"state\..+\.weight", r"input\..+\.img1", r"input\..+\.img2", r"output\..+\.pred", r"output\..+\.conf"),
        compute=tiles,
    ),
    Kind(
        "Laplacian criterion",
        names=(
            r"input\.((stereo|flow)\.(pred|gt)|conf)",
            rf"output\.(stereo|flow)\.({METRIC}|(laplacian|bounded2?|l1)\w*\.(loss|grad_pred|grad_conf))",
        ),
        needs=(r"input\.conf", r"input\..+\.gt", r"output\..+\.loss"),
        compute=criteria,
    ),
]
