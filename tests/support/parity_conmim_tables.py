"""Our value for each number in ConMIM's JSON vectors: schedules, parameter groups, presets, fresh weights, masks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from parity_conmim_settings import SECOND, check_fixed, config_of, not_built
from parity_harness import ParityError, Within, guarded, same_names
from torch import Tensor, nn

from sightline.methods.conmim import official
from sightline.methods.conmim.backbone import layer_of, relative_index
from sightline.methods.conmim.config import ConMIMConfig, ConMIMModel, check_cells
from sightline.methods.conmim.masks import block_mask, cell_mask, cells_to_patches, random_mask
from sightline.methods.conmim.pretext import ConMIMPretext, build, no_decay
from sightline.methods.conmim.schedules import conmim_schedules, table_value
from sightline.methods.contract import BuildContext
from sightline.methods.layers.ema import cosine_momentum
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.random import keyed_rng
from sightline.methods.settings import Duration

HEAD = ("lm_head.weight", "lm_head.bias")

SOURCE = re.compile(r"https://github\.com/\S+ @ [0-9a-f]{40} .*")


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """By official names."""
    return {name.removeprefix("backbone."): p for name, p in module.named_parameters()}


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
    pretext = build(config_of("init_stats", document["model"]), BuildContext(seed=0))
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
