"""What LOCA's vectors may hold, and our value for each number in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from parity_harness import BytesKind, JsonKind, Kind, ParityError, Vector, same_names
from parity_loca_checkpoint import checkpoint
from parity_loca_operations import (
    balanced,
    channels_first,
    check_alpha,
    cluster_operations,
    colour_limits,
    colours,
    patch_limits,
    patch_numbers,
    resized_grids,
    schedule_settings,
    schedules,
)
from torch import Tensor

from sightline.methods import collective
from sightline.methods.contract import Batch, BuildContext
from sightline.methods.loca import official
from sightline.methods.loca.config import LocaConfig
from sightline.methods.loca.flax_layout import leaves, to_flax
from sightline.methods.loca.pretext import Draws, LocaPretext, build
from sightline.methods.loca.schedules import teacher_momentum
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.random import MicrobatchRng
from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.training.step import Stepper

GIVEN = {"layer_norm_eps": 1e-6, "gelu": "tanh", "dropout_rate": 0.0, "attention_dropout_rate": 0.0, "image_layout": "NHWC"}
"""What our network never varies; a file that does is no vector of ours."""


class Injected(LocaPretext):
    """Draws come from a file, by `rng`; batches come as `to_device` gives them."""

    injected: Callable[[MicrobatchRng], Draws]

    def draw(self, batch: Batch, rng: MicrobatchRng) -> Draws:
        return self.injected(rng)

    def to_device(self, batch: Batch) -> Batch:
        return batch


def network(vector: Vector) -> Injected:
    """The pretext of the file's own settings with the file's own weights; every tensor of either must have its place in the other."""
    if odd := {k: vector.config[k] for k, v in GIVEN.items() if vector.config.get(k, v) != v}:
        raise ParityError(f"{vector.path.name}: settings our network does not have: {odd}")
    config = LocaConfig(**official.settings_from_official(vector.config))
    sides = {"grid": config.model.grid, "focal_grid": config.focal_grid}
    for name, value in {**{n: s[0] for n, s in sides.items()}, "n_ref_positions": config.model.patches}.items():
        if name in vector.config and vector.config[name] != value:
            raise ParityError(f"{vector.path.name}: {name} is {vector.config[name]}, ours {value}")
    pretext = build(config, BuildContext(seed=0)).train()
    pretext.__class__ = Injected
    assert isinstance(pretext, Injected)
    fill(pretext, vector.part("state"))
    return pretext


def fill(pretext: LocaPretext, theirs: Mapping[str, Tensor]) -> None:
    ours = pretext.state_dict()
    same_names("state", official.save(ours, pretext.config)[0], theirs)
    state, match = official.load(theirs, ours, pretext.config)
    if match.missing or match.unexpected or match.resized or len(match.matched) != len(theirs):
        raise ParityError(f"state: {match.missing[:3]} missing, {match.unexpected[:3]} unexpected, {match.resized} resized")
    pretext.load_state_dict(state, strict=True)


def by_image(rows: Tensor, images: int) -> Tensor:
    """Query-major F B x ... -> B x F x ..."""
    return rows.unflatten(0, (-1, images)).transpose(0, 1)


def by_query(rows: Tensor) -> Tensor:
    """B x F x ... -> query-major F B x ..."""
    return rows.transpose(0, 1).flatten(0, 1)


def batch_of(inputs: Mapping[str, Tensor]) -> Batch:
    """A file's inputs of one device, as `to_device` gives a group."""
    b = len(inputs["reference"])
    return {
        "reference": channels_first(inputs["reference"]),
        "query": channels_first(inputs["query0"]),
        "focal": by_image(channels_first(inputs["queries"]), b),
        "query_target": inputs["query0_target_position"].long(),
        "focal_target": by_image(inputs["target_positions"].long(), b),
    }


