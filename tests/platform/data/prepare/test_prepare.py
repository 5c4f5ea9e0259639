"""`prepare`: what people have becomes a data set, what is broken is counted and named, what was stopped goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import CallError, MachineError, SightlineError
from sightline.platform.core.locks import exclusive_lock
from sightline.platform.core.ray_init import start_ray
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.geometry import intrinsics
from sightline.platform.data.images import Resize, encode_depth, encode_image
from sightline.platform.data.prepare import job
from sightline.platform.data.prepare.captures.overlaps import compare
from sightline.platform.data.prepare.found import Found, joined
from sightline.platform.data.prepare.job import STAGING, Output, item_shards, run_job
from sightline.platform.data.prepare.merge import merged
from sightline.platform.data.prepare.pair_sources import crops, frames, habitat, rgbd
from sightline.platform.data.prepare.pairs import Pair
from sightline.platform.data.prepare.split import parse_split, split_scenes, split_time, time_blocks
from sightline.platform.data.prepare.workers import Where
from sightline.platform.data.schema import decode_row

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data"


def _image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def _prepare(found: Found[Pair], out: Path, **options: Any) -> Dataset:
    output = Output(str(out), item_shards(found.items, Resize(options.pop("size", None), options.pop("square", False)), 0), (found.source,))
    run_job([output], "pairs", local=True, **options)
    return Dataset.open(out, "pairs")


# Sources -----------------------------------------------------------------------------------------------------------------------------


def _habitat(folder: Path, pairs: int = 6) -> None:
    for i in range(pairs):
        for view in (1, 2):
            _image(folder / f"hm3d/val/room{i % 3}/{i:08d}_{view}.jpeg", seed=2 * i + view)


def test_habitat_is_read_by_its_list(tmp_path: Path) -> None:
    _habitat(tmp_path / "in")
    lines = [f"hm3d/val/room{i % 3}/{i:08d}_1.jpeg hm3d/val/room{i % 3}/{i:08d}_2.jpeg" for i in range(4)]
    (tmp_path / "in/pairs.txt").write_text("\n".join([*lines, "only-one.jpeg", "../../etc/passwd hm3d/x.jpeg"]))
    found = habitat.Habitat().find(str(tmp_path / "in"), "habitat")
    assert len(found.items) == 4
    assert [why for _, why in found.skips] == ["a line is not two paths", "a path leaves the folder"]
    dataset = _prepare(found, tmp_path / "out")
    assert set(dataset.manifest.scenes) == {f"habitat/hm3d/val/room{i}" for i in range(3)}
    stored = {row["id"]: row for table in dataset.scan() for row in table.to_pylist()}
    original = (tmp_path / "in/hm3d/val/room1/00000001_2.jpeg").read_bytes()
    assert stored["habitat/hm3d/val/room1/00000001"]["image2"] == original, "an image that need not shrink keeps its bytes"


def test_habitat_without_its_list_is_walked_also_under_a_folder_named_val(tmp_path: Path) -> None:
    _habitat(tmp_path / "val/in")
    (tmp_path / "val/in/hm3d/val/room0/00000003_2.jpeg").unlink()
    found = habitat.Habitat().find(str(tmp_path / "val/in"), "habitat")
    assert len(found.items) == 5
    assert found.skips == [("hm3d/val/room0/00000003_1.jpeg", "the other image of the pair (_2.jpeg) is missing")]


def test_crops_are_read_by_their_listing(tmp_path: Path) -> None:
    for stem in ("0/0", "0/1", "1/2"):
        for view in (1, 2):
            _image(tmp_path / f"in/{stem}_{view}.jpg")
    (tmp_path / "in/listing.txt").write_text("# pair_path\n0/0\n0/1\n1/2\n")
    dataset = _prepare(crops.Crops().find(str(tmp_path / "in"), "arkit"), tmp_path / "out")
    assert sorted(dataset.sample_ids()) == ["arkit/0/0", "arkit/0/1", "arkit/1/2"]
    with pytest.raises(CallError, match=r"no listing\.txt"):
        crops.Crops().find(str(tmp_path), "arkit")


def test_frames_pair_up_in_natural_order_at_every_gap(tmp_path: Path) -> None:
    for i in (1, 2, 3, 10, 11):
        _image(tmp_path / f"in/frame{i}.jpg", seed=i)
    found = frames.Frames(gap=(1, 3)).find(str(tmp_path / "in"), "walk")
    gaps = {frozenset(pair.id.removeprefix("walk/").split("-")) for pair in found.items}
    expected = [("1", "2"), ("2", "3"), ("3", "10"), ("10", "11"), ("1", "10"), ("2", "11")]
    assert gaps == {frozenset((f"frame{a}", f"frame{b}")) for a, b in expected}
    assert {abs(pair.frame1 - pair.frame2) for pair in found.items} == {1, 3}


def test_every_folder_of_frames_is_a_scene_of_its_own(tmp_path: Path) -> None:
    for scene in ("a", "b"):
        for i in range(3):
            _image(tmp_path / f"in/{scene}/{i}.png")
    assert {pair.scene for pair in frames.Frames().find(str(tmp_path / "in"), "x").items} == {"x/a", "x/b"}


def test_a_folder_without_images_and_a_missing_one_are_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="holds no images"):
        frames.Frames().find(str(tmp_path), "x")
    with pytest.raises(CallError, match="there is no folder"):
        frames.Frames().find(str(tmp_path / "nowhere"), "x")
    _image(tmp_path / "one/only.jpg")
    with pytest.raises(CallError, match=r"no pairs were found .*1 frames has no two frames 1 apart"):
        joined([frames.Frames().find(str(tmp_path / "one"), "x")], "pairs", "pairs")


def _rgbd(folder: Path, count: int = 12, step: float = 0.12) -> None:
    """A camera that slides along a wall 2 m away."""
    K, entries = intrinsics(48, 64, 60), []
    for i in range(count):
        _image(folder / f"color/{i:03d}.jpg", seed=i, size=(48, 64))
        (folder / "depth").mkdir(exist_ok=True)
        (folder / f"depth/{i:03d}.png").write_bytes(encode_depth(np.full((48, 64), 2.0)))
        pose = np.eye(4)
        pose[0, 3] = i * step
        entry = {"file": f"color/{i:03d}.jpg", "depth": f"depth/{i:03d}.png", "time_s": i / 10, "K": K.tolist()}
        entries.append({**entry, "cam_to_world": pose.tolist()})
    (folder / "cameras.json").write_text(json.dumps({"unit": "metre", "frames": entries}))


def test_rgbd_pairs_have_the_overlap_that_geometry_gives_them(tmp_path: Path) -> None:
    _rgbd(tmp_path / "in")
    found = rgbd.Rgbd().find(str(tmp_path / "in"), "wall")
    assert len(found.items) > 12
    width = 2 * 2.0 * np.tan(np.radians(30))  # metres of wall in a view
    for pair in found.items:
        assert pair.overlap == pytest.approx(1 - abs(pair.frame1 - pair.frame2) * 0.12 / width, abs=0.03)
        assert pair.T_2from1 is not None and pair.T_2from1[3] == pytest.approx((pair.frame1 - pair.frame2) * 0.12)


def test_a_resize_takes_intrinsics_and_depth_along(tmp_path: Path) -> None:
    _rgbd(tmp_path / "in")
    dataset = _prepare(rgbd.Rgbd().find(str(tmp_path / "in"), "wall"), tmp_path / "out", size=36)
    sample = decode_row(dataset.read(0, 0, [0]).to_pylist()[0], "pairs", depth=True)
    assert sample["image1"].shape == (36, 48, 3) and sample["depth2"].shape == (36, 48)
    np.testing.assert_allclose(sample["K1"], intrinsics(36, 48, 60), atol=1e-9)
    np.testing.assert_allclose(sample["depth1"], 2.0)


def test_a_square_cut_takes_intrinsics_and_depth_along(tmp_path: Path) -> None:
    _rgbd(tmp_path / "in")
    dataset = _prepare(rgbd.Rgbd().find(str(tmp_path / "in"), "wall"), tmp_path / "out", size=36, square=True)
    sample = decode_row(dataset.read(0, 0, [0]).to_pylist()[0], "pairs", depth=True)
    assert sample["image1"].shape == (36, 36, 3) and sample["depth2"].shape == (36, 36)
    focal = 0.75 * intrinsics(48, 64, 60)[0, 0]
    np.testing.assert_allclose(sample["K1"], [[focal, 0, 17.5], [0, focal, 17.5], [0, 0, 1]], atol=1e-9)


def test_rgbd_names_frames_whose_depth_is_broken(tmp_path: Path) -> None:
    _rgbd(tmp_path / "in")
    (tmp_path / "in/depth/003.png").write_bytes(b"nothing")
    found = rgbd.Rgbd().find(str(tmp_path / "in"), "wall")
    assert found.skips == [("depth/003.png", "depth of a frame: not a readable depth map (16-bit PNG, TIFF, .npy, .pfm)")]
    assert not any("003" in pair.id for pair in found.items)
    (tmp_path / "in/cameras.json").write_text('{"frames": [{"file": "../x.jpg"}]}')
    with pytest.raises(CallError, match="a path leaves the folder"):
        rgbd.Rgbd().find(str(tmp_path / "in"), "wall")


# The job -----------------------------------------------------------------------------------------------------------------------------


def _many(folder: Path, count: int = 41) -> Found[Pair]:
    for i in range(count):
        _image(folder / f"{i}.jpg", seed=i)
    return frames.Frames().find(str(folder), "walk")


def test_broken_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
    found = _many(tmp_path / "in")
    (tmp_path / "in/7.jpg").write_bytes(b"not an image")
    (tmp_path / "in/20.jpg").write_bytes((tmp_path / "in/20.jpg").read_bytes()[:-200])
    _image(tmp_path / "in/30.jpg", size=(20, 60))
    (tmp_path / "in/40.jpg").unlink()
    with pytest.raises(SightlineError, match="7 of 40 rows had to be skipped") as caught:
        _prepare(found, tmp_path / "out")
    assert "--max-skipped" in caught.value.hint
    dataset = _prepare(found, tmp_path / "out", max_skipped=0.5)
    assert dataset.rows == 33
    reasons = {item.reason: item.count for item in dataset.manifest.provenance.skipped}
    assert reasons == {
        "not a readable image": 2,
        "damaged JPEG image": 2,
        "tiny image (a side under 32 px)": 2,
        "file is missing": 1,
    }


def test_the_rows_are_shuffled_by_the_seed_and_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    found = _many(tmp_path / "in")
    one = _prepare(found, tmp_path / "one", workers=1)
    two = _prepare(found, tmp_path / "two", workers=3)
    assert one.fingerprint == two.fingerprint
    assert one.sample_ids() != sorted(one.sample_ids())


@dataclass(frozen=True)
class _Rows:
    """A shard that can be told to fail."""

    name: str
    fail: str

    count = 3

    def rows(self, skip: object) -> Iterator[dict[str, Any]]:
        if Path(self.fail).exists() and self.name == "1":
            if Path(self.fail).read_text() == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        Path(f"{self.fail}.made-{self.name}").touch()
        picture = encode_image(np.zeros((32, 32, 3), np.uint8))
        for i in range(3):
            yield {"id": f"{self.name}/{i}", "image1": picture, "image2": picture}


def test_a_stopped_job_goes_on_where_it_was(tmp_path: Path) -> None:
    flag = tmp_path / "fail"
    flag.touch()
    output = Output(str(tmp_path / "out"), [_Rows("0", str(flag)), _Rows("1", str(flag)), _Rows("2", str(flag))], ())
    with pytest.raises(KeyboardInterrupt):
        run_job([output], "pairs", workers=1, local=True)
    with pytest.raises(CallError, match="no manifest"):
        Dataset.open(tmp_path / "out")
    flag.unlink()
    before = (tmp_path / "out/pairs-00000.parquet").stat().st_mtime_ns
    with pytest.raises(CallError, match="beginning of another preparation"):
        run_job([Output(output.folder, output.shards[:2], ())], "pairs", local=True)
    time.sleep(0.01)
    steps: list[tuple[int, int]] = []
    run_job([output], "pairs", workers=1, local=True, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(3, 9), (6, 9), (9, 9)], "the first shard was not made again"
    assert (tmp_path / "out/pairs-00000.parquet").stat().st_mtime_ns == before
    assert Dataset.open(tmp_path / "out").sample_ids() == [f"{s}/{i}" for s in range(3) for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", *(f"pairs-0000{i}.parquet" for i in range(3))]


def test_a_shard_that_was_damaged_meanwhile_is_made_again(tmp_path: Path) -> None:
    flag = tmp_path / "fail"
    flag.touch()
    output = Output(str(tmp_path / "out"), [_Rows("0", str(flag)), _Rows("1", str(flag))], ())
    with pytest.raises(KeyboardInterrupt):
        run_job([output], "pairs", workers=1, local=True)
    flag.unlink()
    (tmp_path / "out/pairs-00000.parquet").write_bytes(b"")
    run_job([output], "pairs", workers=1, local=True)
    Dataset.open(tmp_path / "out").verify()


def test_one_process_at_a_time_prepares_a_folder(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"), [_Rows("0", str(tmp_path / "no"))], ())
    with exclusive_lock(tmp_path / "out" / STAGING / "lock", "another"):
        for overwrite in (False, True):
            with pytest.raises(SightlineError, match=rf"out is being prepared by process {os.getpid()} on "):
                run_job([output], "pairs", local=True, overwrite=overwrite)
    run_job([output], "pairs", local=True)
    assert not (tmp_path / "out" / STAGING).exists()


def test_a_finished_data_set_is_kept_unless_told(tmp_path: Path) -> None:
    found = _many(tmp_path / "in", 5)
    first = _prepare(found, tmp_path / "out")
    with pytest.raises(CallError, match="finished data set"):
        _prepare(found, tmp_path / "out")
    assert _prepare(found, tmp_path / "out", overwrite=True).fingerprint == first.fingerprint


@pytest.mark.parametrize("moment", range(1, 7))
def test_a_kill_at_the_end_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Between the manifests of two data sets, and while what was kept for a continuation is deleted."""

    class Killed(BaseException):
        pass

    outputs = [Output(str(tmp_path / name), [_Rows(name, str(tmp_path / "no"))], ()) for name in ("train", "val")]
    steps = 0

    def killed_before(function: Any) -> Any:
        def step(*args: Any, **words: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == moment:
                raise Killed
            return function(*args, **words)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(job, "write_manifest", killed_before(job.write_manifest))
        patched.setattr(job, "_delete", killed_before(job._delete))
        with pytest.raises(Killed):
            run_job(outputs, "pairs", local=True)
    made = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*/*.parquet"))]
    if moment < 5:
        run_job(outputs, "pairs", local=True)
    with pytest.raises(CallError, match="finished data set"):
        run_job(outputs, "pairs", local=True)
    if moment >= 5:  # no plan is left: both data sets are whole, and what is left goes with each command that is refused
        with pytest.raises(CallError, match="finished data set"):
            run_job(outputs[1:], "pairs", local=True)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*/*.parquet"))] == made, "shards are not made again"
    assert all(Dataset.open(output.folder).rows == 3 for output in outputs) and not list(tmp_path.glob("*/.staging"))


def test_one_data_set_of_another_command_is_not_taken_for_the_end_of_this_one(tmp_path: Path) -> None:
    flag = tmp_path / "fail"
    flag.touch()
    mine = Output(str(tmp_path / "train"), [_Rows("0", str(flag)), _Rows("1", str(flag))], ())
    with pytest.raises(KeyboardInterrupt):
        run_job([mine], "pairs", workers=1, local=True)
    flag.unlink()
    other = Output(str(tmp_path / "val"), [_Rows("2", str(flag))], ())
    run_job([other], "pairs", local=True)
    with pytest.raises(CallError, match="finished data set"):
        run_job([mine, Output(other.folder, [_Rows("3", str(flag))], ())], "pairs", local=True)
    assert Dataset.open(other.folder).sample_ids() == [f"2/{i}" for i in range(3)]


@pytest.mark.slow
def test_many_rows_are_made_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.platform.data.prepare.job.FEW_ROWS", 0)
    flag = tmp_path / "fail"
    output = Output(str(tmp_path / "out"), [_Rows(str(i), str(flag)) for i in range(4)], ())
    flag.write_text("die")
    with pytest.raises(MachineError, match="a process of the preparation was killed"):
        run_job([output], "pairs", workers=2)
    flag.write_text("interrupt")
    with pytest.raises(KeyboardInterrupt):
        run_job([output], "pairs", workers=2)
    flag.unlink()
    run_job([output], "pairs", workers=2)
    run_job([Output(str(tmp_path / "alone"), output.shards, ())], "pairs", workers=1)
    assert Dataset.open(tmp_path / "out").fingerprint == Dataset.open(tmp_path / "alone").fingerprint
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_on_a_cluster_shards_are_made_and_photos_compared_as_ray_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr("sightline.platform.data.prepare.workers.names_cluster", lambda: True)
    for module in ("job", "workers"):
        monkeypatch.setattr(f"sightline.platform.data.prepare.{module}.check_ray", lambda: None)
    start_ray()
    try:
        _shards_on_ray(tmp_path, monkeypatch)
        photos = [tmp_path / f"photo{at}.png" for at in range(3)]
        rough = np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8)
        wide = Image.fromarray(rough).resize((360, 180), Image.Resampling.BICUBIC)
        for at, photo in enumerate(photos):
            wide.crop((60 * at, 0, 60 * at + 160, 160)).save(photo)
        there, here = (compare(photos, tmp_path / str(local), False, Where(2, local)).geometries for local in (False, True))
        assert set(there) == set(here) == {(0, 1), (0, 2), (1, 2)}
        assert all(np.array_equal(there[two].matches, here[two].matches) for two in here)
    finally:
        ray.shutdown()


