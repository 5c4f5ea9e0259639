"""What the benchmarks must know of each method: inputs to measure on, and the textbook that computes the same from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from textbook_conmim import TextbookConmim
from textbook_croco import TextbookCroco
from textbook_i2p import TextbookI2P
from textbook_loca import Draws, TextbookLoca, Views, from_flax
from torch import Tensor, nn

from sightline.methods.conmim.pretext import ConMIMPretext
from sightline.methods.contract import Batch, Method, MethodConfig
from sightline.methods.croco.official import to_official
from sightline.methods.croco.pretext import CrocoPretext
from sightline.methods.errors import SightlineError
from sightline.methods.i2p_mae import official as i2p_layout
from sightline.methods.i2p_mae.pretext import I2PMaePretext
from sightline.methods.loca import official as loca_layout
from sightline.methods.loca.config import LocaConfig
from sightline.methods.loca.pretext import LocaPretext
from sightline.methods.random import MicrobatchRng, keyed_rng, sample_rng
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.loader.stream import Columns


class Yardstick(NamedTuple):
    """`textbook`: a network of the same sizes with a copy of the weights; refuses settings it does not know.

    `inputs`: its arguments for a batch after `to_device` and the draws that `noise` gives ours; it returns the loss.
    `quick`: settings that cut a recipe down for a smoke run.
    `lean`: the textbook without a waste that would outweigh all else, where it has one; takes the same arguments.
    """

    textbook: Callable[[Any], nn.Module]
    inputs: Callable[[Any, Batch, MicrobatchRng], tuple[Any, ...]]
    quick: dict[str, Any]
    lean: Callable[[Any], nn.Module] | None = None


TEACHER_GRID = 14
"""Rows and columns of a teacher's maps: a ViT of patches of 16 at 224 px."""


def synthetic_columns(method: Method, settings: MethodConfig, samples: int, seed: int = 0) -> Columns:
    """What the stream would give: the method's own views, and what a 2-D teacher would say of them where the method has one."""
    columns = synthetic_views(method, settings, samples, seed)
    if method.stage is not None:
        columns |= synthetic_maps(settings.pretext.views, settings.model.teacher_dim, samples, seed)  # type: ignore[attr-defined]
    return columns


def synthetic_views(method: Method, settings: MethodConfig, samples: int, seed: int = 0) -> Columns:
    """The method's own views of noise images as large as its network sees them, or of noisy clouds."""
    views = method.views(settings)
    drawn = synthetic_clouds if method.kind == "points" else synthetic_images
    rows = [views(sample, sample_rng(seed, index)) for index, sample in enumerate(drawn(method, settings, samples, seed))]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def synthetic_images(method: Method, settings: MethodConfig, samples: int, seed: int) -> list[dict[str, np.ndarray]]:
    names, (height, width) = find_kind(method.kind).holding("image"), method.image_shape(settings)
    images = keyed_rng("benchmark", seed).integers(0, 256, (samples, len(names), height, width, 3), dtype=np.uint8)
    return [dict(zip(names, each, strict=True)) for each in images]


