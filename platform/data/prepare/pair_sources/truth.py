"""`sightline prepare pairs stereo` and `flow`: pairs with exact truth, from the layouts of the benchmarks, from folders, or from a list."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.images import IMAGE_SUFFIXES
from sightline.platform.data.schema import decode_row
from sightline.platform.data.warp_check import Verdict, judged

from ..files import Tree, existing_folder, folder_of, is_file, is_inside, natural, suffix_of
from ..found import WHOLE, Found, split_of
from ..lists import numbered_lines
from ..options import above_zero, option
from ..packed import Packed
from ..source import ItemSource, Places, Request, ResizeOptions
from .truth_layouts import FLOW, STEREO, TruthLayout
from .truth_pairs import Column, TruthPair

CHECKED = 16
"""Pairs of each layout that are warped before anything is stored."""
CHAIRS_SPLIT = "FlyingChairs_train_val.txt"


@dataclass(frozen=True)
class TruthSource(ResizeOptions, ItemSource[TruthPair]):
    """What stereo and flow share."""

    kind = "pairs"
    places = Places(
        "DIR|FILE", "folder(s) that hold data sets of any of these layouts, or lists: image 1, image 2, truth[, occluded] a line"
    )
    column: ClassVar[Column]
    layouts: ClassVar[Sequence[TruthLayout]]

    accept_misfit: bool = option(False, "store truth that the images do not fit: wrong sign, scale or order, as warping finds it")

    @property
    def units(self) -> float | None:
        """Units of a value of the files in a pixel, where they are stated."""
        return None

    def find(self, place: str, name: str, seed: int = 0) -> Found[TruthPair]:
        """Every truth below `place` whose images are there."""
        if Path(place).expanduser().is_file():
            return self._listed(Path(place).expanduser().resolve(), name)
        folder = existing_folder(place)
        tree = Tree.of(folder)
        files = sorted((path for paths in tree.folders.values() for path in paths), key=lambda path: (folder_of(path), natural(path)))
        last = {folder_of(path): path for path in files}
        there = _There.of(files)
        pairs, taken = Packed[_Taken](), set[str]()
        layouts: set[str] = set()
        lacking: dict[str, tuple[str, str]] = {}
        own = {layout.name for layout in self.layouts if layout.own}
        ends = 0
        for layout in self.layouts:
            if layout.own and not layouts <= own:
                continue
            pattern = layout.pattern
            for path in files:
                if path in taken or (match := pattern.fullmatch(path)) is None:
                    continue
                made, missing = self._pairs(layout, path, match.groupdict(), there, folder, name)
                if made:
                    taken.add(path)
                    layouts.add(layout.name)
                    pairs.extend(_Taken(pair, match.groupdict().get("split")) for pair in made)
                elif missing:
                    lacking.setdefault(path, missing)
        found = Found[TruthPair](self.provenance(folder, *sorted(layouts)))
        for path, (what, where) in lacking.items():
            if path in taken or path in there.used:
                continue
            if what == "next" and not natural(last.get(folder_of(where), "")) > natural(where):
                ends += 1
            else:
                found.skips.append((f"{path} (looked for {where})", "truth whose images are missing"))
        if not taken and not lacking and (other := self._other(files)):
            found.notes.append(other)
        if ends:
            found.notes.append(f"{ends:,} truth(s) of last frames are not stored: the next image is not there")
        _into_parts(found, pairs, folder, files)
        tree.use(*taken, *there.used, *lacking, *(path for path in files if path.endswith(CHAIRS_SPLIT)))
        found.skips += _without_truth(there.firsts, tree)
        found.count(tree)
        return found

    def _other(self, files: Sequence[str]) -> str:
        """What the files are for the other of stereo and flow; empty where they are nothing to it either."""
        for other in (Stereo, Flow):
            layout = next((one for one in other.layouts if other is not type(self) and any(map(one.pattern.fullmatch, files))), None)
            if layout is not None:
                return f"this looks like {layout.name} with {other.column}: `sightline prepare pairs {other.reader}` reads it"
        return ""

    def find_all(self, request: Request) -> list[Found[TruthPair]]:
        found = super().find_all(request)
        for one in found:
            self._check(one, request.seed)
        return found

    def _pairs(
        self, layout: TruthLayout, path: str, groups: Mapping[str, str | None], there: _There, folder: Path, name: str
    ) -> tuple[list[TruthPair], tuple[str, str] | None]:
        """(the pairs of one truth, or what is missing of them: ("next" or "image", where it should be))."""
        words = {key: value or "" for key, value in groups.items()}
        number = words.get("n", "")
        words["next"] = f"{int(number) + 1:0{len(number)}d}" if number.isdecimal() else ""
        words["ungt"], words["rgb"] = (
            words["at"].replace("_gt/", "/"),
            words["at"].replace("_depth/", "_rgb/").replace("_forwardFlow/", "_rgb/"),
        )
        words["into"] = f"{words['split']}/" if words.get("split") else ""
        pairs: list[TruthPair] = []
        missing: tuple[str, str] | None = None
        for one in layout.passes:
            words["pass"] = one
            first, second = (there.image(places, words) for places in (layout.image1, layout.image2))
            if first is None or second is None:
                wanted = (layout.image1 if first is None else layout.image2).partition("|")[0]
                missing = missing or ("next" if first is not None and "{next}" in wanted else "image", wanted.format_map(words))
                continue
            stem = _stem(path) + (f"/{one}" if one else "")
            masks = [(form, file) for form, place in layout.masks if (file := there.image(place, words) or there.file(place, words))]
            calibrations = [(form, file) for form, place in layout.calibration if (file := there.file(place, words))][:1]
            there.used.update((first, second, *(file for _, file in (*masks, *calibrations))))
            if layout.own:
                there.firsts.add(first)
            pairs.append(
                TruthPair(
                    id=f"{name}/{stem}",
                    scene=f"{name}/{words['at']}{words['scene']}" if words.get("scene") else f"{name}/{_stem(path)}",
                    image1=f"{folder}/{first}",
                    image2=f"{folder}/{second}",
                    column=layout.column,
                    form=layout.form or layout.column,
                    truth=f"{folder}/{path}",
                    masks=tuple((form, f"{folder}/{file}") for form, file in masks),
                    calibration=(calibrations[0][0], f"{folder}/{calibrations[0][1]}") if calibrations else None,
                    scale=self.units,
                    layout=layout.name,
                    frame=int(number) if number.isdecimal() and words.get("scene") else -1,
                )
            )
        return pairs, missing if not pairs else None

    def _listed(self, path: Path, name: str) -> Found[TruthPair]:
        """A line: image 1, image 2, truth, and if there is one the mask of what is occluded; apart by tabs, commas or spaces."""
        found = Found[TruthPair](self.provenance(path, "a list"))
        folder = path.parent
        for number, line in numbered_lines(path):
            words = [
                word.strip().strip('"') for word in (line.split("\t") if "\t" in line else line.split(",") if "," in line else line.split())
            ]
            if not 3 <= len(words) <= 4:
                found.skips.append((f"{path.name} line {number}", "a line is not image 1, image 2, truth and, if there is one, a mask"))
            elif not all(is_inside(word) for word in words):
                found.skips.append((f"{path.name} line {number}", "a path leaves the folder"))
            elif lacking := [word for word in words if not is_file(folder / word)]:
                found.skips.append((f"{path.name} line {number} ({lacking[0]})", "file is missing"))
            else:
                one, two, truth, *masks = (f"{folder}/{word}" for word in words)
                mine = f"{name}/{_stem(words[2])}"
                hidden = tuple(("occluded", mask) for mask in masks)
                found.items.append(TruthPair(mine, mine, one, two, self.column, self.column, truth, hidden, None, self.units, "a list"))
        return found

    def _check(self, found: Found[TruthPair], seed: int) -> None:
        """Warp some pairs of each layout as they will be stored. Adds notes; raises `CallError` where the truth does not fit."""
        layouts: dict[str, array[int]] = defaultdict(lambda: array("q"))
        for place, item in enumerate(found.every()):
            layouts[item.layout].append(place)
        for layout, places in layouts.items():
            samples: list[dict[str, Any]] = []
            for index in keyed_rng("warp", seed).permutation(len(places))[:CHECKED]:
                try:
                    samples.append(decode_row(found.nth(places[index]).row(self.resize), "pairs"))
                except BrokenSampleError:  # the job counts and names it
                    continue
            if not samples:
                continue
            verdict = judged(samples, self.column)
            if verdict.fault and not self.accept_misfit:
                where = f"{found.source.where} ({layout})"
                raise CallError(f"the {self.column} of {where} {verdict.fault}: {verdict.told}", self.hint(verdict))
            found.notes.append(f"{layout}: {verdict.told}{f'; the {self.column} {verdict.fault}' if verdict.fault else ''}")

    def hint(self, verdict: Verdict) -> str:
        """What to do about truth that does not fit."""
        return "correct the files, or store them as they are with --accept-misfit"


@dataclass(frozen=True)
class Stereo(TruthSource):
    reader = "stereo"
    help = (
        "rectified stereo pairs with disparity: KITTI, Middlebury, ETH3D, Sintel, SceneFlow, Spring, TartanAir, Virtual KITTI 2, your own"
    )
    examples = ("./middlebury2014 --out ./middlebury", "./pairs.txt --scale 256 --size 384 --out ./own")
    column = "disparity"
    layouts = STEREO

    scale: float | None = option(
        None,
        "units of a disparity PNG in a pixel (default: 256 for 16 bits; 8 bits need it, Middlebury 2001 to 2006 have 1 to 8)",
        above_zero,
    )

    @property
    def units(self) -> float | None:
        return self.scale

    def hint(self, verdict: Verdict) -> str:
        if verdict.best.times != 1:
            right = (self.scale or 256) * verdict.best.times
            return f"where they are PNG, say their scale with --scale {right:g}; or store them as they are with --accept-misfit"
        return super().hint(verdict)


@dataclass(frozen=True)
class Flow(TruthSource):
    reader = "flow"
    help = "pairs with optical flow: FlyingChairs, FlyingThings, Sintel, KITTI, HD1K, Spring, TartanAir, Virtual KITTI 2, your own"
    examples = ("./FlyingChairs_release --out ./chairs", "./MPI-Sintel-complete --split train=0.9,val=0.1 --out ./sintel")
    column = "flow"
    layouts = FLOW


class _Taken(NamedTuple):
    pair: TruthPair
    split: str | None
    """As the folder calls it."""


@dataclass(frozen=True)
class _There:
    """The files of a folder, and those that pairs use."""

    files: frozenset[str]
    ends: Sequence[str]
    """The suffixes of images, as they are written."""
    used: set[str] = field(default_factory=set)
    firsts: set[str] = field(default_factory=set)
    """Images 1 of people's own layouts."""

    @classmethod
    def of(cls, files: Sequence[str]) -> _There:
        ends = {path[len(_stem(path)) :] for path in files}
        return cls(frozenset(files), sorted((end for end in ends if end.lower() in (*IMAGE_SUFFIXES, ".npy")), key=natural))

    def image(self, places: str, words: Mapping[str, str]) -> str | None:
        stems = (place.format_map(words) for place in places.split("|"))
        return next((path for stem in stems for end in self.ends if (path := stem + end) in self.files), None)

    def file(self, place: str, words: Mapping[str, str]) -> str | None:
        path = place.format_map(words)
        return path if path in self.files else None