def draws_of(inputs: Mapping[str, Tensor], depth: int) -> Draws:
    paths: dict[str, Tensor] = {}
    b = len(inputs["reference"])
    for theirs, ours in (("reference", "reference_paths"), ("query0", "query_paths"), ("focal", "focal_paths")):
        if any(name.startswith("drop_path.") for name in inputs):
            blocks = [[inputs[f"drop_path.{theirs}.encoderblock_{i}.{branch}"] for branch in ("attn", "mlp")] for i in range(depth)]
            masks = torch.stack([torch.stack(branches) for branches in blocks]).bool()
            paths[ours] = masks if theirs != "focal" else by_image(masks.permute(2, 0, 1), b).flatten(0, 1).permute(1, 2, 0)
            for branch in ("attn", "mlp"):
                if not inputs[f"drop_path.{theirs}.cross_attention_block.{branch}"].all():
                    raise ParityError(f"drop path in the cross-attention block of {theirs}: ours has none")
    return Draws(inputs["reference_kept_idx"].long(), inputs["query0_kept_idx"].long(), **paths)


def official_grads(pretext: LocaPretext) -> dict[str, Tensor]:
    """Gradients of the student by Flax path, in Flax's shapes."""
    named = dict(pretext.student.named_parameters())
    grads = {name: p.grad for name, p in named.items() if p.grad is not None}
    return {leaf.path: to_flax(leaf, grads[leaf.ours], pretext.config) for leaf in leaves(pretext.config) if leaf.ours in grads}


def grad_norm(pretext: LocaPretext) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in pretext.student.parameters() if p.grad is not None])