def synthetic_clouds(method: Method, settings: MethodConfig, samples: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Points on stretched spheres, twice as many as the network sees."""
    rng = keyed_rng("benchmark clouds", seed)
    points = rng.normal(size=(samples, 2 * settings.model.points, 3))  # type: ignore[attr-defined]
    points *= rng.uniform(0.3, 1.0, (samples, 1, 3)) / np.linalg.norm(points, axis=-1, keepdims=True)
    return [{"points": each.astype(np.float32)} for each in points]


def synthetic_maps(views: int, width: int, samples: int, seed: int) -> Columns:
    """`features` and `saliency` of a teacher that says anything; saliency sums to 1 over each map."""
    rng = keyed_rng("benchmark teacher", seed)
    features = rng.normal(size=(samples, views, width, TEACHER_GRID, TEACHER_GRID)).astype(np.float16)
    saliency = rng.random((samples, views, TEACHER_GRID, TEACHER_GRID), dtype=np.float32)
    return {"features": features, "saliency": saliency / saliency.sum(axis=(2, 3), keepdims=True)}


def _refuse_unless(known: bool, method: str, what: str) -> None:
    if not known:
        raise SightlineError(f"the textbook {method} has {what}", "measure a recipe that asks for no more")


def textbook_croco(pretext: CrocoPretext) -> TextbookCroco:
    settings = pretext.config
    model, task = settings.model, settings.pretext
    known = model.position == "rope" and model.rope_f0 == 1 and model.norm_memory and task.norm_pix and task.hidden_only
    _refuse_unless(known, "CroCo", "rotary positions, normalised memory and targets, and a loss on hidden patches only")
    textbook = TextbookCroco(
        patch_size=model.patch_size,
        enc_embed_dim=model.encoder_dim,
        enc_depth=model.encoder_depth,
        enc_num_heads=model.encoder_heads,
        dec_embed_dim=model.decoder_dim,
        dec_depth=model.decoder_depth,
        dec_num_heads=model.decoder_heads,
        mlp_ratio=model.mlp_ratio,
        rope_base=model.rope_base,
    )
    textbook.load_state_dict(to_official(pretext.state_dict(), settings)[0])
    return textbook


def textbook_conmim(pretext: ConMIMPretext) -> TextbookConmim:
    model, task = pretext.config.model, pretext.config.pretext
    _refuse_unless(model.drop_path == 0, "ConMIM", "no drop path")
    textbook = TextbookConmim(
        task.temperature,
        patch_size=model.patch_size,
        grid=model.grid,
        dim=model.dim,
        depth=model.depth,
        heads=model.heads,
        mlp_ratio=model.mlp_ratio,
        absolute_positions=model.position_table,
        block_bias=model.relative_bias in ("per_block", "both"),
        shared_bias=model.relative_bias in ("shared", "both"),
        layer_scale=model.layer_scale is not None,
        projector_hidden=model.projector_hidden,
        projector_dim=model.projector_dim,
    )
    state = {conmim_name(name): tensor for name, tensor in pretext.state_dict().items()}
    found = textbook.load_state_dict(state, strict=False)
    missing = [name for name in found.missing_keys if not name.endswith("relative_position_index")]  # ours makes it anew
    _refuse_unless(not missing and not found.unexpected_keys, "ConMIM", f"other weights: {missing + found.unexpected_keys}")
    return textbook


def conmim_name(ours: str) -> str:
    return ours.replace(".backbone.", ".")


def textbook_loca(pretext: LocaPretext) -> TextbookLoca:
    config = pretext.config
    model, task = config.model, config.pretext
    _refuse_unless(task.clustering, "LOCA", "clusters, never the position loss alone")
    textbook = TextbookLoca(
        task.temperature,
        task.sharpening,
        task.sinkhorn_iterations,
        patch_size=model.patch_size,
        grid=model.grid,
        dim=model.encoder_dim,
        depth=model.encoder_depth,
        heads=model.encoder_heads,
        mlp_dim=int(model.encoder_dim * model.mlp_ratio),
        head_hidden=task.head_hidden,
        head_bottleneck=task.head_bottleneck,
        prototypes=task.prototypes,
        drop_path=model.drop_path,
    )
    textbook.load_state_dict(loca_names(pretext.state_dict(), config))
    return textbook


def loca_names(state: Mapping[str, Tensor], config: LocaConfig) -> dict[str, Tensor]:
    """Our tensors under the textbook's names, by way of the published layout."""
    leaves = loca_layout.save(state, config)[0]
    named = {}
    for network, root in (("student", "params/"), ("teacher", "ema_params/")):
        tree = {path.removeprefix(root): leaf for path, leaf in leaves.items() if path.startswith(root)}
        named.update({f"{network}.{name}": tensor for name, tensor in from_flax(tree).items()})
    return named


def loca_inputs(pretext: LocaPretext, batch: Batch, noise: MicrobatchRng) -> tuple[Views, Draws]:
    """Focal queries lie image-major in our batch."""
    drawn = pretext.draw(batch, noise)
    b, f = batch["focal"].shape[:2]
    focal_kept = None if drawn.focal_paths is None else drawn.focal_paths.reshape(-1, 2, b, f).transpose(2, 3).flatten(2)
    focal, focal_target = (batch[name].transpose(0, 1).flatten(0, 1) for name in ("focal", "focal_target"))
    views = Views(batch["reference"], batch["query"], focal, batch["query_target"], focal_target)
    return views, Draws(drawn.reference, drawn.query, drawn.reference_paths, drawn.query_paths, focal_kept)


def textbook_i2p(pretext: I2PMaePretext, resize: bool = True) -> TextbookI2P:
    config = pretext.config
    model, task, loss = config.model, config.pretext, config.loss
    known = task.mask == "guided" and task.features_on == "visible" and task.official and loss.points == loss.features == 1
    _refuse_unless(known, "I2P-MAE", "guided masks as released, features on visible tokens, and both losses with weight 1")
    textbook = TextbookI2P(
        groups=model.groups,
        neighbours=model.neighbours,
        embed=model.embed,
        dims=model.dims,
        depths=model.depths,
        decoder_depths=model.decoder_depths,
        up_blocks=model.decoder_up_blocks,
        heads=model.heads,
        mlp_ratio=model.mlp_ratio,
        drop_path=model.drop_path,
        masked=config.masked,
        mask_temperature=task.mask_temperature,
        features=model.teacher_dim * task.views,
        resize=resize,
    )
    textbook.load_state_dict(i2p_layout.save(pretext.state_dict(), config)[0])
    return textbook


def i2p_inputs(pretext: I2PMaePretext, batch: Batch, noise: MicrobatchRng) -> tuple[Tensor | None, ...]:
    model, points = pretext.config.model, batch["points"]
    uniform = torch.rand(len(points), model.groups[2], generator=noise.torch("mask"), dtype=torch.float64).to(points.device)
    gumbel = -torch.log(-torch.log(uniform))
    kept = [
        pretext.kept(part, sum(depths), len(points), noise)
        for part, depths in (("encoder", model.depths), ("decoder", model.decoder_depths))
    ]
    return points, batch["features"], batch["saliency"], gumbel, *kept


YARDSTICKS = {
    "croco": Yardstick(
        textbook_croco,
        lambda pretext, batch, noise: (batch["image1"], batch["image2"], batch["mask"]),
        {"model.encoder_depth": 1, "model.decoder_depth": 1, "model.image_size": 64},
    ),
    "conmim": Yardstick(
        textbook_conmim,
        lambda pretext, batch, noise: (batch["student"], batch["teacher"], batch["mask"]),
        {"model.depth": 1, "model.image_size": 64, "model.projector_hidden": 64},
    ),
    "loca": Yardstick(
        textbook_loca,
        loca_inputs,
        {"model.encoder_depth": 2, "model.image_size": 64, "augment.focal_size": 32, "pretext.prototypes": 64, "pretext.head_hidden": 64},
    ),
    "i2p_mae": Yardstick(
        textbook_i2p,
        i2p_inputs,
        {
            "model.points": 256,
            "model.groups": (64, 32, 16),
            "model.neighbours": (8, 4, 4),
            "model.dims": (24, 48, 96),
            "model.depths": (1, 1, 1),
            "model.teacher_dim": 16,
        },
        partial(textbook_i2p, resize=False),
    ),
}
