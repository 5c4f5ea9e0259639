"""Folders of photos or clouds that are named in place of data sets: prepared once, kept, and found again.

They lie beside the rows that are kept from Ray's sources, in `$SIGHTLINE_HOME/data/KIND-KEY`, or in `data/` of `train.storage`. The key is
the SHA-256 of what a run needs and of every file's path, size and time of change: to read every byte of a large folder would take as long
at each start as to prepare it. So a copy with other times is prepared again, and a file that keeps size and time while its content changes
is not seen. A run records the folder that was made, so that a resume looks at the photos no more.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.methods.catalog import find_method
from sightline.methods.contract import HasSmallestImage, NeedsColumns
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.config.location import Mixture, parse, refuse_unknown_reader
from sightline.platform.core.filesystem import exists, open_place, read_bytes, write_bytes
from sightline.platform.core.paths import absolute, home, shown_path
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.manifest import MANIFEST_NAME
from sightline.platform.data.materialize import FOLDER
from sightline.platform.data.prepare.archives import is_archive
from sightline.platform.data.prepare.captures.videos import folder_or_video
from sightline.platform.data.prepare.files import Tree, folders_in, suffix_of
from sightline.platform.data.prepare.formats.video import VIDEO_SUFFIXES
from sightline.platform.data.prepare.found import WHOLE, split_of
from sightline.platform.data.prepare.job import run_job
from sightline.platform.data.prepare.whole_folder import Choice, Wish, choose

DONE = "prepared.json"
"""Written last, into the folder of a key: the parts and the commands."""
VERSION = 1
"""Of the choices: another number makes other keys."""
EVERY_SECONDS = 15.0
"""Between two words on how far it is."""
Parts = Mapping[str, str]
"""Split -> its data set; one under `WHOLE` where there are no splits."""


@dataclass(frozen=True)
class Keeper:
    """Prepares folders for one command."""

    storage: str | None = None
    max_broken: float = 0.05
    say: Callable[[str], None] = lambda text: None
    dry: bool = False
    """Whether nothing may be made."""

    def parts(self, setting: str, place: str, wish: Wish) -> Parts | None:
        """The data sets of the folder that a setting names; None where it names something else, which is opened or refused elsewhere.

        Raises `CallError` where the folder holds nothing of the kind, `SightlineError` where too much of it is broken.
        """
        if not is_own(place):
            return None
        folder = Path(place).expanduser().absolute()
        if made := _made_by_hand(folder) if folder.is_dir() else {}:
            self.say(f"{setting}: {shown_path(folder)} holds the data sets {', '.join(made)}")
            return made
        key = _key(folder, wish)
        root = f"{absolute(self.storage) if self.storage else home()}/{FOLDER}/{wish.kind}-{key}"
        system, path = open_place(root)
        shown = shown_path(folder)
        if exists(system, f"{path}/{DONE}"):
            done = json.loads(read_bytes(system, f"{path}/{DONE}"))
            self.say(f"{setting}: {shown} was prepared before, and no file of it has changed since: {root}")
            return {part: f"{root}/{part}" if part else root for part in done["parts"]}
        self.say(f"{setting}: {shown} is no data set yet; looking at what is in it")
        choices = _choices(shown, wish, root)
        if self.dry:
            by_hand = _by_hand(choices, shown, root)
            raise CallError(f"{setting} = {place} is no data set yet, and --dry-run makes none", f"make it first: {by_hand}")
        return self._prepare(setting, shown, root, choices)

    def train_and_val(self, train: str | None, val: str | None, wish: Wish) -> tuple[str | None, str | None]:
        """The places of `data.train` and `data.val`; where the second is not named, what is held out of the first."""
        held = None
        if train and isinstance(mixed := parse(train), Mixture):
            train = str(replace(mixed, places=tuple(self._whole(place, wish) for place in mixed.places)))
        elif train and (parts := self.parts("data.train", train, replace(wish, split=val is None))):
            train, held = chosen(parts, train, "train"), parts.get("val", parts.get("test"))
        if val and (parts := self.parts("data.val", val, wish)):
            val = chosen(parts, val, "val")
        elif val is None and held:
            self.say(f"data.val: {held}")
        return train, val or held

    def _whole(self, place: str, wish: Wish) -> str:
        """A data set of a mixture; of a folder all rows, or its `train`."""
        parts = self.parts("data.train", place, wish)
        return chosen(parts, place, "train") if parts else place

    def _prepare(self, setting: str, shown: str, root: str, choices: list[Choice]) -> Parts:
        began, first = time.monotonic(), choices[0]
        outputs = [output for choice in choices for output in choice.outputs]
        count = sum(source.count for output in outputs for source in output.shards)
        held = "" if len(outputs) > 1 else "; no rows can be held out of it for validation" if first.request.split is None else ""
        self.say(f"{setting}: preparing {count:,} {first.source.kind} ({first.why}{held})")
        for text in first.passed:
            self.say(f"{setting}: {text}")
        told = began

        def progress(done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            if done and now - told > EVERY_SECONDS:
                told = now
                self.say(f"{setting}: {done:,} of {total:,}; about {(now - began) / done * (total - done):.0f} s left")

        command = "; ".join(choice.command(choice.request.out) for choice in choices)
        manifests = run_job(outputs, first.source.kind, command=command, overwrite=True, max_skipped=self.max_broken, progress=progress)
        parts = {output.folder[len(root) :].strip("/"): manifest.rows for output, manifest in zip(outputs, manifests, strict=True)}
        system, path = open_place(root)
        write_bytes(system, f"{path}/{DONE}", json.dumps({"parts": list(parts), "command": command}, indent=1).encode())
        rows = ", ".join(f"{part} {count:,}" if part else f"{count:,}" for part, count in parts.items())
        self.say(f"{setting}: {rows} rows in {time.monotonic() - began:.1f} s, kept in {root}")
        for note in dict.fromkeys(note for manifest in manifests for note in manifest.provenance.notes):
            self.say(f"{setting}: note: {note}")
        for skipped in (one for manifest in manifests for one in manifest.provenance.skipped):
            self.say(f"{setting}: skipped {skipped.count:,}: {skipped.reason} (first: {skipped.examples[0]})")
        self.say(f"{setting}: the same by hand: {_by_hand(choices, shown, root)}")
        return {part: f"{root}/{part}" if part else root for part in parts}


def is_own(place: str) -> bool:
    """Whether a setting names a folder, an archive or a video of this machine that is no finished data set, nor one that was begun."""
    location = parse(place)
    refuse_unknown_reader(location)
    if isinstance(location, Mixture):
        return False
    folder = Path(location.place).expanduser()
    if not location.prepared or "://" in location.place or not folder.is_dir():
        return location.prepared and (is_archive(folder) or (folder.is_file() and suffix_of(folder.name) in VIDEO_SUFFIXES))
    begun = (folder / ".staging").exists() or next(folder.glob("*.parquet"), None) is not None
    return not (begun or (folder / MANIFEST_NAME).exists())


def prepare_folders(experiment: config.Experiment, say: Callable[[str], None] = lambda text: None, dry: bool = False) -> config.Experiment:
    """The experiment with a prepared data set for each folder that `data` and `probe` name; what is held out becomes `data.val`.

    `dry`: a folder that would have to be prepared is refused. Raises `CallError` where a folder does not hold what the method or the probes
    need, `SightlineError` where too much of it is broken.
    """
    data, probe = experiment.data, experiment.probe
    keeper = Keeper(experiment.train.storage, data.max_broken, say, dry)
    wish = wish_of(experiment)
    train, val = keeper.train_and_val(data.train, data.val, wish)
    kind = find_kind(wish.kind).modality
    probed: dict[str, tuple[str, ...]] = {}
    for name, part in (("train", "train"), ("test", "test")):
        of_probe = Wish(kind, size=wish.size, points=wish.points)
        places = [(place, keeper.parts(f"probe.{name}", place, of_probe)) for place in getattr(probe, name)]
        probed[name] = tuple(_labelled(chosen(parts, place, part), place, name) if parts else place for place, parts in places)
    return experiment.model_copy(
        update={"data": data.model_copy(update={"train": train, "val": val}), "probe": probe.model_copy(update=probed)}
    )


def wish_of(experiment: config.Experiment) -> Wish:
    """What an experiment needs of its data. Photos are stored larger than its crops; pairs as squares, because CroCo crops both views."""
    method = find_method(experiment.method)
    views = method.views(experiment.method_config)
    own = find_kind(method.kind).samples
    columns = tuple(name for name in (views.columns if isinstance(views, NeedsColumns) else ()) if name not in own)
    if method.kind == "points":
        return Wish(method.kind, columns)
    height, width = views.smallest if isinstance(views, HasSmallestImage) else method.image_shape(experiment.method_config)
    crop = round(max(height, width) * 8 / 7)
    return Wish(method.kind, columns, crop if method.kind == "pairs" else max(256, crop), square=method.kind == "pairs")


def chosen(parts: Parts, place: str, part: str) -> str:
    """The data set for a setting, of a folder that may have splits. Raises `CallError` where it has others."""
    names = (WHOLE, part, *(("val",) if part == "test" else ("test",) if part == "val" else ()))
    for name in names:
        if name in parts:
            return parts[name]
    raise CallError(
        f"{place} has the splits {', '.join(parts)}, and none is called {part}", f"name one of them: {next(iter(parts.values()))}"
    )


def _labelled(uri: str, place: str, name: str) -> str:
    """`uri`, where its rows have what a probe can learn. Raises `CallError`."""
    dataset = Dataset.open(uri)
    if not {"label", "segmentation", "depth", "depth1", "part"} & set(dataset.manifest.columns):
        quoted = shlex.quote(place)
        how = {
            "images": f"put them into folders that are classes (sightline prepare images classes {quoted} --out DIR), or name masks beside "
            f"them (sightline prepare images masks {quoted} --images 'rgb' --masks 'gt' --classes FILE --out DIR)",
            "points": f"put them into folders that are classes: sightline prepare points classes {quoted} --out DIR",
        }
        raise CallError(
            f"probe.{name} = {place}: no label, mask or depth was found there, and a probe needs one", how.get(dataset.kind, "")
        )
    return uri


def _made_by_hand(folder: Path) -> Parts:
    """The data sets that lie in a folder as its splits, as `sightline prepare --split` makes them."""
    return {sub.name: str(sub) for sub in folders_in(folder) if (sub / MANIFEST_NAME).is_file()}


def _by_hand(choices: list[Choice], place: str, root: str) -> str:
    folder = re.sub(r"(\.tar)?\.\w+$", "", place) if Path(place).expanduser().is_file() else place
    out = f"{folder.rstrip('/')}-set"
    return " && ".join(choice.command(f"{out}{choice.request.out[len(root) :]}") for choice in choices)


def _choices(place: str, wish: Wish, root: str) -> list[Choice]:
    """The source for the folder; one for each of its splits, where it has some that no source knows."""
    path = folder_or_video(place)
    folders = folders_in(path) if path.is_dir() else []
    splits = {split: sub.name for sub in folders if (split := split_of(sub.name))}
    if "train" not in splits or len(splits) < len(folders) or wish.kind == "points":
        return [choose(place, wish, root)]
    whole = choose(place, replace(wish, split=False), root)
    if {output.folder for output in whole.outputs} != {root}:
        return [whole]
    return [choose(f"{place}/{sub}", replace(wish, split=False), f"{root}/{part}") for part, sub in splits.items()]


def _key(folder: Path, wish: Wish) -> str:
    """Hexadecimal digits that change with any file of the folder and with what is needed of it."""
    digest = hashlib.sha256(repr((VERSION, folder.name, wish)).encode())
    if folder.is_file():
        digest.update(f"\0{folder.stat().st_size}\0{folder.stat().st_mtime_ns}".encode())
        return digest.hexdigest()[:16]
    tree = Tree.of(folder)
    for path in sorted(path for paths in tree.folders.values() for path in paths):
        status = (folder / path).stat()
        digest.update(f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
