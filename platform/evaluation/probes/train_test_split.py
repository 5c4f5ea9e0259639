"""Which images train a head and which test it, for every probe alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sightline.methods.errors import CallError
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.intervals import Resampling
from sightline.platform.evaluation.units import Units, make_units, too_near

from .context import ProbeSkippedError
from .image_frames import Frame, list_frames
from .protocol import HeadProtocol

MIN_TRAIN, MIN_TEST = 10, 2


@dataclass(frozen=True)
class Split:
    train: list[Frame]
    test: list[Frame]
    test_units: Units
    """Of the test frames, in their order."""
    left_out: int
    """Training frames that are test frames too, or too near to one."""
    caution: str
    """What could not be kept apart, for the reader of the result."""

    def units_of(self, frames: Sequence[Frame]) -> Units:
        """The units of those test frames that were not broken."""
        names = {frame.digest: name for frame, name in zip(self.test, self.test_units.names, strict=True)}
        return Units([names[frame.digest] for frame in frames], self.test_units.kind)


def split_frames(train: Dataset, test: Dataset, target: str, protocol: HeadProtocol, *, strict: bool) -> Split:
    """Frames with `target`; training frames that lie within the gap of a test frame of their scene are left out.

    Where a scene is on both sides and its frames have no time, neighbours cannot be told apart: with `strict` the probe is skipped, else
    the given split stands and the result says so.
    """
    test_frames = list_frames(test, target, protocol.max_rows[1])
    everything = list_frames(train, target, protocol.max_rows[0])
    scenes, times = _where(everything)
    test_scenes, test_times = _where(test_frames)
    by_class = target == "label" and scene_is_class(everything + test_frames)
    caution, near = "", np.zeros(len(everything), dtype=bool)
    if not by_class:
        try:
            near = too_near(scenes, times, test_scenes, test_times, protocol.gap)
        except CallError as error:
            if strict:
                raise ProbeSkippedError(str(error), error.hint) from None
            shared = sorted(set(scenes) & set(test_scenes) - {""})
            caution = (
                f"Images of {', '.join(shared[:3])} are in the training and in the test data without times: neighbours are not kept apart."
                if shared
                else ""
            )
    seen = {frame.digest for frame in test_frames}
    kept = [frame for frame, is_near in zip(everything, near, strict=True) if not is_near and frame.digest not in seen]
    if len(kept) < MIN_TRAIN or len(test_frames) < MIN_TEST:
        raise ProbeSkippedError(
            f"{len(kept)} training images with {target} (of {len(everything)}; those less than {protocol.gap:g} s from a test image are "
            f"left out) and {len(test_frames)} test images; at least {MIN_TRAIN} and {MIN_TEST} are needed"
        )
    return Split(kept, test_frames, units_of(test_frames, protocol.resampling, by_class), len(everything) - len(kept), caution)


def units_of(frames: Sequence[Frame], resampling: Resampling, by_class: bool = False) -> Units:
    """What is resampled: scenes, time blocks, or single images where nothing says that some belong together."""
    scenes, times = _where(frames)
    if by_class or not any(scenes):
        return Units([frame.digest.hex() for frame in frames], "image")
    return make_units(scenes, times, resampling, [frame.id for frame in frames])


def scene_is_class(frames: Sequence[Frame]) -> bool:
    """True where `scene` is but the folder of a class or of the whole data set: it says nothing of which images are alike."""
    labels_of: dict[str, set[int | None]] = {}
    for frame in frames:
        labels_of.setdefault(frame.scene, set()).add(frame.label)
    labels = {frame.label for frame in frames}
    folders = len(labels_of) <= len(labels) and all(len(some) == 1 for some in labels_of.values())
    timeless = all(np.isnan(frame.time) for frame in frames)
    return folders or (len(labels_of) == 1 and timeless)


def _where(frames: Sequence[Frame]) -> tuple[list[str], np.ndarray]:
    return [frame.scene for frame in frames], np.array([frame.time for frame in frames])