def _shards_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.platform.data.prepare.job.SHARD_BYTES", 1)
    found = _many(tmp_path / "in", 140)
    output = Output(str(tmp_path / "out"), item_shards(found.items, Resize(32), 0), ())
    run_job([output], "pairs", workers=2)
    remote = Dataset.open(tmp_path / "out")
    run_job([Output(str(tmp_path / "local"), output.shards, ())], "pairs", local=True)
    assert remote.rows == 139 and len(remote.manifest.shards) == 3
    assert remote.fingerprint == Dataset.open(tmp_path / "local").fingerprint


# Merging and splitting ---------------------------------------------------------------------------------------------------------------


def test_merging_keeps_every_row_and_refuses_a_scene_twice(tmp_path: Path) -> None:
    one = _prepare(_many(tmp_path / "in", 5), tmp_path / "one")
    for i in range(4):
        _image(tmp_path / f"other/{i}.jpg", seed=50 + i)
    two = _prepare(frames.Frames().find(str(tmp_path / "other"), "other"), tmp_path / "two")
    run_job([Output(str(tmp_path / "both"), merged([one, two], 0), ())], "pairs", local=True)
    both = Dataset.open(tmp_path / "both")
    assert sorted(both.sample_ids()) == sorted(one.sample_ids() + two.sample_ids())
    assert both.manifest.scenes == {"other": 3, "walk": 4}
    with pytest.raises(CallError, match="'walk' is both in"):
        merged([one, one], 0)


