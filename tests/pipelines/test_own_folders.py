"""A folder of photos, frames or clouds in place of a data set is prepared once, in the way that its content asks for."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from asking import Ask
from made_images import write_image

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.experiments.own_folders import is_own, prepare_folders

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def photos(folder: Path, count: int = 14) -> Path:
    for number in range(count):
        write_image(folder / f"{number}.jpg", seed=number)
    return folder


def walk(folder: Path, count: int = 44) -> Path:
    """Views of one wide picture, each a little further to the right."""
    wide = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 255, (5, 60, 3), np.uint8), 8, 0), 8, 1)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"img{number}.jpg").write_bytes(encode_image(wide[:, 4 * number : 4 * number + 48]))
    return folder


def asked(recipe: str = "loca-tiny", dry: bool = False, **settings: object) -> tuple[config.Experiment, str]:
    said: list[str] = []
    overrides = {name.replace("_", ".", 1): value for name, value in settings.items()}
    return prepare_folders(config.load(recipe, overrides), said.append, dry), "\n".join(said)


def test_photos_are_prepared_once_and_the_command_that_is_told_makes_the_same(ask: Ask, home: Path) -> None:
    photos(Path("my photos"))
    first, said = asked(data_train="my photos")
    assert is_own("my photos") and Path(first.data.train or "").parent.parent == home / "data"
    train, val = Dataset.open(first.data.train or ""), Dataset.open(first.data.val or "")
    assert (train.rows, val.rows) == (13, 1) and "data.train: preparing 14 images (photos without labels)" in said
    command = said.partition("the same by hand: ")[2].splitlines()[0]
    assert ask(*shlex.split(command)[1:])[0] == 0
    assert Dataset.open("my photos-set/train").fingerprint == train.fingerprint

    again, said = asked(data_train="my photos")
    assert again == first and "was prepared before" in said and "preparing" not in said
    assert asked(dry=True, data_train="my photos")[0] == first
    os.utime("my photos/3.jpg", (1, 1))
    with pytest.raises(CallError, match="is no data set yet, and --dry-run makes none") as refused:
        asked(dry=True, data_train="my photos")
    assert "sightline prepare images folder 'my photos' --size 256" in refused.value.hint
    assert asked(data_train="my photos")[0] != first, "a file has changed"


def test_frames_of_a_walk_are_held_out_in_blocks_and_paired(home: Path) -> None:
    walk(Path("walk"))
    images, said = asked(data_train="walk")
    assert "frames of a sequence" in said
    ids = [Dataset.open(place or "").read(0, 0).column("id").to_pylist() for place in (images.data.train, images.data.val)]
    numbers = [sorted(int(one.rpartition("img")[2].partition(".")[0]) for one in names) for names in ids]
    assert numbers[1] == [40, 41, 42, 43] and max(numbers[0]) == 37, "a block at the end, two frames before it dropped"
    pairs, said = asked("croco-tiny", data_train="walk")
    assert "pairs frames walk" in said and Dataset.open(pairs.data.train or "").kind == "pairs"
    with pytest.raises(CallError, match="14 photos without poses, and those next to each other do not look alike") as refused:
        asked("croco-tiny", data_train=str(photos(Path("mixed"))))
    assert "sightline prepare pairs mine mixed" in refused.value.hint


def test_a_video_is_its_frames(home: Path) -> None:
    frames = [walk_at(at) for at in range(0, 240, 4)]
    with av.open("walk.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    pairs, said = asked("croco-tiny", data_train="walk.mp4")
    assert "(frames of a video" in said and "prepare pairs frames walk.mp4" in said and "--out walk-set" in said
    assert Dataset.open(pairs.data.train or "").kind == "pairs" and pairs.data.val
    with pytest.raises(CallError, match="no label, mask or depth was found there"):
        asked(data_train="walk.mp4", probe_train="walk.mp4", probe_test="walk.mp4")


def walk_at(at: int) -> np.ndarray:
    """A view of one wide picture."""
    coarse = np.random.default_rng(0).integers(0, 255, (12, 50, 3), np.uint8)
    return np.ascontiguousarray(np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:, at : at + 128])


def test_folders_that_have_splits_keep_them(ask: Ask) -> None:
    photos(Path("own/train")), photos(Path("own/valid"), 2)
    shutil.make_archive("packed", "zip", "own")
    found, said = asked(data_train="packed.zip")
    assert [Dataset.open(place or "").rows for place in (found.data.train, found.data.val)] == [14, 2]
    assert "prepare images folder packed.zip/train --size 256" in said
    found, said = asked(data_train="own")
    assert [Dataset.open(place or "").rows for place in (found.data.train, found.data.val)] == [14, 2]
    assert "prepare images folder own/train --size 256 --out own-set/train && sightline prepare images folder own/valid" in said
    assert ask("prepare", "images", "folder", "own/train", "--split", "train=0.5,val=0.5", "--out", "made")[0] == 0
    found, said = asked(data_train="made")
    assert found.data.val == str(Path("made/val").absolute()) and "made holds the data sets train, val" in said
    assert not is_own("made/train") and not is_own("absent") and asked(data_train="absent")[0].data.train == "absent"


def test_a_probe_needs_labels_and_classes_are_folders() -> None:
    for name in ("cat", "dog"):
        photos(Path("pets") / name)
    found, _ = asked(data_train="pets")
    assert Dataset.open(found.data.train or "").manifest.classes == ("cat", "dog")
    with pytest.raises(CallError, match=r"has no manifest\.json.*, and holds no points that are known"):
        asked("i2p-mae-tiny", data_train="pets")
    with pytest.raises(CallError, match="no label, mask or depth was found there") as refused:
        asked(data_train="pets", probe_train=["pets/cat"], probe_test=["pets/dog"])
    assert "sightline prepare images classes pets/cat" in refused.value.hint
