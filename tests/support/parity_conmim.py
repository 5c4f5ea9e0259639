"""What ConMIM's vectors may hold, and our value for each number in them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from parity_harness import JsonKind, Kind, ParityError, Vector, Within, same_names
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sightline.methods.conmim import official
from sightline.methods.conmim.backbone import relative_index, table_rows
from sightline.methods.conmim.config import ConMIMConfig, ConMIMModel, check_cells
from sightline.methods.conmim.encoder import layer_of
from sightline.methods.conmim.masks import block_mask, cell_mask, cells_to_patches, random_mask
from sightline.methods.conmim.pretext import ConMIMPretext, build, no_decay
from sightline.methods.conmim.schedule import conmim_schedules, table_value
from sightline.methods.conmim.transfer import ConMIMFinetune, empty_network, transfer
from sightline.methods.contract import Live
from sightline.methods.errors import SightlineError
from sightline.methods.layers.ema import cosine_momentum, ema_update
from sightline.methods.optim import Clock, OptimConfig, decay_groups
from sightline.methods.random import keyed_rng
from sightline.methods.settings import Duration

FIXED = {
    "in_chans": 3,
    "qkv_bias": True,
    "qk_scale": None,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "attn_head_dim": None,
    "norm_layer": "LayerNorm(eps=1e-6)",
}
"""What our network never varies; a file that does is no vector of ours."""
PRETRAINED = {"init_std": 0.02, "use_mlp_projectors": True}
OTHERWISE = {"norm_eps": 1e-6, "bn_eps": 1e-5, "bn_momentum": 0.1, "act": "gelu (exact erf)", "dtype": "float32"}
HEAD = ("lm_head.weight", "lm_head.bias")
SECOND = (6, 6)
SOURCE = re.compile(r"https://github\.com/\S+ @ [0-9a-f]{40} .*")


def check_fixed(where: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    if odd := {k: settings[k] for k, v in fixed.items() if k in settings and settings[k] != v}:
        raise ParityError(f"{where}: settings our network does not have: {odd}")


def config_of(where: str, kwargs: Mapping[str, Any], task: Mapping[str, Any] | None = None) -> ConMIMConfig:
    """Our settings for the authors' model arguments."""
    known = {*official.SAME, *FIXED, *PRETRAINED, "vocab_size", "init_values", "use_lm_head", "use_rel_pos_bias", "use_shared_rel_pos_bias"}
    known |= {"num_classes", "use_mean_pooling", "init_scale"}
    if strange := kwargs.keys() - known:
        raise ParityError(f"{where}: unknown model settings {sorted(strange)}")
    check_fixed(where, kwargs, {**FIXED, **PRETRAINED})
    model = official.settings_from_official(kwargs)
    return ConMIMConfig.model_validate({"model": model, "pretext": {"mask": "random", "mask_ratio": 0.5, **(task or {})}})


