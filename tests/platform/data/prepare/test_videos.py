"""Videos written by PyAV: which frames are taken, cuts, times, turns, depth of colour, and what is damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import CallError
from sightline.platform.data.prepare.formats.video import decoded, rgb
from sightline.platform.data.prepare.image_sources.frames import ImageFrames
from sightline.platform.data.prepare.pair_sources.frames import Frames

SIZE = 96, 128


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))


def textured(seed: int) -> np.ndarray:
    """A wide picture to pan over."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 56, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((448, 128), Image.Resampling.BICUBIC))


def panned(seed: int, steps: Sequence[int]) -> list[np.ndarray]:
    picture = textured(seed)
    return [np.ascontiguousarray(picture[: SIZE[0], at : at + SIZE[1]]) for at in steps]


def written(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "mpeg4",
    form: str = "yuv420p",
    turn: int = 0,
    stamps: Sequence[int] = (),
    **colour: int,
) -> Path:
    with av.open(str(path), "w") as container:
        if path.suffix == ".mov":
            container.add_stream("aac", rate=8000)  # as phones have it: sound first, here without a sample
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = form
        stream.codec_context.time_base = Fraction(1, 30)
        if codec == "mpeg4":
            stream.options = {"qscale": "3", "flags": "qscale"}
        for name, value in colour.items():
            setattr(stream.codec_context, name, value)
        if turn:
            stream.set_display_rotation(turn)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=form)
            frame.pts, frame.time_base = (stamps[number] if stamps else number), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_go_by_motion_and_time_and_no_pair_crosses_a_cut(tmp_path: Path) -> None:
    still = [40] * 12
    frames = panned(1, [*range(0, 40, 2), *still]) + panned(2, range(0, 60, 3))
    stamps = [number + 5 * (number > 25) for number in range(len(frames))]
    video = written(tmp_path / "walk.mov", frames, stamps=stamps)
    found = Frames(gap=(1, 2)).find(str(video), "walk")
    assert {item.scene for item in found.items} == {"walk/shot001", "walk/shot002"}
    assert all(Path(item.image1).parent == Path(item.image2).parent for item in found.items)
    numbers = sorted({int(Path(item.image1).stem) for item in found.items} | {int(Path(item.image2).stem) for item in found.items})
    assert 8 <= len(numbers) <= 16 and sum(20 < number < 32 for number in numbers) <= 1  # nothing moves there
    images = ImageFrames().find(str(video), "walk").items
    assert [image.time for image in images] == pytest.approx([stamps[number] / 30 for number in numbers], abs=1e-3)
    assert any("2 shots, no pair across a cut" in note for note in found.notes)


def test_a_fade_belongs_to_no_shot(tmp_path: Path) -> None:
    one, two = (panned(seed, [0])[0].astype(float) for seed in (3, 4))
    fade = [(one + (two - one) * at / 14).astype(np.uint8) for at in range(1, 14)]
    frames = panned(3, range(40, 0, -2)) + fade + panned(4, range(0, 40, 2))
    found = Frames().find(str(written(tmp_path / "fade.mp4", frames)), "x")
    numbers = {int(Path(path).stem) for item in found.items for path in (item.image1, item.image2)}
    assert not numbers & set(range(22, 32)) and {item.scene for item in found.items} == {"x/shot001", "x/shot002"}


def test_frames_are_upright_whatever_the_depth_of_colour(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:48, :64], pixels[:48, 64:], pixels[48:] = (200, 50, 50), (50, 200, 50), (50, 50, 200)
    phone = next(decoded(written(tmp_path / "phone.mov", [pixels] * 2, turn=-90), Counter()))
    assert rgb(phone).shape == (128, 96, 3) and np.abs(rgb(phone)[30, 70].astype(int) - (200, 50, 50)).max() < 12
    deep = next(decoded(written(tmp_path / "deep.mkv", [pixels] * 2, "ffv1", "yuv420p10le"), Counter()))
    assert deep.decoded.format.name == "yuv420p10le" and np.abs(rgb(deep)[20, 30].astype(int) - (200, 50, 50)).max() < 6
    hdr = next(decoded(written(tmp_path / "hdr.mkv", [pixels] * 2, "ffv1", "yuv420p10le", color_trc=18, colorspace=9), Counter()))
    red, green, blue = rgb(hdr)[20, 30].tolist()
    assert hdr.decoded.color_trc == 18 and red > 200 > 80 > max(green, blue)


def test_what_is_no_whole_video_is_named(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.mp4", panned(1, range(0, 60, 2)))
    for lost in (900, 9000):
        (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-lost])
        with pytest.raises(CallError, match=r"cut.mp4: no readable video \(it holds no index"):
            Frames().find(str(tmp_path / "cut.mp4"), "x")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    whole.rename(mixed / "whole.mp4")
    (mixed / "text.mp4").write_text("<html>")
    found = Frames().find(str(mixed), "mixed")
    assert len(found.items) > 3 and [what for what, _ in found.skips] == ["text.mp4 (text.mp4)"]
    with av.open(str(tmp_path / "sound.m4v"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(CallError, match="no video in a file of audio"):
        Frames().find(str(tmp_path / "sound.m4v"), "x")
    with pytest.raises(CallError, match="no video by its name"):
        Frames().find(__file__, "x")


def test_a_video_in_which_nothing_moves_gives_one_frame(tmp_path: Path) -> None:
    video = written(tmp_path / "still.mp4", panned(1, [7] * 20))
    assert len(ImageFrames().find(str(video), "x").items) == 1
    assert [why for _, why in Frames().find(str(video), "x").skips] == ["a sequence of 1 frames has no two frames 1 apart"]
    assert len(ImageFrames(every=5).find(str(video), "x").items) == 4


def test_a_part_of_a_longer_video_is_whole(tmp_path: Path) -> None:
    """Its frames begin at 5 s, and its length, which counts from 0, was taken for an end that is missing."""
    path = written(tmp_path / "a.mkv", panned(1, [20 * step for step in range(8)]), stamps=range(150, 158))
    told = Counter[str]()
    assert [round(frame.time_s, 2) for frame in decoded(path, told)][:2] == [0, 0.03] and not told


def test_damage_in_the_middle_costs_the_frames_there(tmp_path: Path) -> None:
    video = written(tmp_path / "bad.mp4", panned(1, range(0, 120, 2)))
    data = bytearray(video.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\xff" * 3000
    video.write_bytes(data)
    told: Counter[str] = Counter()
    assert 20 < sum(1 for _ in decoded(video, told)) < 60 and sum(told.values()) > 5
