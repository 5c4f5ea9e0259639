"""`prepare images` with masks: class indices go with their images through every cut, and what does not fit is named."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_images import DATA, needs, prepare, rows_of, write_image, write_mask
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.platform.data.images import Resize, decode_segmentation, is_stored_mask
from sightline.platform.data.manifest import Manifest, parse_manifest
from sightline.platform.data.prepare.found import WHOLE
from sightline.platform.data.prepare.image_sources import masks
from sightline.platform.data.prepare.label_tables import VOC, known_colours
from sightline.platform.data.prepare.labels.palettes import read_palette
from sightline.platform.data.schema import decode_row


def _street(folder: Path, count: int = 4, images: str = "images", masks_: str = "masks") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("0 sky\n1 road\n2 car\n3 nothing\n")
    for i in range(count):
        write_image(folder / f"{images}/{i}.jpg", seed=i)
        indices = np.zeros((40, 60), np.uint8)
        indices[20:], indices[30:, 40:], indices[:5, :5] = 1, 2, 3
        write_mask(folder / f"{masks_}/{i}.png", indices)


def test_masks_go_with_their_images_and_their_pixels_are_counted(tmp_path: Path) -> None:
    _street(tmp_path / "in")
    dataset = prepare(masks.Masks(ignore=3).find(str(tmp_path / "in"), "street"), tmp_path / "out")[WHOLE]
    manifest = dataset.manifest
    assert (manifest.classes, manifest.ignore_index) == (("sky", "road", "car"), 3), "the ignored one is no class"
    assert manifest.pixels == {0: 4 * 1175, 1: 4 * 1000, 2: 4 * 200, 3: 4 * 25}
    sample = decode_row(rows_of(dataset)["street/2.jpg"], "images")
    np.testing.assert_array_equal(sample["segmentation"], decode_segmentation((tmp_path / "in/masks/2.png").read_bytes()))
    assert sample["segmentation"].dtype == np.uint8


def test_a_cut_and_a_resize_take_the_mask_along(tmp_path: Path) -> None:
    """The mask marks the bright half of its image, so the stored two must still agree; an ignored value is not mixed with others."""
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[:, 70:] = 255
    (tmp_path / "in/images").mkdir(parents=True)
    (tmp_path / "in/images/a.png").write_bytes(b"")
    Image.fromarray(picture).save(tmp_path / "in/images/a.png")
    indices = np.where(picture[..., 0] > 0, 1, 0).astype(np.uint16)
    indices[40:] = 500
    write_mask(tmp_path / "in/masks/a.png", indices)
    (tmp_path / "in/classes.txt").write_text("dark\nbright\n")
    dataset = prepare(masks.Masks(ignore=500).find(str(tmp_path / "in"), "x"), tmp_path / "out", Resize(40, square=True))[WHOLE]
    sample = decode_row(dataset.read(0, 0).to_pylist()[0], "images")
    assert sample["image"].shape == (40, 40, 3) and sample["segmentation"].dtype == np.uint16
    np.testing.assert_array_equal(sample["segmentation"][:20], (sample["image"][:20, :, 0] > 127).astype(int))
    assert (sample["segmentation"][20:] == 500).all()


@pytest.mark.parametrize(
    ("images", "masks_", "parts"),
    [
        ("train", "trainannot", {"train", "val"}),
        ("images/train", "masks/train", {"train", "val"}),
        ("train/images", "train/labels", {"train", "val"}),
        ("JPEGImages", "SegmentationClass", {WHOLE}),
    ],
)
def test_the_usual_layouts_of_masks_are_known(tmp_path: Path, images: str, masks_: str, parts: set[str]) -> None:
    _street(tmp_path / "in", 2, images, masks_)
    _street(tmp_path / "in", 2, images.replace("train", "val"), masks_.replace("train", "val"))
    found = masks.Masks().find(str(tmp_path / "in"), "x")
    assert set(found.parts) == parts and all(len(images) == 2 for images in found.parts.values()) and not found.skips


def test_other_layouts_are_named(tmp_path: Path) -> None:
    _street(tmp_path / "in", 2, "rgb/train", "gt/train")
    with pytest.raises(CallError, match=r"no folders of images and masks; looked for: images/\{split\}") as caught:
        masks.Masks().find(str(tmp_path / "in"), "x")
    assert "--images" in caught.value.hint
    found = masks.Masks(images="rgb/{split}", masks="gt/{split}").find(str(tmp_path / "in"), "x")
    assert {part: len(images) for part, images in found.parts.items()} == {"train": 2}
    for wrong in ({"images": "rgb"}, {"images": "../x", "masks": "y"}, {"images": "rgb/{split}", "masks": "gt"}):
        with pytest.raises(CallError, match="--images"):
            masks.Masks(**wrong).find(str(tmp_path / "in"), "x")


def test_masks_need_a_list_of_classes_that_makes_sense(tmp_path: Path) -> None:
    _street(tmp_path / "in")
    names = tmp_path / "names.txt"
    for text, said in (("sky\nsky\n", "names 'sky' twice"), ("sky\n", "names 1 class"), ("\n", "names 0 class")):
        names.write_text(text)
        with pytest.raises(CallError, match=re.escape(said)):
            masks.Masks(classes=str(names)).find(str(tmp_path / "in"), "x")
    names.write_text("sky\nground\n")
    with pytest.raises(CallError, match="a single class beside the ignored one"):
        masks.Masks(classes=str(names), ignore=1).find(str(tmp_path / "in"), "x")
    (tmp_path / "in/classes.txt").unlink()
    with pytest.raises(CallError, match=r"no classes\.txt: masks hold numbers"):
        masks.Masks().find(str(tmp_path / "in"), "x")


def test_masks_that_do_not_fit_are_skipped_with_the_name_and_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    _street(folder, 8)
    write_mask(folder / "masks/0.png", np.zeros((40, 50), np.uint8))
    write_mask(folder / "masks/1.png", np.full((40, 60), 17, np.uint8))
    write_image(folder / "masks/2.png")
    (folder / "masks/3.png").unlink()
    write_mask(folder / "masks/orphan.png", np.zeros((40, 60), np.uint8))
    Image.new("L", (60, 40)).save(folder / "masks/4.jpg")
    (folder / "masks/4.png").unlink()
    found = masks.Masks().find(str(folder), "x")
    assert sorted(found.skips) == [("masks/orphan.png", "a mask has no image"), ("x/3.jpg", "an image has no mask")]
    dataset = prepare(found, tmp_path / "out", max_skipped=0.6)[WHOLE]
    assert dataset.rows == 3
    assert {item.reason: item.examples[0] for item in dataset.manifest.provenance.skipped} == {
        "mask and image differ in size": "x/0.jpg (50 x 40 and 60 x 40, 0.png)",
        "mask holds a class index beyond the list of classes": "x/1.jpg (index 17, 4 classes, 1.png)",
        "mask holds colours, not class indices": "x/2.jpg (PNG of mode RGB; --palette names them, 2.png)",
        "mask is no PNG": "x/4.jpg (JPEG changes the indices, 4.jpg)",
    }


def test_a_palette_mask_is_its_indices(tmp_path: Path) -> None:
    palette = Image.new("P", (60, 40), 2)
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    palette.save(tmp_path / "mask.png")
    assert (decode_segmentation((tmp_path / "mask.png").read_bytes()) == 2).all()


def test_a_job_with_other_classes_is_another_job(tmp_path: Path) -> None:
    _street(tmp_path / "in")
    (tmp_path / "in/masks/0.png").write_bytes(b"broken")
    with pytest.raises(SightlineError, match="1 of 4 rows had to be skipped"):
        prepare(masks.Masks().find(str(tmp_path / "in"), "x"), tmp_path / "out")
    with pytest.raises(CallError, match="beginning of another preparation"):
        prepare(masks.Masks(ignore=3).find(str(tmp_path / "in"), "x"), tmp_path / "out")
    assert prepare(masks.Masks().find(str(tmp_path / "in"), "x"), tmp_path / "out", max_skipped=0.3)[WHOLE].rows == 3


@pytest.mark.slow
@needs("camvid-320")
def test_camvid_has_its_masks_to_the_pixel(tmp_path: Path) -> None:
    sets = prepare(masks.Masks(ignore=11).find(str(DATA / "camvid-320"), "camvid"), tmp_path / "out")
    assert {name: dataset.rows for name, dataset in sets.items()} == {"train": 367, "val": 101}
    manifest = sets["val"].manifest
    assert (len(manifest.classes), manifest.classes[8], manifest.ignore_index) == (11, "Car", 11)
    counts = np.zeros(12, int)
    for name, row in rows_of(sets["val"]).items():
        original = np.asarray(Image.open(DATA / "camvid-320/valannot" / Path(name).with_suffix(".png").name))
        np.testing.assert_array_equal(decode_segmentation(row["segmentation"]), original)
        counts += np.bincount(original.ravel(), minlength=12)
    assert manifest.pixels == dict(enumerate(counts.tolist()))


def test_masks_as_other_tools_save_them(tmp_path: Path) -> None:
    """TIFF, BMP and GIF keep indices; grey is often saved as equal red, green and blue; `x_mask` belongs to `x`."""
    rng = np.random.default_rng(0)
    wanted = {}
    (tmp_path / "masks").mkdir()
    for name, kind in (("a.tif", "TIFF"), ("b.bmp", "BMP"), ("c_mask.gif", "GIF"), ("d_segmentation.png", "PNG")):
        indices = rng.integers(0, 3, (40, 60)).astype(np.uint8)
        image = Image.fromarray(indices)
        (image.convert("RGB") if kind == "PNG" else image).save(tmp_path / "masks" / name, kind)
        write_image(tmp_path / "images" / f"{name[0]}.png", ord(name[0]))
        wanted[f"set/{name[0]}.png"] = indices
    (tmp_path / "classes.txt").write_bytes("\ufeffback\r\nleft\r\nright".encode())
    (dataset,) = prepare(masks.Masks().find(str(tmp_path), "set"), tmp_path / "out").values()
    stored = {name: row["segmentation"] for name, row in rows_of(dataset).items()}
    assert stored.keys() == wanted.keys() and dataset.manifest.classes == ("back", "left", "right")
    for name, data in stored.items():
        assert data.startswith(b"\x89PNG")
        np.testing.assert_array_equal(decode_segmentation(data), wanted[name])


def test_a_class_without_a_pixel_is_told(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / "images" / f"{number}.png", number)
        write_mask(tmp_path / "masks" / f"{number}.png", np.repeat(np.array([[0, 255]], np.uint8), 40, 0).repeat(30, 1))
    (tmp_path / "classes.txt").write_text("bg\nfg")
    (dataset,) = prepare(masks.Masks(ignore=255).find(str(tmp_path), "set"), tmp_path / "out").values()
    (note,) = (note for note in dataset.manifest.provenance.notes if "no mask has" in note)
    assert "fg (index 1)" in note and "255 is ignored" in note
    with pytest.raises(SightlineError, match=r"2 x mask holds a class index beyond .*255 mostly means no class"):
        prepare(masks.Masks().find(str(tmp_path), "set"), tmp_path / "out2", max_skipped=1)


def test_where_every_mask_is_refused_the_reasons_are_told(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / "images" / f"{number}.png", number)
        write_image(tmp_path / "masks" / f"{number}.{('jpg', 'png')[number]}", number)
    (tmp_path / "classes.txt").write_text("bg\nfg")
    with pytest.raises(SightlineError, match=r"every row was skipped: 1 x mask .*; 1 x mask "):
        prepare(masks.Masks().find(str(tmp_path), "set"), tmp_path / "out", max_skipped=1)


def _grey_png(indices: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, as tools that make files smaller write it; Pillow writes none."""
    each = 8 // bits
    packed = sum(indices[:, place::each].astype(np.uint8) << (8 - bits * (place + 1)) for place in range(each))
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    head = struct.pack(">IIBBBBB", *indices.shape[::-1], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _grey_tiff(indices: np.ndarray, bits: int, photometric: int) -> bytes:
    """A grey TIFF of one strip. `photometric` 0: 0 is white."""
    each = 8 // bits
    packed = sum(indices[:, place::each].astype(np.uint8) << (8 - bits * (place + 1)) for place in range(each)).tobytes()
    height, width = indices.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_grey_of_few_bits_keeps_its_indices() -> None:
    """Pillow stretches such grey: index 3 of 4 bits was read as 51, a class of its own in a long list."""
    indices = np.arange(8 * 16).reshape(8, 16) % 4
    pgm = "P5\n# made by hand\n16 8\n{}\n"
    files = {
        **{f"PNG of {bits} bits": _grey_png(indices, bits) for bits in (2, 4)},
        **{f"PGM up to {top}": pgm.format(top).encode() + indices.astype(np.uint8).tobytes() for top in (3, 10, 255)},
        **{f"PGM up to {top}": pgm.format(top).encode() + indices.astype(">u2").tobytes() for top in (1000, 65535)},
        "PGM in text": f"P2\n16 8 10\n{' '.join(map(str, indices.ravel()))}\n".encode(),
        **{f"TIFF of {bits} bits": _grey_tiff(indices, bits, 1) for bits in (2, 4, 8)},
    }
    for name, data in files.items():
        np.testing.assert_array_equal(decode_segmentation(data), indices, err_msg=name)
    alpha = io.BytesIO()
    Image.merge("LA", [Image.fromarray(indices.astype(np.uint8)), Image.new("L", (16, 8), 255)]).save(alpha, "PNG")
    np.testing.assert_array_equal(decode_segmentation(alpha.getvalue()), indices)
    assert not is_stored_mask(files["PNG of 4 bits"]), "stored with 8 bits, which every reader takes for the same"
    np.testing.assert_array_equal(decode_segmentation(_grey_png(indices % 2, 1)), indices % 2)
    with pytest.raises(BrokenSampleError, match="mask is a TIFF whose 0 is white"):
        decode_segmentation(_grey_tiff(indices, 8, 0))


def test_colours_of_the_source_go_with_its_classes_and_change_no_fingerprint(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "masks").mkdir(parents=True)
    (folder / "class_dict.csv").write_text("name,r,g,b\nsky,10,20,30\nvoid,0,0,0\nroad,200,100,0\n")
    write_image(folder / "images/0.jpg")
    mask = np.full((40, 60, 3), (10, 20, 30), np.uint8)
    mask[20:], mask[:5, :5] = (200, 100, 0), 0
    Image.fromarray(mask).save(folder / "masks/0.png")
    manifest = prepare(masks.Masks().find(str(folder), "street"), tmp_path / "out")[WHOLE].manifest
    assert (manifest.classes, manifest.palette) == (("sky", "road"), ((10, 20, 30), (200, 100, 0)))
    stored = manifest.model_dump(mode="json")
    assert parse_manifest(json.dumps({**stored, "palette": []}).encode(), "here").fingerprint == manifest.fingerprint
    with pytest.raises(ValueError, match="1 colours for 2 classes"):
        Manifest.model_validate({**stored, "palette": [[1, 2, 3]]})


def test_the_colours_of_well_known_classes_are_found_by_their_names() -> None:
    cityscapes, _ = read_palette("cityscapes", None)
    assert cityscapes.palette[cityscapes.names.index("person")] == (220, 20, 60)
    assert known_colours(VOC)[15] == (192, 128, 128)  # person, in the colours of VOC's development kit
    assert known_colours(("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"))[
        3
    ] == (128, 64, 128)
    ade = known_colours(("wall", *(f"class {i}" for i in range(148)), "flag"))
    assert len(ade) == 150 and ade[0] == (120, 120, 120) and ade[149] == (92, 0, 255)
    assert known_colours(("sky", "road")) == ()