@pytest.mark.parametrize("text", ["train", "train=1", "train=0.5,val=0.6", "train=x,val=0.1", "a/b=0.5,c=0.5", "train=-0.5,val=1.5"])
def test_a_split_that_makes_no_sense_is_a_wrong_call(text: str) -> None:
    with pytest.raises(CallError, match="--split"):
        parse_split(text)


def test_a_split_by_scene_gives_every_split_a_scene() -> None:
    shares = parse_split("train=0.85,val=0.15")
    scenes = [f"s{i}" for i in range(20)]
    assigned = split_scenes(scenes, shares, seed=0)
    assert sorted(assigned) == sorted(scenes) and list(assigned.values()).count("val") == 3
    assert sorted(split_scenes(["a", "b"], shares, 0).values()) == ["train", "val"]
    assert assigned != split_scenes(scenes, shares, seed=1)
    with pytest.raises(CallError, match="cannot be split 2 ways") as caught:
        split_scenes(["a"], shares, 0)
    assert "--split-by time-blocks" in caught.value.hint


@pytest.mark.parametrize("frames_count", [20, 50, 99, 250, 1000])
@pytest.mark.parametrize("gap", [1, 3])
def test_no_frame_of_val_is_near_a_frame_of_train(frames_count: int, gap: int) -> None:
    labels = time_blocks(frames_count, {"train": 0.8, "val": 0.2}, gap)
    at = {name: np.array([i for i, label in enumerate(labels) if label == name]) for name in ("train", "val")}
    assert len(labels) == frames_count
    assert np.abs(at["train"][:, None] - at["val"]).min() > gap
    assert len(at["val"]) == pytest.approx(0.2 * frames_count, abs=3), "the gap is taken from train"