def _stem(path: str) -> str:
    return path[: len(path) - len(suffix_of(path))]


def _into_parts(found: Found[TruthPair], pairs: Packed[_Taken], folder: Path, files: Sequence[str]) -> None:
    """The splits that a data set has itself, where it has two or more."""
    listed = next((path for path in files if path.endswith(CHAIRS_SPLIT)), None)
    chairs = [line for _, line in numbered_lines(folder / listed)] if listed else []
    parts: dict[str, Packed[TruthPair]] = defaultdict(Packed)
    for pair, split in pairs:
        number = Path(pair.truth).name.partition("_")[0]
        if split is None and pair.layout == "FlyingChairs" and number.isdecimal() and 0 < int(number) <= len(chairs):
            split = {"1": "train", "2": "val"}.get(chairs[int(number) - 1])
        parts[(split_of(split) if split else None) or WHOLE].append(pair)
    own = WHOLE not in parts and len(parts) > 1
    found.parts = dict(parts) if own else {WHOLE: Packed(pair for pair, _ in pairs)}


def _without_truth(firsts: Set[str], tree: Tree) -> list[tuple[str, str]]:
    """Images beside these, which have truth, that have none, where a folder has more than one that has."""
    folders = Counter(path.rpartition("/")[0] for path in firsts)
    beside = (
        f"{folder}/{name}" for folder, count in folders.items() if count > 1 for name in tree.take(IMAGE_SUFFIXES, folder, deep=False)
    )
    return [(path, "an image without truth") for path in beside if path not in firsts]