def group_outputs(pretext: Injected, batch: Batch, rng: MicrobatchRng, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All recorded results of one group, without gradient; `batch` as `targets` gives it. Scalars have no dimension."""
    draws, f = pretext.draw(batch, rng), batch["focal"].shape[1]
    with torch.no_grad():
        reference = pretext.see_reference(batch, draws)
        answer = pretext.answer(batch, draws, reference.kept)
    first = len(draws.query)
    targets = pretext.query_targets(batch, draws)

    def random(rows: Tensor) -> Tensor:
        return rows[:, :first]

    def focal(rows: Tensor) -> Tensor:
        return by_query(rows[:, first:].unflatten(1, (f, -1)))

    def all_tokens(rows: Tensor) -> Tensor:
        return torch.cat([random(rows).flatten(0, 1), focal(rows).flatten(0, 1)])

    out = {
        "reference_patch_features_kept": reference.kept,
        "query0_patch_features": random(answer.features),
        "focal_patch_features": focal(answer.features),
        "query0_position_logits": random(answer.positions),
        "focal_position_logits": focal(answer.positions),
        "position_targets": all_tokens(targets),
        "valid": all_tokens(targets >= 0).int(),
        "position_loss": losses["position"],
        "position_accuracy": losses["accuracy"],
        "total_loss": total(losses),
    }
    if reference.features is not None and reference.cosines is not None and answer.cosines is not None:
        task, assignments = pretext.config.pretext, batch["assignments"]
        wrapped = targets % assignments.shape[1]  # the authors' index -1 means the last row
        group = torch.softmax(answer.cosines / task.temperature, dim=-1).mean(dim=(0, 1))
        out |= {
            "reference_patch_features": reference.features,
            "reference_cluster_logits": reference.cosines.flatten(0, 1),
            "query0_cluster_logits": random(answer.cosines).flatten(0, 1),
            "focal_cluster_logits": focal(answer.cosines).flatten(0, 1),
            "sharpened_targets": torch.softmax(reference.cosines / task.sharpening, dim=-1).flatten(0, 1),
            "sinkhorn_targets": assignments.flatten(0, 1),
            "query_cluster_targets": all_tokens(assignments.take_along_dim(wrapped[..., None], dim=1)),
            "cluster_ce_loss": losses["cluster"],
            "me_max": losses["entropy"],
            "mean_prediction": batch["mean_prediction"] if "mean_prediction" in batch else collective.mean(group),
            "feature_loss": losses["cluster"] + losses["entropy"],
        }
    return {name: t.detach() for name, t in out.items()}


def total(losses: Mapping[str, Tensor]) -> Tensor:
    return losses["position"] + losses["cluster"] + losses["entropy"]


def devices(vector: Vector) -> list[dict[str, Tensor]]:
    """The inputs of each device."""
    inputs = vector.part("input")
    if "n_devices" not in vector.config:
        return [inputs]
    return [{name: t[i] for name, t in inputs.items()} for i in range(vector.config["n_devices"])]


def prepare(vector: Vector) -> tuple[Injected, list[dict[str, Tensor]]]:
    """The pretext with the draws of each device under its group, and the devices' inputs."""
    pretext, split = network(vector), devices(vector)
    draws = [draws_of(part, pretext.config.model.encoder_depth) for part in split]
    if {(len(d.reference), len(d.query)) for d in draws} != {(pretext.config.reference_tokens, pretext.config.query_tokens)}:
        raise ParityError(f"{vector.path.name}: kept tokens do not fit the config")
    pretext.injected = lambda rng: draws[rng.microbatch]
    return pretext, split


def full(vector: Vector) -> Mapping[str, Tensor]:
    """Several devices are groups of one process here: the two-pass form. `loca_rank.py` is the other form."""
    pretext, split = prepare(vector)
    rngs = [MicrobatchRng(0, 0, i) for i in range(len(split))]
    with torch.no_grad():
        batches = pretext.targets([batch_of(part) for part in split], rngs)
    parts = []
    for batch, rng in zip(batches, rngs, strict=True):
        losses = pretext(batch, rng)
        (total(losses) / len(split)).backward()
        parts.append(group_outputs(pretext, batch, rng, losses))
    return assemble(vector, parts, {**official_grads(pretext), "": grad_norm(pretext)})


def assemble(vector: Vector, parts: Sequence[Mapping[str, Tensor]], grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The results of a file from those of its devices and from the gradients by path, with their norm under ""."""
    if "n_devices" in vector.config:
        out = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        out["mean_total_loss"] = out["total_loss"].mean().reshape(1)
    else:
        out = {name: t.reshape(1) if t.ndim == 0 else t for name, t in parts[0].items()}
    out["grad_norm"] = grads[""].reshape(1)
    wanted = vector.part("grad")
    if len(wanted) < 8:
        raise ParityError(f"{vector.path.name} has {len(wanted)} gradients; its README promises 8 to 10")
    return {f"output.{name}": t for name, t in out.items()} | {f"grad.{name}": grads[name] for name in wanted if name in grads}


def train_steps(vector: Vector) -> Mapping[str, Tensor]:
    """The trainer's own steps."""
    config, inputs = vector.config, vector.part("input")
    fixed = {"optimizer": "adamw", "weight_decay_on": "leaves whose stored ndim != 1", "first_global_step": 0}
    if odd := {k: config.get(k) for k, v in fixed.items() if config.get(k, v) != v}:
        raise ParityError(f"{vector.path.name}: another optimiser: {odd}")
    pretext = network(vector)
    momentum, rate = config["momentum"], config["lr"]
    check_alpha(momentum["base"], momentum["alpha"])
    task = pretext.config.pretext.model_copy(update={"teacher_momentum": momentum["base"]})
    pretext.config = pretext.config.model_copy(update={"pretext": task})
    kept = [
        Draws(reference.long(), query.long())
        for reference, query in zip(inputs["reference_kept_idx"], inputs["query0_kept_idx"], strict=True)
    ]
    pretext.injected = lambda rng: kept[rng.step]
    optim = OptimConfig.model_validate(
        {
            **schedule_settings(rate["base"], rate["alpha"], rate["warmup_steps"], rate["steps_per_cycle"]),
            "betas": (config["beta1"], config["beta2"]),
            "eps": config["eps"],
            "weight_decay": config["weight_decay"],
            "clip": config["max_grad_norm"],
        }
    )
    clock = Clock(steps=momentum["steps_per_cycle"], batch_size=1, samples=1)
    weights = pretext.config.loss.model_dump()
    stepper = Stepper(pretext, optim, clock, weights, seed=0, precision="fp32", device=torch.device("cpu"))
    arrays = {name: t.numpy() for name, t in batch_of(inputs).items()}
    rows: dict[str, list[float]] = {}
    for step in range(config["n_steps"]):
        result = stepper.step(step, [Microbatch(step, 0, arrays, (), ())])
        figures = {
            "total_loss": result.losses["loss"].item(),
            "position_loss": result.losses["position"].item(),
            "cluster_ce_loss": result.losses["cluster"].item(),
            "me_max": result.losses["entropy"].item(),
            "grad_norm": result.grad_norm,
            "learning_rate": result.lr,
            "ema_momentum": teacher_momentum(momentum["base"], step, clock.steps),
        }
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)
    out = {name: torch.tensor(values) for name, values in rows.items()}
    after = official.save(pretext.state_dict(), pretext.config)[0]
    for name in vector.part("output"):
        tree, _, path = name.partition("_after/")
        if path:
            out[name] = after[f"{tree}/{path}"]
    if sum("_after/" in name for name in out) < 26:
        raise ParityError(f"{vector.path.name} has too few weights after the last step; its README promises 13 of each network")
    return {f"output.{name}": t for name, t in out.items()}


def resolutions(vector: Vector) -> Mapping[str, Tensor]:
    """The encoder alone, in evaluation mode."""
    unused = {"focal_size": vector.config["reference_size"], "head_hidden_dim": 4, "head_bottleneck_dim": 4, "head_output_dim": 4}
    config = LocaConfig(**official.settings_from_official({**vector.config, **unused}))
    pretext = build(config, BuildContext(seed=0)).eval()
    encoder = pretext.student.encoder
    own = [leaf for leaf in leaves(config) if leaf.ours.startswith("encoder.")]
    theirs = vector.part("state")
    same_names("state", [f"params/{leaf.path}" for leaf in own], theirs)
    state, match = official.load(theirs, pretext.state_dict(), config)
    if len(match.matched) != len(theirs) or match.unexpected or match.resized:
        raise ParityError(f"{vector.path.name}: state does not fit: {match}")
    pretext.load_state_dict(state, strict=False)
    with torch.no_grad():
        return {f"output.{name}": encoder.encode(channels_first(images)) for name, images in vector.part("input").items()}


SCALARS = r"output\.(\w*loss|me_max|position_accuracy)"


def full_limits(vector: Vector, name: str) -> tuple[float, float]:
    if not vector.tensors[name].is_floating_point():
        return 0.0, 0.0
    return (vector.tolerance["loss_atol"], 0.0) if re.fullmatch(SCALARS, name) else vector.limits(name)


def step_limits(vector: Vector, name: str) -> tuple[float, float]:
    allowed = vector.tolerance
    if name == "output.grad_norm":
        return 0.0, allowed["grad_norm_rtol"]
    if name in ("output.learning_rate", "output.ema_momentum"):
        return allowed["schedule_atol"], 0.0
    return allowed["param_atol" if "_after/" in name else "loss_atol"], 0.0


PATH = r"[A-Za-z0-9_/]+"
INPUTS = r"input\.(reference|query0|queries|query0_target_position|target_positions|reference_kept_idx|query0_kept_idx)"
PATHS = r"input\.drop_path\.(reference|query0|focal)\.(encoderblock_\d+|cross_attention_block)\.(attn|mlp)"
POSITION = (
    r"output\.(reference_patch_features_kept|(query0|focal)_(patch_features|position_logits)|position_(targets|loss|accuracy)|valid"
    r"|total_loss|mean_total_loss|grad_norm)"
)
CLUSTER = (
    r"output\.(reference_patch_features|(reference|query0|focal)_cluster_logits|(sharpened|sinkhorn|query_cluster)_targets|cluster_ce_loss"
    r"|mean_prediction|me_max|feature_loss)"
)
KINDS: list[Kind | JsonKind | BytesKind] = [
    Kind(
        "full model",
        names=(rf"state\.(ema_)?params/{PATH}", INPUTS, PATHS, POSITION, CLUSTER, rf"grad\.{PATH}"),
        needs=(r"state\.ema_params/.+", r"input\.query0", r"output\.sinkhorn_targets", r"output\.total_loss", r"grad\..+"),
        compute=full,
        limits=full_limits,
    ),
    Kind(
        "position only",
        names=(rf"state\.params/{PATH}", INPUTS, PATHS, POSITION, rf"grad\.{PATH}"),
        needs=(r"state\.params/.+", r"input\.query0", r"output\.position_loss", r"grad\..+"),
        compute=full,
        limits=full_limits,
    ),
    Kind(
        "training steps",
        names=(
            rf"state\.(ema_)?params/{PATH}",
            INPUTS,
            r"output\.(total_loss|position_loss|cluster_ce_loss|me_max|grad_norm|learning_rate|ema_momentum)",
            rf"output\.(ema_)?params_after/{PATH}",
        ),
        needs=(r"state\.ema_params/.+", r"input\.queries", r"output\.learning_rate", r"output\.params_after/.+"),
        compute=train_steps,
        limits=step_limits,
    ),
    Kind("Sinkhorn", (r"input\.[a-z_]+", r"output\.[a-z_]+\.iter\d+"), (r"input\..+", r"output\..+\.iter\d+"), balanced),
    Kind(
        "cluster operations",
        names=(
            rf"state\.head/{PATH}",
            r"input\.(head_(cotangent|features)|(position|student|teacher)_logits|target_rows)",
            r"output\.(assignments|cross_entropy|feature_loss|head_logits|me_max|mean_prediction|position_loss(_all_invalid)?|sharpened)",
            rf"grad\.(head/{PATH}|head_features|position_logits|student_logits(\.(cross_entropy|me_max))?)",
        ),
        needs=(r"input\.teacher_logits", r"input\.target_rows", r"output\.assignments", r"state\.head/.+", r"grad\.student_logits"),
        compute=cluster_operations,
    ),
    Kind("position grids", (r"(input|output)\.\d+",), (r"input\.\d+", r"output\.\d+"), resized_grids),
    Kind(
        "resolutions",
        names=(rf"state\.params/{PATH}", r"(input|output)\.[a-z_]+"),
        needs=(r"state\.params/encoder_norm/scale", r"input\..+", r"output\..+"),
        compute=resolutions,
    ),
    Kind(
        "patch targets",
        names=(r"input\.(image_hw|(query|reference)_(box|flip))", r"output\.(box|target_\d+|full_mask_case\d+)"),
        needs=(r"input\.reference_box", r"output\.target_\d+"),
        compute=patch_numbers,
        limits=patch_limits,
    ),
    Kind(
        "colours",
        names=(
            r"input\.((brightness|contrast|saturation|hue)_\d+|image|image_uint8|crop_box)",
            r"output\.((brightness|contrast|saturation|hue)_\d+|blur_as_released|blur_k\d+_sigma[\d.]+|crop_resize_(up|down)_\d+"
            r"|grayscale|solarize|standardize)",
        ),
        needs=(r"input\.image_uint8", r"output\.standardize"),
        compute=colours,
        limits=colour_limits,
    ),
    JsonKind(
        "schedules",
        lambda content: isinstance(content, dict) and any(isinstance(v, dict) and "base_lr" in v for v in content.values()),
        schedules,
    ),
    BytesKind("Flax checkpoint", lambda data: 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF), checkpoint),
]