def test_pairs_across_the_gap_belong_to_no_split(tmp_path: Path) -> None:
    found = _many(tmp_path / "in", 50)
    split, dropped, notes = split_time(found.items, {"train": 0.8, "val": 0.2}, 2)
    used = {name: {i for pair in pairs for i in (pair.frame1, pair.frame2)} for name, pairs in split.items()}
    assert min(used["val"]) - max(used["train"]) == 3
    assert dropped == 49 - len(split["train"]) - len(split["val"]) == 3
    assert notes == ["walk: split by time blocks, 2 frames between: train 0-37, val 40-49"]


def test_a_split_that_would_be_empty_is_a_wrong_call(tmp_path: Path) -> None:
    found = frames.Frames(gap=(8,)).find(str(_many(tmp_path / "in", 20).source.where), "walk")
    with pytest.raises(CallError, match="split 'val' has no rows"):
        split_time(found.items, {"train": 0.8, "val": 0.2}, 2)


# Real data ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "kitchen-rgbd").is_dir(), reason="../shared/data/kitchen-rgbd is not here")
def test_the_kitchen_overlaps_as_its_frames_do() -> None:
    pairs = rgbd.Rgbd(pairs_per_frame=1).find(str(DATA / "kitchen-rgbd"), "kitchen").items
    near = [pair.overlap or 0 for pair in pairs if abs(pair.frame1 - pair.frame2) <= 4]
    far = [pair.overlap or 0 for pair in pairs if abs(pair.frame1 - pair.frame2) >= 12]
    assert len(pairs) > 150 and np.mean(near) > np.mean(far) + 0.1


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "kitti-seq").is_dir(), reason="../shared/data/kitti-seq is not here")
def test_grey_frames_with_cameras_become_pairs(tmp_path: Path) -> None:
    dataset = _prepare(frames.Frames().find(str(DATA / "kitti-seq"), "kitti"), tmp_path / "out", size=64)
    sample = decode_row(dataset.read(0, 0, [0]).to_pylist()[0], "pairs")
    assert dataset.rows == 50 and sample["image1"].shape[0] == 64 and sample["image1"].shape[2] == 3
    assert 0.1 < np.linalg.norm(sample["T_2from1"][:3, 3]) < 3, "the car drives on"