def not_built(kwargs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters of the authors' model that nothing uses, and that ours leaves out, by name with their shapes: a head, or without it a
    second shared table, always of 6 x 6 patches."""
    if kwargs.get("use_lm_head", True):
        return {"lm_head.weight": (kwargs["vocab_size"], kwargs["embed_dim"]), "lm_head.bias": (kwargs["vocab_size"],)}
    if kwargs.get("use_shared_rel_pos_bias"):
        return {f"rel_pos_bias2.{official.TABLE}": (table_rows(SECOND), kwargs["num_heads"])}
    return {}


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


def guarded(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Settings that ours refuse are a file that cannot be judged."""

    def inner(given: Any) -> Any:
        try:
            return compute(given)
        except (SightlineError, AssertionError, IndexError) as error:
            if isinstance(error, ParityError):
                raise
            raise ParityError(f"cannot be computed: {type(error).__name__}: {error}") from error

    return inner


# Pre-training


def network(vector: Vector) -> ConMIMPretext:
    kwargs = vector.config["model"]
    check_fixed(vector.path.name, vector.config, OTHERWISE)
    config = config_of(vector.path.name, kwargs, {"temperature": vector.config["temperature"]})
    pretext = build(config, Live(seed=0))
    fill(pretext, "student", vector.part("state"), kwargs)
    fill(pretext, "teacher", vector.part("teacher"), kwargs)
    return pretext.train()


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """By official names."""
    return {name.removeprefix("backbone."): p for name, p in module.named_parameters()}


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
    pretrained = build(old, Live(seed=0))
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


# JSON


def source(document: Mapping[str, Any]) -> str:
    if not SOURCE.fullmatch(document["source"]):
        raise ParityError(f"unknown source {document['source']!r}")
    return str(document["source"])


@guarded
def schedules(document: Mapping[str, Any]) -> Any:
    return {
        "source": source(document),
        "formula": document["formula"],
        "cases": [{**case, "length": case["epochs"] * case["steps_per_epoch"], "values": schedule(case)} for case in document["cases"]],
        "error_case": error_case(document["error_case"]),
        "layer_decay": [layer_decay(case) for case in document["layer_decay"]],
    }


def schedule(case: Mapping[str, Any]) -> dict[str, float]:
    """Our schedule for a case, by what the case is: a rate, a decay, a momentum, told by its end and its name."""
    steps, per_epoch = case["epochs"] * case["steps_per_epoch"], case["steps_per_epoch"]
    clock, base, final = Clock(steps=steps, batch_size=1, samples=per_epoch), case["base_value"], case["final_value"]
    unit = ("steps", case["warmup_steps"]) if case["warmup_steps"] > 0 and case["warmup_epochs"] > 0 else ("epochs", case["warmup_epochs"])
    warmup = Duration(amount=unit[1], unit=unit[0])
    if case["start_warmup_value"] != 0:
        values: Callable[[int], float] = lambda i: table_value(  # noqa: E731
            i, steps, round(clock.in_steps(warmup)), base, final, case["start_warmup_value"]
        )
    elif case["name"].startswith("wd"):
        optim = OptimConfig(lr=1.0, weight_decay=base, weight_decay_end=final)
        values = conmim_schedules(optim, clock)["weight_decay"]
    elif case["name"].startswith("ema"):
        values = lambda i: cosine_momentum(base, i, steps)  # noqa: E731
    else:
        values = conmim_schedules(OptimConfig(lr=base, min_lr=final, warmup=warmup), clock)["lr"]
    return {index: values(int(index)) for index in case["values"]}


def error_case(case: Mapping[str, Any]) -> Any:
    """The authors' warm-up in steps fails without a warm-up in epochs: their two parts do not add up. Ours is one length and works."""
    steps = case["epochs"] * case["steps_per_epoch"]
    assert case["warmup_epochs"] == 0 and case["warmup_steps"] > 0, "this case should not fail"
    warmup = Duration(amount=case["warmup_steps"], unit="steps")
    optim = OptimConfig(lr=case["base_value"], min_lr=case["final_value"], warmup=warmup)
    ours = conmim_schedules(optim, Clock(steps=steps, batch_size=1, samples=case["steps_per_epoch"]))["lr"]
    assert ours(0) == 0 and ours(case["warmup_steps"] - 1) == ours(case["warmup_steps"]) == case["base_value"]
    return {**case, "result": "length check fails: warm-up steps without warm-up epochs give a schedule that is too short"}


def layer_decay(case: Mapping[str, Any]) -> Any:
    depth, decay = case["num_layers"], case["decay"]
    ids = {name: layer_of(name, depth) for name in case["layer_id"]}
    return {
        "num_layers": depth,
        "decay": decay,
        "values": [decay ** (depth + 1 - i) for i in range(depth + 2)],
        "layer_id": ids,
        "lr_scale": {name: decay ** (depth + 1 - i) for name, i in ids.items()},
    }


@guarded
def param_groups(document: Mapping[str, Any]) -> Any:
    config = config_of("param_groups", document["model"])
    with torch.device("meta"):
        pretext = ConMIMPretext(config)
    names = {id(p): name for name, p in parameters(pretext.student).items()}
    ours: dict[bool, list[str]] = {}
    for group in pretext.param_groups(OptimConfig(lr=1.0)):
        ours.setdefault(group.decay, []).extend(names[id(p)] for p in group.params)
    for name, shape in not_built(document["model"]).items():  # what our rule would say of it
        ours[not no_decay(name, nn.Parameter(torch.zeros(shape)))].append(name)
    weight = max(group["weight_decay"] for group in document["groups"])
    return {
        "source": source(document),
        "model": document["model"],
        "rule": document["rule"],
        "groups": [
            {"weight_decay": 0.0, "lr_scale": 1.0, "names": sorted(ours[False])},
            {"weight_decay": weight, "lr_scale": 1.0, "names": sorted(ours[True])},
        ],
    }


@guarded
def presets(document: Mapping[str, Any]) -> Any:
    flags = document["flags"]
    check_fixed("presets", flags, {"norm_eps": 1e-6, "qkv_bias": True, "use_mlp_projectors": True})
    ours = {}
    for name, preset in document["presets"].items():
        sizes = {k: preset[k] for k in ("embed_dim", "depth", "num_heads")}
        kwargs = {
            **{k: v for k, v in flags.items() if k not in ("norm_eps", "vocab_size")},
            **sizes,
            "init_values": preset["layer_scale_suggested"],
        }
        config = config_of(name, kwargs)
        with torch.device("meta"):
            pretext = ConMIMPretext(config)
        state, said = official.save(pretext.state_dict(), config, "student")
        again = official.settings_of(state)["model"]
        if ConMIMModel.model_validate({**again, "layer_scale": config.model.layer_scale}) != config.model:
            raise ParityError(f"{name}: settings read from the tensors are {again}")
        if official.settings_from_official(said) != {**official.settings_from_official(kwargs), "drop_path": 0.0}:
            raise ParityError(f"{name}: settings we export are {said}")
        counted = {n: p.numel() for n, p in parameters(pretext.student).items()}
        left_out = {n: torch.empty(shape) for n, shape in not_built({**flags, **sizes}).items()}
        state |= left_out | {
            n.replace(official.TABLE, official.INDEX): relative_index(SECOND) for n in left_out if n.endswith(official.TABLE)
        }
        counted |= {n: t.numel() for n, t in left_out.items()}
        backbone = sum(n for name, n in counted.items() if not name.startswith(("lm_head", "projectors")))
        ours[name] = {
            **sizes,
            "layer_scale_suggested": preset["layer_scale_suggested"],
            "num_parameters": sum(counted.values()),
            "num_parameters_backbone": backbone,
            "num_state_entries": len(state),
            "state": by_block(state),
        }
    return {"source": source(document), "flags": flags, "presets": ours}


def by_block(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Names with `{i}` for the block, whose tensors must be alike in all blocks."""
    found: dict[str, Any] = {}
    for name, tensor in state.items():
        entry = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        if found.setdefault(re.sub(r"^blocks\.\d+\.", "blocks.{i}.", name), entry) != entry:
            raise ParityError(f"{name} differs from block to block")
    return found


@guarded
def init_stats(document: Mapping[str, Any]) -> Any:
    """Our fresh tensors say within which limits statistics of the same law must lie."""
    pretext = build(config_of("init_stats", document["model"]), Live(seed=0))
    state, _ = official.save(pretext.state_dict(), pretext.config, "student")
    theirs = document["tensors"]
    counters = {n for n in state if n.endswith(("num_batches_tracked", official.INDEX))}
    same_names("init_stats", {*state, *not_built(document["model"])} - counters - theirs.keys(), set())
    ours = {}
    for name, entry in theirs.items():
        tensor = state.get(name)
        if (
            tensor is None and name in not_built(document["model"]) and name in HEAD
        ):  # not built here: the law of the projector's matrices and of biases
            tensor = state["projectors.3.weight"] if name.endswith("weight") else state["norm.bias"]
            shape = [document["model"]["vocab_size"], document["model"]["embed_dim"]][: 2 if name.endswith("weight") else 1]
        else:
            assert tensor is not None, name
            shape = list(tensor.shape)
        ours[name] = {"shape": shape, **statistics(tensor.double(), math.prod(entry["shape"]))}
    return {"source": source(document), "model": document["model"], "note": document["note"], "tensors": ours}


def statistics(tensor: Tensor, samples: int) -> dict[str, Any]:
    """What another draw of as many samples shows: constants up to rounding; else the same hard limits, a standard deviation within a few
    percent (more for few samples), a mean near 0."""
    low, high = tensor.min().item(), tensor.max().item()
    if high - low < 1e-7:
        near = 1e-6 * max(1.0, abs(high))
        return {k: Within(v - near, v + near) for k, v in (("mean", low), ("std", 0.0), ("min", low), ("max", high))}
    few = min(samples, tensor.numel())
    std, end, slack = tensor.std().item(), max(-low, high), min(0.5, 20 / few)
    mean, spread = 5 * std / few**0.5, 0.02 + 3 / few**0.5
    return {
        "mean": Within(-mean, mean),
        "std": Within(std * (1 - spread), std * (1 + spread)),
        "min": Within(-end * (1 + slack), -end * (1 - slack)),
        "max": Within(end * (1 - slack), end * (1 + slack)),
    }


@guarded
def mask_generators(document: Mapping[str, Any]) -> Any:
    laws = document["generators"]
    return {
        "source": source(document),
        "generators": {
            "random": [random_case(case) for case in laws["random"]],
            "random_mps": [cell_case(case) for case in laws["random_mps"]],
            "block": [block_case(case) for case in laws["block"]],
        },
        "random_mps_errors": [rejected(case) for case in document["random_mps_errors"]],
        "random_mps_numpy_legacy_seed_examples": {
            **document["random_mps_numpy_legacy_seed_examples"],
            "examples": [legacy(case) for case in document["random_mps_numpy_legacy_seed_examples"]["examples"]],
        },
        "hard_coded_in_reference_training": {
            "mask_generator_input_size": 224,
            "labels_length": 196,
            "default_mask_type": "block",
            "default_num_mask_patches": 75,
            "wired_types": ["block", "random_mps32"],
        },
    }


def exact_count(masks: Iterable[np.ndarray]) -> int:
    (count,) = {int(mask.sum()) for mask in masks}
    return count


def random_case(case: Mapping[str, Any]) -> Any:
    grid, rng = tuple(case["grid"]), keyed_rng("parity", "random")
    masks = [random_mask(grid, case["mask_ratio"], rng) for _ in range(20)]
    assert masks[0].shape == grid
    return {**case, "num_masked": exact_count(masks), "formula": "floor(mask_ratio*H*W)"}


def cell_case(case: Mapping[str, Any]) -> Any:
    size, cell, patch = (case[k] for k in ("input_size", "mask_patch_size", "model_patch_size"))
    task = {"mask": "cells", "mask_cell": cell, "mask_ratio": case["mask_ratio"]}
    config = ConMIMConfig.model_validate({"model": {"image_size": size, "patch_size": patch}, "pretext": task})
    rng = keyed_rng("parity", "cells")
    masks = [cell_mask(config.cells, cell // patch, case["mask_ratio"], rng) for _ in range(20)]
    count, scale = exact_count(masks), cell // patch
    assert count == config.masked and masks[0].shape == config.model.grid
    return {
        "input_size": size,
        "mask_patch_size": cell,
        "model_patch_size": patch,
        "mask_ratio": case["mask_ratio"],
        "coarse_grid": list(config.cells),
        "scale": scale,
        "num_coarse_masked": count // scale**2,
        "num_masked": count,
        "grid": list(config.model.grid),
        "fraction": round(count / config.model.patches, 6),
        "formula": "ceil(mask_ratio*(input_size/mask_patch_size)^2)*(mask_patch_size/model_patch_size)^2",
    }


@lru_cache(maxsize=32)
def draw_blocks(grid: tuple[int, int], count: int, least: int, most: int | None, aspect: float, draws: int) -> np.ndarray:
    rng = keyed_rng("parity", "block")
    return np.stack([block_mask(grid, count, least, rng, most, aspect) for _ in range(draws)])


def block_case(case: Mapping[str, Any]) -> Any:
    """Counts and coverage of 2000 draws of ours are those of 2000 of theirs, as closely as 2000 draws tell."""
    grid, count, seen = tuple(case["grid"]), case["num_masking_patches"], case["observed"]
    draws = seen["samples"]
    masks = draw_blocks(grid, count, case["min_num_patches"], case["max_num_patches"], case["min_aspect"], draws)
    assert math.isclose(case["max_aspect"], 1 / case["min_aspect"], rel_tol=1e-9)
    counts, coverage = masks.sum(axis=(1, 2)), masks.mean(axis=0)
    assert counts.max() <= count
    error = 6 * counts.std() / draws**0.5 + 0.02
    spread = 6 * (0.25 / draws) ** 0.5
    histogram = {}
    for key in seen["count_histogram"]:
        share = float((counts == int(key)).mean())
        slack = 6 * (share * (1 - share) / draws) ** 0.5 + 8 / draws
        histogram[key] = Within(max(0, share - slack) * draws, (share + slack) * draws)
    lost = int(sum(n for k, n in seen["count_histogram"].items()))
    assert lost == draws and min(map(int, seen["count_histogram"])) == seen["count_min"]
    assert max(map(int, seen["count_histogram"])) == seen["count_max"]
    tail = max(4, int(0.12 * count))
    return {
        **{
            k: case[k]
            for k in ("grid", "num_masking_patches", "min_num_patches", "max_num_patches", "min_aspect", "max_aspect", "invariant")
        },
        "observed": {
            "samples": draws,
            "count_min": Within(counts.min() - tail, min(count, counts.min() + tail)),
            "count_max": Within(counts.max() - 2, min(count, counts.max() + 2)),
            "count_mean": Within(counts.mean() - error, counts.mean() + error),
            "count_histogram": histogram,
            "mean_coverage_min": Within(coverage.min() - spread, coverage.min() + spread),
            "mean_coverage_max": Within(coverage.max() - spread, coverage.max() + spread),
        },
    }


def rejected(case: Mapping[str, Any]) -> Any:
    size, cell, patch = (case[k] for k in ("input_size", "mask_patch_size", "model_patch_size"))
    try:
        check_cells((size, size), cell, patch)
    except ValueError as error:
        which = "input size" if str(error).startswith("model.image_size") else "mask patch size"
        other = "mask patch size" if which == "input size" else "model patch size"
        return {
            "input_size": size,
            "mask_patch_size": cell,
            "model_patch_size": patch,
            "error": f"{which} is not a multiple of the {other}",
        }
    raise ParityError(f"{case} should be refused")


def legacy(case: Mapping[str, Any]) -> Any:
    """The authors' draw of cells, spread over patches by our code: 224 pixels, cells of 32, patches of 16, ratio 0.75."""
    cells = np.zeros(49, dtype=bool)
    cells[np.random.RandomState(case["seed"]).permutation(49)[: math.ceil(0.75 * 49)]] = True
    return {"seed": case["seed"], "masked_indices": np.flatnonzero(cells_to_patches(cells.reshape(7, 7), 2)).tolist()}


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
