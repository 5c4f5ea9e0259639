"""What ConMIM's vectors may hold, and our value for each number in them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from parity_conmim_settings import OTHERWISE, SECOND, check_fixed, config_of, not_built
from parity_conmim_tables import init_stats, mask_generators, param_groups, parameters, presets, schedules
from parity_harness import JsonKind, Kind, ParityError, Vector, guarded, same_names
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sightline.methods.conmim import official
from sightline.methods.conmim.backbone import relative_index
from sightline.methods.conmim.config import ConMIMConfig
from sightline.methods.conmim.pretext import ConMIMPretext, build, no_decay
from sightline.methods.conmim.transfer import ConMIMFinetune, empty_network, transfer
from sightline.methods.contract import BuildContext
from sightline.methods.layers.ema import ema_update
from sightline.methods.optim import OptimConfig, decay_groups


def without_unused(state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state without what ours leaves out, whose shapes are checked here."""
    left_out = not_built(kwargs)
    shapes = {name: tuple(state[name].shape) for name in left_out}
    index = [name.replace(official.TABLE, official.INDEX) for name in left_out if name.endswith(official.TABLE)]
    if shapes != left_out or any(not torch.equal(state[name], relative_index(SECOND)) for name in index):
        raise ParityError(f"unused parameters have shapes {shapes}, not {left_out}")
    return {name: tensor for name, tensor in state.items() if name not in (*left_out, *index)}


