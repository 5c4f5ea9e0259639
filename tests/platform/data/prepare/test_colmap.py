"""Models of COLMAP, as pycolmap writes them: cameras, poses, lenses, and the pairs that are mined from their points."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.images import Resize, decode_image
from sightline.platform.data.lenses import LENSES, Lens
from sightline.platform.data.prepare.captures.cameras import Camera, camera_of, read_cameras
from sightline.platform.data.prepare.captures.readers import colmap_folder
from sightline.platform.data.prepare.files import read_file
from sightline.platform.data.prepare.formats.colmap import MODELS, ONE_FOCAL, read_model
from sightline.platform.data.prepare.known import Frame
from sightline.platform.data.prepare.pair_sources.mine import Mine
from sightline.platform.data.prepare.pair_sources.posed import Posed
from sightline.platform.data.prepare.pair_sources.shared_views import Directions, gathered
from sightline.platform.data.prepare.views import stored_view
from tests.support.made_images import needs

CAPTURES = Path(__file__).resolve().parents[5] / "shared" / "data" / "captures"
PARAMS = {
    "SIMPLE_RADIAL": (0.06,),
    "RADIAL": (-0.1, 0.02),
    "OPENCV": (0.05, -0.02, 0.001, -0.002),
    "FULL_OPENCV": (0.05, -0.02, 0.001, -0.002, 0.01, 0.02, 0.003, 0.001),
    "OPENCV_FISHEYE": (0.02, -0.01, 0.002, 0.001),
    "SIMPLE_RADIAL_FISHEYE": (0.02,),
    "RADIAL_FISHEYE": (0.02, -0.01),
}
FOCAL, SIZE = 150.0, (160, 120)
MATRIX = np.array([[FOCAL, 0, 79.5], [0, FOCAL, 59.5], [0, 0, 1.0]])


def made(folder: Path, text: bool, seed: int = 0) -> pycolmap.Reconstruction:
    """A scene that pycolmap makes, with its photos, which show nothing."""
    pycolmap.set_random_seed(seed)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 2, 1, 3, 40
    options.camera_model_id, options.camera_params = pycolmap.CameraModelId.SIMPLE_RADIAL, [1280.0, 512.0, 384.0, 0.05]
    scene = pycolmap.synthesize_dataset(options)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (scene.write_text if text else scene.write_binary)(str(model))
    for image in scene.images.values():
        path = folder / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1024, 768), (90, 120, 60)).save(path)
    return scene


@pytest.mark.parametrize("text", [False, True])
def test_a_model_of_pycolmap_is_read_as_it_was_written(tmp_path: Path, text: bool) -> None:
    """Points of the model fall where COLMAP saw them: pose, camera matrix and lens together."""
    scene = made(tmp_path, text)
    cameras, model = read_cameras(tmp_path), read_model(tmp_path / "sparse/0", seen=True, points=True)
    where = {image.name: {one.point3D_id: one.xy for one in image.points2D if one.has_point3D()} for image in scene.images.values()}
    assert cameras is not None and cameras.layout == "COLMAP" and len(cameras.frames) == len(model.images) == scene.num_images()
    assert len(model.xyz) == scene.num_points3D()
    frames = {frame.file.removeprefix("images/"): frame for frame in cameras.frames}
    for image in model.images:
        camera = camera_of(frames[image.name], tmp_path, straighten=True)
        assert camera.K is not None and camera.pose is not None and camera.lens is not None
        ids = model.seen[image.name].tolist()
        there = np.linalg.inv(camera.pose) @ np.vstack([model.xyz[[model.points[i] for i in ids]].T, np.ones(len(ids))])
        pinhole = (camera.K @ (there[:3] / there[2]))[:2].T
        assert len(ids) > 5 and set(ids) == set(where[image.name])
        assert np.abs(camera.lens.seen_at(pinhole, camera.K, camera.K) + 0.5 - [where[image.name][i] for i in ids]).max() < 1e-3


def test_all_camera_models_are_known_as_pycolmap_knows_them() -> None:
    theirs = {name: one.value for name, one in pycolmap.CameraModelId.__members__.items() if one.value >= 0}
    assert {name: number for name, (number, _) in MODELS.items()} == theirs
    for name, (_, count) in MODELS.items():
        camera = pycolmap.Camera.create_from_model_name(1, name, 100, 200, 100)
        assert len(camera.params) == count and (camera.params_info.startswith("f, cx, cy") == (name in ONE_FOCAL))


@pytest.mark.parametrize("model", sorted(LENSES))
def test_a_lens_bends_as_pycolmap_bends_it(model: str) -> None:
    focal = (FOCAL,) if model in ONE_FOCAL else (FOCAL, FOCAL)
    camera = pycolmap.Camera(model=model, width=160, height=120, params=[*focal, 80.0, 60.0, *PARAMS.get(model, ())])
    pixels = np.random.default_rng(0).uniform(0, 1, (50, 2)) * SIZE
    rays = np.linalg.solve(MATRIX, np.vstack([pixels.T, np.ones(50)])).T
    assert np.allclose(Lens(model, PARAMS.get(model, ())).seen_at(pixels, MATRIX, MATRIX) + 0.5, camera.img_from_cam(rays), atol=1e-9)


def pattern(xy: np.ndarray) -> np.ndarray:
    return 128 + 60 * np.sin(xy[..., :1] / 9) + 60 * np.cos(xy[..., 1:] / 7) * np.ones(3)


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"])
def test_a_bent_photo_is_straightened(model: str) -> None:
    """A pattern as a pinhole sees it, bent by the lens, and straightened again."""
    lens = Lens(model, PARAMS[model])
    grid = np.stack(np.meshgrid(np.arange(160.0), np.arange(120.0)), -1).reshape(-1, 2)
    straight = grid.copy()
    for _ in range(12):  # which pixel of a pinhole is seen at each pixel of the photo
        straight += grid - lens.seen_at(straight, MATRIX, MATRIX)
    photo = Image.fromarray(pattern(straight).reshape(120, 160, 3).round().astype(np.uint8))
    found, K = lens.straightened(photo, MATRIX)
    rays = np.linalg.solve(K, np.vstack([grid.T, np.ones(len(grid))]))
    expected = pattern((MATRIX @ rays)[:2].T).reshape(120, 160, 3)
    inner = np.abs(np.asarray(found) - expected)[3:-3, 3:-3]
    assert inner.mean() < 1.5 and inner.max() < 10, f"{model}: {inner.mean():.2f}, {inner.max():.0f} of 255"  # a pixel beside is 5


def test_a_lens_without_effect_changes_no_pixel() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
    found, K = Lens("RADIAL", (0.0, 0.0)).straightened(photo, MATRIX)
    assert (np.asarray(found) == np.asarray(photo)).all() and (K == MATRIX).all()


def test_a_lens_that_folds_the_photo_is_refused() -> None:
    with pytest.raises(BrokenSampleError, match="folds a corner"):
        Lens("RADIAL", (-3.0, 0.0)).straightened(Image.new("RGB", SIZE), MATRIX)


def test_damaged_models_are_told_by_file(tmp_path: Path) -> None:
    made(tmp_path, text=False)
    model = colmap_folder(tmp_path)
    assert model is not None
    whole = (model / "images.bin").read_bytes()
    for damaged, told in ((whole[:-9], "images.bin"), (b"\xff" * 8 + whole[8:], "ends before")):
        (model / "images.bin").write_bytes(damaged)
        with pytest.raises(CallError, match=told):
            read_model(model)


def test_text_with_an_image_without_points_and_a_name_with_spaces(tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text("# cameras\n1 PINHOLE 64 48 50 51 32 24\n")
    (tmp_path / "images.txt").write_text("# images\n1 1 0 0 0 0 0 0 1 my photo.jpg\n\n2 1 0 0 0 1 2 3 1 b.jpg\n1.5 2.5 7 3 4 -1\n")
    model = read_model(tmp_path, seen=True)
    one, two = model.images
    assert (one.name, two.name) == ("my photo.jpg", "b.jpg") and [model.seen[one.name].tolist(), model.seen["b.jpg"].tolist()] == [[], [7]]
    assert two.world_to_cam[:3, 3].tolist() == [1, 2, 3]


def looking(*degrees: float) -> Directions:
    found = Directions()
    for number, degree in enumerate(degrees):
        a = np.radians(degree)
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
        found.add(Posed(Frame(file=f"{number}.jpg"), Camera(None, None, pose)))  # type: ignore[arg-type]
    return found


def test_pairs_go_by_the_papers_score_and_none_is_near_to_another() -> None:
    looks = looking(0, 1, 30, 60, 100)
    overlaps = {(one, two): 0.3 for one, two in combinations(range(5), 2)} | {(0, 1): 0.9, (1, 4): 0.02, (0, 4): 0.02}
    chosen, rejected = Mine(pairs_per_frame=8)._choose(gathered(overlaps.items()), 5, looks.cosine)
    taken = {(one, two) for one, two, _ in chosen.each()}
    assert taken == {(0, 2), (0, 3), (2, 3), (2, 4), (3, 4)} or taken == {(0, 3), (1, 2), (2, 3), (2, 4), (3, 4)}
    assert rejected["near to a pair that is taken"] == 2, "of the images 0 and 1 each pair is taken once"
    assert rejected["share less than 0.05"] == 2 and rejected["score less than 0.01"] == 1
    few, _ = Mine(pairs_per_frame=1)._choose(gathered(overlaps.items()), 5, looks.cosine)
    assert max(sum(number in two for two in zip(few.ones, few.twos, strict=True)) for number in range(5)) == 1


@needs("captures")
def test_pairs_are_mined_from_a_real_model() -> None:
    found = Mine().find(str(CAPTURES / "table-colmap-text"), "table")
    assert len(found.items) > 20 and not found.skips
    assert all(0.05 <= (pair.overlap or 0) <= 0.75 for pair in found.items)
    row = found.items[0].row(Resize(256))
    height, width = decode_image(row["image1"]).shape[:2]
    assert (height, width) == (341, 256) and 200 < row["K1"][0] < 400
    assert any("degrees between the views" in note for note in found.notes)


def test_crops_of_bent_photos_have_the_cameras_that_colmap_saw_the_points_with(tmp_path: Path) -> None:
    scene = made(tmp_path, text=False)
    mine = Mine(crops=1, size=128, crop_side=0.9, crop_overlap=0.1, min_overlap=0, min_score=0.0001, max_angle=180, near=1.0)
    (first, *_) = mine.find(str(tmp_path), "scene").items
    assert first.crop1 is not None and first.lens1 is not None and first.K1 is not None
    K = np.reshape(first.K1, (3, 3))
    stored_K = stored_view(read_file(first.image1), mine.resize, K=K, lens=first.lens1, crop=first.crop1).K
    assert stored_K is not None
    image = next(one for one in scene.images.values() if first.image1.endswith(one.name))
    pinhole, seen = first.lens1.pinhole((1024, 768), K), [one for one in image.points2D if one.has_point3D()]
    local = np.array([image.cam_from_world() * scene.points3D[one.point3D_id].xyz for one in seen]).T
    x, y, z = stored_K @ local
    stored = np.stack([x / z, y / z], 1)
    whole = (stored + 0.5) * first.crop1.side / 128 - 0.5 + (first.crop1.left, first.crop1.top)
    assert np.allclose(first.lens1.seen_at(whole, K, pinhole), np.array([one.xy for one in seen]) - 0.5, atol=1e-6)
    assert (first.crop1.holds(whole)).sum() >= 8


def test_photos_of_which_nothing_is_known_to_be_shared_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.platform.data.prepare.captures.unposed.has_sift", lambda: False)
    for name in "01":
        Image.new("RGB", (160, 120)).save(tmp_path / f"{name}.png")
    frames = [{"file": f"{i}.png", "K": MATRIX.tolist(), "cam_to_world": np.eye(4).tolist()} for i in range(2)]
    (tmp_path / "cameras.json").write_text(str({"frames": frames}).replace("'", '"'))
    with pytest.raises(CallError, match="nothing says what two photos"):
        Mine().find(str(tmp_path), "x")
