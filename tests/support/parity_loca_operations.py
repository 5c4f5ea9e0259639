"""Our value for each number in LOCA's vectors of single operations and of schedules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from parity_harness import ParityError, Vector, Within, same_names
from torch import Tensor

from sightline.methods.layers.colour import imagenet_normalise
from sightline.methods.layers.positions import squeeze_table
from sightline.methods.loca import colour
from sightline.methods.loca.loss import cluster_loss, mean_entropy, position_loss, sinkhorn
from sightline.methods.loca.network import ClusterHead
from sightline.methods.loca.schedules import loca_schedules, teacher_momentum
from sightline.methods.loca.views import Box, Resizer, patch_targets, reference_cells, relative_box
from sightline.methods.optim import Clock, OptimConfig


def channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).contiguous()


def schedule_settings(base: float, alpha: float, warmup: float, steps: float) -> dict[str, Any]:
    return {"lr": base, "min_lr": alpha * base, "warmup": f"{warmup} steps", "decay": f"{steps} steps"}


def check_alpha(base: float, alpha: float) -> None:
    """Theirs is the end of the cosine as a share of its start; ours always ends at 1."""
    if abs(alpha * base - 1) > 1e-12:
        raise ParityError(f"a teacher momentum from {base} to {alpha * base}; ours ends at 1")


def balanced(vector: Vector) -> Mapping[str, Tensor]:
    out = {}
    for name in vector.part("output"):
        case, _, iterations = name.rpartition(".iter")
        given = vector.part("input")[case]
        parts = [part[None].clone() for part in (given if given.ndim == 3 else given[None])]
        sinkhorn(parts, int(iterations))
        out[f"output.{name}"] = torch.cat(parts) if given.ndim == 3 else parts[0][0]
    if unread := vector.part("input").keys() - {name.rpartition(".iter")[0] for name in vector.part("output")}:
        raise ParityError(f"{vector.path.name}: no result for {sorted(unread)}")
    return out


def cluster_operations(vector: Vector) -> Mapping[str, Tensor]:
    config, inputs = vector.config, vector.part("input")
    targets = inputs["target_rows"].long()[None]
    sharpened = torch.softmax(inputs["teacher_logits"] / config["sharpening"], dim=-1)
    assignments = sharpened.clone()[None]
    sinkhorn([assignments], config["sinkhorn_iterations"])
    student, position = (inputs[name].clone().requires_grad_() for name in ("student_logits", "position_logits"))
    log_p = torch.log_softmax(student / config["temperature"], dim=-1)
    mean = log_p.exp().mean(dim=0)
    terms = {"cross_entropy": cluster_loss(log_p[None], assignments, targets), "me_max": mean_entropy(mean, mean.detach())}
    whole = sum(terms.values(), torch.zeros(()))
    placed = position_loss(position[None], targets)
    out = {
        "output.sharpened": sharpened,
        "output.assignments": assignments[0],
        **{f"output.{name}": term.reshape(1) for name, term in terms.items()},
        "output.mean_prediction": mean,
        "output.feature_loss": whole.reshape(1),
        "output.position_loss": placed.reshape(1),
        "output.position_loss_all_invalid": position_loss(position[None], torch.full_like(targets, -1)).reshape(1),
        "grad.student_logits": gradient(whole, student),
        **{f"grad.student_logits.{name}": gradient(term, student) for name, term in terms.items()},
        "grad.position_logits": gradient(placed, position),
    }
    state = vector.part("state")
    names = [f"head/Dense_{i}/{leaf}" for i in range(3) for leaf in ("kernel", "bias")] + ["head/prototypes/kernel"]
    same_names("state", names, state)
    head = ClusterHead(
        *(state[f"head/{n}/kernel"].shape[i] for n, i in (("Dense_0", 0), ("Dense_0", 1), ("Dense_2", 1), ("prototypes", 1)))
    )
    ours = {f"fc{i + 1}.weight": state[f"head/Dense_{i}/kernel"].T for i in range(3)}
    ours |= {f"fc{i + 1}.bias": state[f"head/Dense_{i}/bias"] for i in range(3)}
    head.load_state_dict(ours | {"prototypes": state["head/prototypes/kernel"].T})
    features = inputs["head_features"].clone().requires_grad_()
    logits = head(features)
    out["output.head_logits"] = logits
    logits.backward(inputs["head_cotangent"])
    grads = {"head_features": features.grad, "head/prototypes/kernel": head.prototypes.grad}
    for i, layer in enumerate((head.fc1, head.fc2, head.fc3)):
        grads |= {f"head/Dense_{i}/kernel": layer.weight.grad, f"head/Dense_{i}/bias": layer.bias.grad}
    wanted = [n for n in vector.part("grad") if n.startswith("head")]
    return out | {f"grad.{n}": g.T if n.endswith("kernel") else g for n in wanted if (g := grads.get(n)) is not None}


def gradient(of: Tensor, by: Tensor) -> Tensor:
    return torch.autograd.grad(of, by, retain_graph=True)[0]


def resized_grids(vector: Vector) -> Mapping[str, Tensor]:
    out = {}
    for name, grid in vector.part("input").items():
        _, *new, d = vector.tensors[f"output.{name}"].shape
        out[f"output.{name}"] = squeeze_table(grid.reshape(-1, d), (grid.shape[1], grid.shape[2]), (new[0], new[1])).view(1, *new, d)
    return out


def patch_numbers(vector: Vector) -> Mapping[str, Tensor]:
    config, inputs = vector.config, {name: t.numpy() for name, t in vector.part("input").items()}
    side = config["reference_grid"]
    kinds = {f"target_{kind['grid']}": kind for kind in (config["random_query"], config["focal_query"])}
    out: dict[str, list[np.ndarray]] = {}
    masks = {}
    for i, (reference, query) in enumerate(zip(inputs["reference_box"].tolist(), inputs["query_box"], strict=True)):
        box, turned = Box(*reference), bool(inputs["reference_flip"][i])
        for name, kind in kinds.items():
            grid, pixels = (kind["grid"],) * 2, (kind["pixels"],) * 2
            cells = patch_targets(box, query[None], inputs["query_flip"][i : i + 1] > 0, (side, side), grid, pixels, turned)
            out.setdefault(name, []).append(cells[0])
        out.setdefault("box", []).append(np.array(relative_box(box, Box(*query.tolist()))))
        height, width = inputs["image_hw"][i].tolist()
        masks[f"full_mask_case{i}"] = reference_cells(np.arange(height), np.arange(width), box, (side, side), turned)
    wanted = {n: torch.from_numpy(mask) for n, mask in masks.items() if f"output.{n}" in vector.tensors}
    return {f"output.{n}": t for n, t in ({n: torch.from_numpy(np.stack(rows)) for n, rows in out.items()} | wanted).items()}


def colours(vector: Vector) -> Mapping[str, Tensor]:
    inputs = vector.part("input")
    image, whole = channels_first(inputs["image"][None]), inputs["image_uint8"].numpy()
    if not torch.allclose(inputs["image_uint8"] / 255, inputs["image"], atol=1e-7):
        raise ParityError(f"{vector.path.name}: image is not image_uint8 / 255")
    box = Box(*inputs["crop_box"].tolist())
    out: dict[str, Tensor] = {}
    for name in vector.part("output"):
        if match := re.fullmatch(r"(brightness|contrast|saturation|hue)_\d+", name):
            out[name] = getattr(colour, match[1])(image, inputs[name]).clamp(0, 1)
        elif match := re.fullmatch(r"crop_resize_(?:up|down)_(\d+)", name):
            crop = np.empty((int(match[1]),) * 2 + (3,), np.float32)
            Resizer(whole)(box, False, crop)
            out[name] = torch.from_numpy(crop - np.float32(0.5))  # the half that rounds where bytes are written
        elif match := re.fullmatch(r"blur_k(\d+)_sigma([\d.]+)", name):
            out[name] = colour.blur(image, torch.tensor([float(match[2])]), int(match[1])).clamp(0, 1)
        else:
            operation = {
                "grayscale": colour.grey,
                "solarize": colour.solarise,
                "standardize": imagenet_normalise,
                "blur_as_released": unblurred,
            }
            out[name] = operation[name](image)
    if unread := [n for n in inputs if re.search(r"_\d+$", n) and n not in out]:
        raise ParityError(f"{vector.path.name}: no result for {unread}")
    return {f"output.{n}": t if n.startswith("crop") else t[0].permute(1, 2, 0) for n, t in out.items()}


def unblurred(images: Tensor) -> Tensor:
    """The released recipe: a kernel of 0."""
    return colour.blur(images, torch.ones(len(images)), 0)


def schedules(content: Any) -> Any:
    """The document with our values; each may be as far off as the file allows."""
    allowed = content["meta"]["tolerance"]
    document: dict[str, Any] = {"meta": content["meta"]}
    for name, law in content.items():
        if name == "meta":
            continue
        optim = OptimConfig.model_validate(
            {
                **schedule_settings(law["base_lr"], law["alpha"], law["warmup_steps"], law["total_steps"]),
                "weight_decay": law.get("weight_decay", 0.0),
            }
        )
        ours = loca_schedules(optim, Clock(steps=law["total_steps"], batch_size=1, samples=1))
        table = []
        for row in law["table"]:
            step = row["step"]
            lr = ours["lr"](step)
            entry: dict[str, Any] = {"step": step, "lr": around(lr, allowed["atol"] + allowed["rtol"] * lr)}
            if "momentum_base" in law:
                entry["momentum"] = around(teacher_momentum(law["momentum_base"], step, law["total_steps"]), allowed["momentum_atol"])
            if "weight_decay" in law:
                entry["weight_decay"] = ours["weight_decay"](step)
            table.append(entry)
        document[name] = {**law, "table": table}
        if "momentum_base" in law:
            check_alpha(law["momentum_base"], law["momentum_alpha"])
            document[name]["momentum_alpha"] = 1 / law["momentum_base"]
        if "steps_per_epoch" in law:
            document[name]["steps_per_epoch"] = 1281167 // 1024
            document[name]["total_steps"] = 100 * (1281167 // 1024)
            document[name]["warmup_steps"] = 15 * (1281167 // 1024)
    return document


def around(value: float, allowed: float) -> Within:
    return Within(value - allowed, value + allowed)


def patch_limits(vector: Vector, name: str) -> tuple[float, float]:
    return (vector.tolerance["box_atol"], 0.0) if name == "output.box" else (0.0, 0.0)


def colour_limits(vector: Vector, name: str) -> tuple[float, float]:
    return (vector.tolerance["resize_atol"], 0.0) if name.startswith("output.crop_resize") else vector.limits(name)