def fill(pretext: ConMIMPretext, network: official.Network, theirs: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> None:
    """One network from its state dict; every tensor of either must have its place in the other, every index must be ours."""
    theirs = without_unused(theirs, kwargs)
    ours, _ = official.save(pretext.state_dict(), pretext.config, network)
    same_names(network, ours, theirs)
    for name in [n for n in ours if n.endswith(official.INDEX)]:
        if not torch.equal(ours[name], theirs[name]):
            raise ParityError(f"{network}: {name} is not our index")
    state, match = official.load({"student": theirs, "teacher": theirs}, pretext.state_dict(), pretext.config)
    if match.missing or match.unexpected or match.resized:
        raise ParityError(f"{network}: {match}")
    state = {name: tensor for name, tensor in state.items() if name.startswith(f"{network}.")}
    missing, unexpected = pretext.load_state_dict(state, strict=False)
    if unexpected or any(name.startswith(f"{network}.") for name in missing):
        raise ParityError(f"{network}: missing {missing}, unexpected {unexpected}")


# Pre-training


def network(vector: Vector) -> ConMIMPretext:
    kwargs = vector.config["model"]
    check_fixed(vector.path.name, vector.config, OTHERWISE)
    config = config_of(vector.path.name, kwargs, {"temperature": vector.config["temperature"]})
    pretext = build(config, BuildContext(seed=0))
    fill(pretext, "student", vector.part("state"), kwargs)
    fill(pretext, "teacher", vector.part("teacher"), kwargs)
    return pretext.train()


@guarded
def pretraining(vector: Vector) -> Mapping[str, Tensor]:
    pretext, config, inputs, out = network(vector), vector.config, vector.part("input"), {}
    mask = inputs["mask"]
    check_inputs(vector, pretext, mask)

    def buffers(module: nn.Module) -> dict[str, Tensor]:
        kept = {name: b.clone() for name, b in module.named_buffers() if not name.endswith("index")}
        return {name.removeprefix("backbone."): tensor for name, tensor in kept.items()}

    with torch.no_grad():
        out["student_tokens_unmasked"] = copy.deepcopy(pretext).student(inputs["student_image"])[0]
        evaluated = copy.deepcopy(pretext).eval()
        if not (evaluated.teacher.training and evaluated.student.projectors.training):
            raise ParityError("teacher and projector must not evaluate: losses are measured with the group's own statistics")
        out["student_proj_eval"] = evaluated.student.eval()(inputs["student_image"], mask)[1]
        averaged = copy.deepcopy(pretext)
        ema_update(averaged.teacher, averaged.student, config["ema_momentum"])
    with torch.no_grad():
        out["teacher_tokens"], out["teacher_proj"] = pretext.teacher(inputs["teacher_image"])
    tokens, projected = pretext.student(inputs["student_image"], mask)
    out["student_tokens"], out["student_proj"] = tokens, projected
    for name in ("student", "teacher"):
        out |= {f"{name}_buffer.{n}": t for n, t in buffers(getattr(pretext, name)).items()}
    pairs = pretext.contrast(projected, out["teacher_proj"], mask, int(mask.sum(dim=1).max()))
    out["logits"], out["labels"] = pairs.logits[pairs.valid], pairs.labels[pairs.valid]
    out["loss"] = pairs.mean(pairs.errors())
    out["loss"].backward()

    student = parameters(pretext.student)
    teacher = parameters(averaged.teacher) | unused_after_ema(vector)
    check_ema(vector, teacher)
    small = config["max_numel_stored_teacher_ema"]
    out |= {f"teacher_ema.{name}": p for name, p in teacher.items() if p.numel() <= small}
    found = {f"output.{name}": tensor.detach().clone() for name, tensor in out.items()}
    if strange := set(config["grad_keys"]) - student.keys():
        raise ParityError(f"{vector.path.name}: grad_keys of no parameter: {sorted(strange)}")
    for name in config["grad_keys"]:
        gradient = student[name].grad
        assert gradient is not None
        found[f"grad.{name}"] = gradient.clone()
    found["output.step_grad_norm"] = train_step(pretext, config)
    stepped = parameters(pretext.teacher)
    for name in config["grad_keys"]:
        found[f"output.step_student.{name}"], found[f"output.step_teacher.{name}"] = student[name], stepped[name]
    return found


def check_inputs(vector: Vector, pretext: ConMIMPretext, mask: Tensor) -> None:
    config, n = vector.config, pretext.config.model.patches
    said = (config["batch_size"], config["label_length"], config["mask_counts"])
    real = (mask.shape[0], n, mask.sum(dim=1).tolist())
    sizes = [tuple(vector.tensors[f"input.{who}_image"].shape[2:]) for who in ("student", "teacher")]
    if said != real or sizes != [pretext.config.model.image_size] * 2 or mask.shape[1] != n or mask.dtype != torch.bool:
        raise ParityError(f"{vector.path.name}: inputs {real}, {sizes} do not fit the config {said}")
    task, model, real_counts = config["mask"], pretext.config.model, mask.sum(dim=1).tolist()
    if task["type"] == "block":
        targets = task["num_mask_patches"]
        targets = targets if isinstance(targets, list) else [targets] * len(real_counts)
        if any(count > target for count, target in zip(real_counts, targets, strict=True)):
            raise ParityError(f"{vector.path.name}: a block mask hides {real_counts}, more than {targets}")
        return
    if task["type"] == "random":
        own = {"mask": "random", "mask_ratio": task["mask_ratio"]}
    elif task["type"].startswith("random_mps"):
        own = {"mask": "cells", "mask_ratio": task["mask_ratio"], "mask_cell": task["mask_patch_size"]}
    else:
        raise ParityError(f"{vector.path.name}: unknown mask {task}")
    masked = ConMIMConfig.model_validate({"model": model.model_dump(), "pretext": own}).masked
    if set(real_counts) != {masked}:
        raise ParityError(f"{vector.path.name}: masks of {real_counts} patches, ours of {masked}")


def check_ema(vector: Vector, teacher: Mapping[str, Tensor]) -> None:
    """The norm of every parameter after one EMA update, stored or not."""
    theirs = vector.config["teacher_ema_l2"]
    norms = {name: p.detach().double().norm().item() for name, p in teacher.items()}
    same_names("teacher_ema_l2", norms, theirs)
    limits = vector.tolerance["teacher_ema"]
    sizes = {name: p.numel() for name, p in teacher.items()}
    for name, norm in norms.items():
        # errors of single elements add up to at most atol * sqrt(n) + rtol * norm
        if abs(norm - theirs[name]) > limits["atol"] * sizes[name] ** 0.5 + limits["rtol"] * abs(theirs[name]):
            raise ParityError(f"{vector.path.name}: teacher_ema_l2 of {name} is {theirs[name]}, ours {norm}")


def unused_after_ema(vector: Vector) -> dict[str, Tensor]:
    """What ours leaves out follows the student like any parameter with the authors; its tensors go through our update here."""
    student, teacher, names = nn.Module(), nn.Module(), not_built(vector.config["model"])
    for module, part in ((student, "state"), (teacher, "teacher")):
        for name in names:
            module.register_parameter(name.replace(".", "_"), nn.Parameter(vector.tensors[f"{part}.{name}"].clone()))
    if names:
        ema_update(teacher, student, vector.config["ema_momentum"])
    return {name: getattr(teacher, name.replace(".", "_")).detach() for name in names}


def train_step(pretext: ConMIMPretext, config: Mapping[str, Any]) -> Tensor:
    """What the trainer does after the backward pass: clip, AdamW by our groups, EMA. Returns the norm before clipping."""
    step = config["train_step"]
    unused = {"optimizer": "adamw"}
    if {k: step[k] for k in unused} != unused or step.keys() - {"optimizer", "lr", "weight_decay", "betas", "eps", "clip_grad"}:
        raise ParityError(f"unknown training step {step}")
    same_names("params_without_gradient", not_built(config["model"]), config["params_without_gradient"])
    optim = OptimConfig(lr=step["lr"], weight_decay=step["weight_decay"], betas=tuple(step["betas"]), eps=step["eps"])
    groups = pretext.param_groups(optim)
    decays = [{"params": g.params, "weight_decay": optim.weight_decay if g.decay else 0.0} for g in groups]
    optimizer = torch.optim.AdamW(decays, lr=step["lr"], betas=optim.betas, eps=optim.eps)
    gradients = [p.grad for p in pretext.student.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if step["clip_grad"] and norm > step["clip_grad"]:
        torch._foreach_mul_(gradients, step["clip_grad"] / norm.item())
    optimizer.step()
    ema_update(pretext.teacher, pretext.student, config["ema_momentum"])
    return norm


GROUPS = (
    (r"grad\..+", "grad"),
    (r"output\.(student|teacher)_tokens(_unmasked)?", "tokens"),
    (r"output\.(student|teacher)_proj(_eval)?", "proj"),
    (r"output\.(logits|loss|step_grad_norm)", None),
    (r"output\.(student|teacher)_buffer\..+", "buffers"),
    (r"output\.teacher_ema\..+", "teacher_ema"),
    (r"output\.step_student\..+", "step_student"),
    (r"output\.step_teacher\..+", "step_teacher"),
    (r"output\.(last_block_tokens|pooled)", "tokens"),
    (r"finetune_state\..*(relative_position_bias_table|pos_embed)", "tables"),
)
"""Tensor name -> its entry in the tolerance; None: the name's own."""


def limits(vector: Vector, name: str) -> tuple[float, float, float]:
    for pattern, group in GROUPS:
        if re.fullmatch(pattern, name):
            entry = vector.tolerance[group or name.removeprefix("output.")]
            return entry["atol"], entry["rtol"], entry.get("max_rel", 0.0)
    return 0.0, 0.0, 0.0  # labels, and what is only copied: exactly


# Fine-tuning


@guarded
def finetuning(vector: Vector) -> Mapping[str, Tensor]:
    where, config = vector.path.name, vector.config
    check_fixed(where, config, {"norm_eps": 1e-6})
    old_kwargs, new_kwargs = config["pretrain_model"], config["finetune_model"]
    old = config_of(where, old_kwargs)
    new = config_of(where, {k: v for k, v in new_kwargs.items() if k not in ("dim", "mlp_dim")}).model
    pretrained = build(old, BuildContext(seed=0))
    checkpoint = vector.part("state")
    fill(pretrained, "student", checkpoint, old_kwargs)

    network = empty_network(new, "mean" if new_kwargs["use_mean_pooling"] else "class")
    state = transfer(pretrained.student.backbone.state_dict(), old.model, new)
    head = nn.Linear(new.dim, new_kwargs["num_classes"], device="meta").to_empty(device="cpu")
    theirs = vector.part("finetune_state")
    taken = {name: tensor for name, tensor in state.items() if name in network.backbone.state_dict()}
    fresh = {n.removeprefix("backbone.") for n in network.state_dict()} - taken.keys() | {"head.weight", "head.bias"}
    unused = {
        name for name in checkpoint if name not in taken and not name.startswith("rel_pos_bias.") and not name.endswith(official.INDEX)
    }
    if official.BIAS[new.relative_bias][0]:
        unused -= {f"rel_pos_bias.{official.TABLE}"}
    same_names("keys_taken_from_checkpoint", taken, config["keys_taken_from_checkpoint"])
    same_names("keys_left_at_their_initial_value", fresh, config["keys_left_at_their_initial_value"])
    same_names("checkpoint_keys_unused", unused, config["checkpoint_keys_unused"])
    check_finetune_groups(vector, network)

    complete = {**taken, **{name: theirs[name] for name in fresh}}
    ours = {f"backbone.{n}" if f"backbone.{n}" in network.state_dict() else n: t for n, t in complete.items() if not n.startswith("head.")}
    network.load_state_dict(ours, strict=True)
    head.load_state_dict({n.removeprefix("head."): theirs[n] for n in ("head.weight", "head.bias")})

    images, labels = vector.tensors["input.image"], vector.tensors["input.labels"]
    if len(images) != config["batch_size"]:
        raise ParityError(f"{where}: {len(images)} images, {config['batch_size']} in the config")
    last = network.backbone.blocks_out(images)
    pooled = network.pool(last)[1]
    logits = head(pooled)
    loss = cross_entropy(logits, labels)
    loss.backward()
    found = {"output.last_block_tokens": last, "output.pooled": pooled, "output.logits": logits, "output.loss": loss}
    tables = [name for name in complete if name.endswith(official.TABLE)]
    index = {name.replace(official.TABLE, official.INDEX): relative_index(new.grid) for name in tables}
    found |= {f"finetune_state.{name}": tensor for name, tensor in {**complete, **index}.items()}
    named = parameters(network) | {f"head.{n}": p for n, p in head.named_parameters()}
    wanted = vector.part("grad")
    if not wanted:
        raise ParityError(f"{where}: no gradient")
    found |= {f"grad.{n}": named[n].grad for n in wanted if n in named and named[n].grad is not None}
    return {name: tensor.detach() for name, tensor in found.items()}


def check_finetune_groups(vector: Vector, network: ConMIMFinetune) -> None:
    """Layer, rate and decay of every parameter."""
    theirs, decay, top = vector.config["param_groups"], vector.config["layer_decay"], network.depth + 1
    named = {**parameters(network), "head.weight": nn.Parameter(torch.zeros(2, 2)), "head.bias": nn.Parameter(torch.zeros(2))}
    ours = {}
    for group in decay_groups(named.items(), no_decay):
        for name in (n for n, p in named.items() if any(p is q for q in group.params)):
            layer = network.layer_of(name)
            ours[name] = {"layer_id": layer, "lr_scale": decay ** (top - layer), "decayed": group.decay}
    same_names("param_groups", ours, theirs)
    for name, entry in ours.items():
        same_names(f"param_groups of {name}", entry, theirs[name])
        if any(not math.isclose(entry[k], theirs[name][k], rel_tol=1e-9) for k in entry):
            raise ParityError(f"param_groups of {name}: {theirs[name]}, ours {entry}")


def has(*keys: str) -> Callable[[Any], bool]:
    return lambda document: isinstance(document, dict) and document.keys() >= set(keys)


AFFINE = r"(weight|bias)"
TABLES = r"relative_position_(bias_table|index)"
BLOCK = rf"blocks\.\d+\.(gamma_[12]|norm[12]\.{AFFINE}|attn\.(q_bias|v_bias|qkv\.weight|proj\.{AFFINE}|{TABLES})|mlp\.fc[12]\.{AFFINE})"
TRUNK = rf"(cls_token|pos_embed|patch_embed\.proj\.{AFFINE}|{BLOCK}|norm\.{AFFINE}|rel_pos_bias\.{TABLES})"
NORMS = r"projectors\.[147]\.(running_mean|running_var|num_batches_tracked)"
PRETEXT = rf"({TRUNK}|mask_token|rel_pos_bias2\.{TABLES}|lm_head\.{AFFINE}|projectors\.[036]\.weight|projectors\.[14]\.{AFFINE}|{NORMS})"
KINDS: list[Kind | JsonKind] = [
    Kind(
        "pretraining",
        names=(
            rf"(state|teacher)\.{PRETEXT}",
            r"input\.(student_image|teacher_image|mask)",
            r"output\.(student|teacher)_(tokens|proj)",
            r"output\.(student_tokens_unmasked|student_proj_eval|logits|labels|loss|step_grad_norm)",
            rf"output\.(student|teacher)_buffer\.{NORMS}",
            rf"(grad|output\.(teacher_ema|step_student|step_teacher))\.{PRETEXT}",
        ),
        needs=(r"state\.mask_token", r"teacher\.mask_token", r"input\.mask", r"output\.logits", r"grad\..+", r"output\.step_student\..+"),
        compute=pretraining,
        limits=limits,
    ),
    Kind(
        "fine-tuning",
        names=(
            rf"state\.{PRETEXT}",
            rf"finetune_state\.({TRUNK}|(fc_norm|head)\.{AFFINE})",
            r"input\.(image|labels)",
            r"output\.(last_block_tokens|pooled|logits|loss)",
            rf"grad\.({TRUNK}|(fc_norm|head)\.{AFFINE})",
        ),
        needs=(r"state\.mask_token", r"finetune_state\.head\.weight", r"input\.labels", r"output\.pooled", r"grad\..+"),
        compute=finetuning,
        compares=("output.", "grad.", "finetune_state."),
        limits=limits,
    ),
    JsonKind("schedules", has("cases", "layer_decay"), schedules, rtol=1e-11),
    JsonKind("parameter groups", has("groups", "rule"), param_groups),
    JsonKind("presets", has("presets", "flags"), presets),
    JsonKind("fresh weights", has("tensors", "model"), init_stats),
    JsonKind("mask generators", has("generators"), mask_generators),
]
