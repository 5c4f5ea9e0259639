"""The depth probe: how much of a scene's depth a linear map reads from the frozen features of single patches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sightline.methods.errors import CallError

from ..data.dataset import Dataset
from .depth_metrics import METRICS, error_sums, figures_of, finding_of
from .features import Frame, batch_tokens, fit_image, frozen, has_depth, list_frames, patch_depth, read_frames
from .protocol import DEPTH_V1, DepthProtocol, as_dict, protocol_hash
from .ridge import LinearHead, Moments, ridge, total
from .splits import Units, make_folds, make_units, too_near

BATCH = 32
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is done."""


class ProbeSkippedError(CallError):
    """The data do not allow this probe; nothing else is wrong."""


def run_depth_probe(
    encoders: Mapping[str, torch.nn.Module],
    train: Dataset,
    test: Dataset,
    *,
    controls: Sequence[torch.nn.Module] = (),
    protocol: DepthProtocol = DEPTH_V1,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures `encoders` (name -> `ImageEncoder`) against `controls`, the same network with different random weights.

    The head is fitted on frames of `train` and measured on frames of `test`. Returns plain JSON values (see `docs/probes.md`): `rows`,
    one for each encoder, control, the mean of the controls and the position baseline, `differences` on the same resamples, the
    protocol with its hash, what the intervals cover, counts and seconds. Where the data do not allow the probe, the result holds
    `skipped` with the reason. Raises `CallError` for encoders whose image or patch sizes differ.
    """
    began = time.perf_counter()
    result: dict[str, Any] = {
        "probe": protocol.name,
        "title": "Monocular depth from frozen patch features",
        "protocol": as_dict(protocol),
        "protocol_hash": protocol_hash(protocol),
        "metrics": METRICS,
    }
    grid = _common_grid([*encoders.values(), *controls])
    try:
        split = _split(train, test, protocol)
        modules = {**encoders, **{f"random {index + 1}": module for index, module in enumerate(controls)}}
        with frozen(list(modules.values()), device):
            sums, heads, counts = _measure(modules, grid, train, test, split, protocol, device, progress or (lambda what, share: None))
    except ProbeSkippedError as reason:
        return {**result, "skipped": f"probe depth skipped: {reason}", "seconds": time.perf_counter() - began}
    figures = figures_of(sums, list(encoders), [name for name in modules if name not in encoders], split.test_units.kind, protocol)
    for row in figures["rows"]:
        row["penalty"] = heads.get(row["name"])
    result.update(figures, counts={**counts, "left_out_near_test": split.left_out}, seconds=time.perf_counter() - began)
    return {**result, "finding": finding_of(result)}


@dataclass(frozen=True)
class _Grid:
    size: tuple[int, int]
    patch: int


@dataclass(frozen=True)
class _Split:
    train: list[Frame]
    folds: dict[bytes, int]
    """Digest of a training frame -> its fold in the choice of the penalty; -1 for those that join only the final fit."""
    test: list[Frame]
    test_units: Units
    """Of the test frames, in their order."""
    left_out: int


def _common_grid(encoders: Sequence[Any]) -> _Grid:
    grids = {_Grid(tuple(encoder.image_size), encoder.patch_size) for encoder in encoders}
    if len(grids) != 1:
        raise CallError(
            f"encoders with different grids cannot be compared patch by patch: {sorted((g.size, g.patch) for g in grids)}",
            "probe encoders of one image size and one patch size together",
        )
    return grids.pop()


def _split(train: Dataset, test: Dataset, protocol: DepthProtocol) -> _Split:
    for name, dataset in (("training", train), ("test", test)):
        if not has_depth(dataset):
            raise ProbeSkippedError(f"no depth column in the {name} data {dataset.uri}")
    test_frames = list_frames(test, protocol.max_rows[1])
    everything = list_frames(train, protocol.max_rows[0])
    test_scenes, test_times = [f.scene for f in test_frames], np.array([f.time for f in test_frames])
    scenes, times = [f.scene for f in everything], np.array([f.time for f in everything])
    try:
        near = too_near(scenes, times, test_scenes, test_times, protocol.gap)
    except CallError as error:
        raise ProbeSkippedError(str(error), error.mend) from None
    seen = {frame.digest for frame in test_frames}
    kept = [frame for frame, is_near in zip(everything, near, strict=True) if not is_near and frame.digest not in seen]
    if len(kept) < 10 or len(test_frames) < 2:
        raise ProbeSkippedError(
            f"{len(kept)} training frames with depth (of {len(everything)}; those less than {protocol.gap:g} s from a test frame are left "
            f"out) and {len(test_frames)} test frames; at least 10 and 2 are needed"
        )
    scenes, times = [f.scene for f in kept], np.array([f.time for f in kept])
    units = make_units(scenes, times, protocol.resampling)
    folds = make_folds(units, scenes, times, protocol.folds, protocol.gap)
    return _Split(
        train=kept,
        folds={frame.digest: int(fold) for frame, fold in zip(kept, folds, strict=True)},
        test=test_frames,
        test_units=make_units(test_scenes, test_times, protocol.resampling),
        left_out=len(everything) - len(kept),
    )


def _measure(
    modules: Mapping[str, torch.nn.Module],
    grid: _Grid,
    train: Dataset,
    test: Dataset,
    split: _Split,
    protocol: DepthProtocol,
    device: torch.device | str,
    progress: Progress,
) -> tuple[dict[str, tuple[list[str], np.ndarray]], dict[str, float], dict[str, int]]:
    """Sums of errors of each model by test frame, the penalty of each head, and counts."""
    frames = len(split.train) + len(split.test)
    counts = {"train_images": 0, "train_patches": 0, "test_images": 0, "test_patches": 0, "broken_images": 0}
    moments: dict[str, dict[int, Moments]] = {name: {} for name in modules}  # of each fold
    cells = (grid.size[0] // grid.patch) * (grid.size[1] // grid.patch)
    place_sum, place_count = np.zeros(cells), np.zeros(cells)
    low, high = np.inf, -np.inf
    done = 0
    for batch in _batches(train, split.train, grid, protocol, counts):
        folds = np.array([split.folds[frame.digest] for frame in batch.frames])
        log_depth, known = np.log(batch.depth), np.isfinite(batch.depth)
        place_sum += np.where(known, log_depth, 0).sum(axis=0)
        place_count += known.sum(axis=0)
        low, high = min(low, float(log_depth[known].min(initial=low))), max(high, float(log_depth[known].max(initial=high)))
        counts["train_images"] += len(batch.frames)
        counts["train_patches"] += int(known.sum())
        for name, module in modules.items():
            tokens = batch_tokens(module, batch.images, device)
            for fold in np.unique(folds).tolist():
                chosen = torch.from_numpy(known & (folds == fold)[:, None])
                if bool(chosen.any()):
                    found = Moments.of(tokens[chosen], torch.from_numpy(log_depth)[chosen].double())
                    moments[name][fold] = moments[name][fold] + found if fold in moments[name] else found
        done += len(batch.frames)
        progress("depth probe: fitting", done / frames)
    if not counts["train_patches"]:
        raise ProbeSkippedError("no training patch has enough known depth")
    heads, penalties = {}, {}
    for name in modules:
        penalties[name], heads[name] = _choose(moments[name], protocol)
    overall = place_sum.sum() / place_count.sum()
    place = np.where(place_count > 0, place_sum / place_count.clip(1), overall)

    errors: dict[str, list[np.ndarray]] = {name: [] for name in (*modules, "position")}
    unit_of = {frame.digest: name for frame, name in zip(split.test, split.test_units.names, strict=True)}
    units: list[str] = []
    for batch in _batches(test, split.test, grid, protocol, counts):
        units += [unit_of[frame.digest] for frame in batch.frames]
        counts["test_images"] += len(batch.frames)
        counts["test_patches"] += int(np.isfinite(batch.depth).sum())
        for name, module in modules.items():
            predicted = heads[name](batch_tokens(module, batch.images, device)).clamp(low, high).exp().numpy()
            errors[name].append(error_sums(predicted, batch.depth, protocol.delta))
        errors["position"].append(error_sums(np.broadcast_to(np.exp(place), batch.depth.shape), batch.depth, protocol.delta))
        done += len(batch.frames)
        progress("depth probe: testing", done / frames)
    if not counts["test_patches"]:
        raise ProbeSkippedError("no test patch has enough known depth")
    return {name: (units, np.concatenate(parts)) for name, parts in errors.items()}, penalties, counts


@dataclass(frozen=True)
class _Batch:
    frames: list[Frame]
    images: np.ndarray
    """uint8 B x H x W x 3"""
    depth: np.ndarray
    """float32 B x N, metres; NaN where a patch does not count."""


def _batches(dataset: Dataset, frames: Sequence[Frame], grid: _Grid, protocol: DepthProtocol, counts: dict[str, int]) -> Iterator[_Batch]:
    kept: list[Frame] = []
    images: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    for frame, image, depth in read_frames(dataset, frames):
        if image is None or depth is None:
            counts["broken_images"] += 1
            continue
        kept.append(frame)
        images.append(fit_image(image, grid.size))
        depths.append(patch_depth(depth, grid.size, grid.patch, protocol.min_valid).reshape(-1))
        if len(kept) == BATCH:
            yield _Batch(kept, np.stack(images), np.stack(depths))
            kept, images, depths = [], [], []
    if kept:
        yield _Batch(kept, np.stack(images), np.stack(depths))


def _choose(folds: Mapping[int, Moments], protocol: DepthProtocol) -> tuple[float, LinearHead]:
    """The penalty with the least squared error when each fold is predicted from the others, and the head fitted with it on everything."""
    usable = {fold: moments for fold, moments in folds.items() if fold >= 0}
    if len(usable) < 2:
        raise ProbeSkippedError("the training frames with known depth cannot be divided in folds to choose the penalty")
    errors = dict.fromkeys(protocol.penalties, 0.0)
    for held_out, moments in usable.items():
        rest = total([other for fold, other in usable.items() if fold != held_out])
        for penalty in protocol.penalties:
            errors[penalty] += ridge(rest, penalty).mean_squared_error(moments) * moments.count
    best = min(errors, key=lambda penalty: errors[penalty])
    return best, ridge(total(list(folds.values())), best)
