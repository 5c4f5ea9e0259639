"""LOCA's Flax checkpoint (msgpack): every leaf finds its place and comes out as it went in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from parity_harness import Report, compare, read_vector, same_names
from torch import Tensor

from sightline.methods.contract import BuildContext
from sightline.methods.loca import official
from sightline.methods.loca.config import LocaConfig
from sightline.methods.loca.pretext import build
from sightline.platform.weights.flax_msgpack import decode


def checkpoint(path: Path, data: bytes, report: Report) -> None:
    """Every leaf of a Flax checkpoint: weights find their place and come out as they went in; what we do not take is as the README says."""
    content = decode(data)
    settings = official.settings_of(content)
    patch = settings["model"]["patch_size"]
    pretext = build(LocaConfig.model_validate({**settings, "augment": {"focal_size": 2 * patch}}), BuildContext(seed=0))
    state, match = official.load(content, pretext.state_dict(), pretext.config)
    if match.missing or match.resized or set(match.unexpected) != {"opt_state", "rng"}:
        report.problems.append(f"{match.missing} missing, {match.unexpected} unexpected, {match.resized} resized")
    pretext.load_state_dict(state, strict=True)
    ours = official.save(pretext.state_dict(), pretext.config)[0]
    theirs = {name: t for name, t in flat(content) if name.startswith(("params/", "ema_params/"))}
    same_names("weights", ours, theirs)
    for name, tensor in theirs.items():
        compare(report, name, ours[name], tensor, 0, 0)
    moments = {
        f"opt_state/inner_state/0/{m}/{n.removeprefix('params/')}": t
        for n, t in ours.items()
        if n.startswith("params/")
        for m in ("mu", "nu")
    }
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "learning_rate": 0.0, "weight_decay": 0.1}
    fresh: dict[str, Tensor] = {name: torch.zeros_like(t) for name, t in moments.items()}
    fresh |= {f"opt_state/hyperparams/{name}": torch.tensor(value) for name, value in numbers.items()}
    counts = ("opt_state/count", "opt_state/hyperparams_states/learning_rate/count", "opt_state/inner_state/0/count")
    fresh |= {name: torch.zeros((), dtype=torch.int32) for name in counts}
    rest = {name: t for name, t in flat(content) if name not in theirs and name != "rng"}
    same_names("optimiser", fresh, rest)
    for name, tensor in rest.items():
        compare(report, name, fresh[name], tensor, 0, 0)
    values = {name: content[name] for name in ("global_step", "state", "ema_state")}
    if values != {"global_step": 3, "state": None, "ema_state": None} or content["rng"].shape != (2,):
        report.problems.append(f"{values} and rng {content['rng'].shape} are not as the README says")
    report.values += len(values) + 1
    twins(path, theirs, report)


def twins(path: Path, weights: Mapping[str, Tensor], report: Report) -> None:
    """The recorded steps beside the file began from the same weights."""
    shapes = {f"state.{name}": t.shape for name, t in weights.items()}
    near = [read_vector(other) for other in sorted(path.parent.glob("*")) if other != path and is_safetensors(other)]
    near = [v for v in near if {n: t.shape for n, t in v.tensors.items() if n.startswith("state.")} == shapes]
    if near and not any(all(torch.equal(t, v.tensors[f"state.{name}"]) for name, t in weights.items()) for v in near):
        report.problems.append(f"the weights are not those of {[v.path.name for v in near]}")


def is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(10)[8:10] == b'{"'


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from flat(part, f"{path}/{name}" if path else name)
