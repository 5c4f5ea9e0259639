"""The protocols of others beside independent implementations: DINO's k-NN, DINOv2's linear probe, Hummingbird."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from toy_probes import SIDE, PatchColour, probe, rows_by_name

from sightline.methods.ops.crops import resized_centre
from sightline.methods.random import keyed_rng
from sightline.platform.config.schema import ProbeConfig
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image, encode_segmentation
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.probes import hummingbird
from sightline.platform.evaluation.probes.catalog import find_probe, ranked
from sightline.platform.evaluation.probes.hummingbird import HummingbirdProtocol, attend, augmented, sample_patches, squashed
from sightline.platform.evaluation.probes.image_frames import Frame
from sightline.platform.evaluation.probes.protocol import protocol_hash
from sightline.platform.evaluation.probes.published_knn import vote
from sightline.platform.evaluation.probes.published_linear import PublishedLinearProtocol, fit

NAMES = ("knn_dino", "linear_dinov2", "hummingbird")
HASHES = {"knn_dino": "f80edd317d77", "linear_dinov2": "78a5ff27605d", "hummingbird": "0f71ee8501cd"}


def clusters(count: int, seed: int, width: int = 16, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    return (np.random.default_rng(7).normal(size=(classes, width))[labels] + rng.normal(0, 1.5, (count, width))).astype(np.float32), labels


@pytest.mark.parametrize("block", [2**26, 700])
def test_the_votes_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("sightline.platform.evaluation.probes.published_knn.VALUES", block)
    train, labels = clusters(230, 0)
    test, _ = clusters(60, 1)
    ours = vote(torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(test), (20, 10, 100, 200), 0.07)
    for k, found in zip((20, 10, 100, 200), ours, strict=True):
        judge = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07))
        assert found.tolist() == judge.fit(train.astype(np.float64), labels).predict(test.astype(np.float64)).tolist()
    assert len({tuple(found.tolist()) for found in ours}) > 1


def test_more_neighbours_than_images_are_all_of_them() -> None:
    train, labels = clusters(12, 0)
    few, many = vote(torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(train), (12, 200), 0.07)
    assert few.tolist() == many.tolist()


def test_the_linear_heads_learn_and_the_grid_holds_slow_and_fast_rates() -> None:
    train, labels = clusters(400, 0)
    test, truth = clusters(300, 1)
    protocol = PublishedLinearProtocol(least_steps=60, batch=128)
    heads = fit(torch.from_numpy(train), torch.from_numpy(labels), 5, protocol)
    right = (heads(torch.from_numpy(test)) == torch.from_numpy(truth)).double().mean(dim=1)
    assert right[0] < 0.6 < 0.7 < right.max()


def test_steps_of_the_heads_are_those_of_autograd() -> None:
    train, labels = clusters(64, 0)
    x, y = torch.from_numpy(train).double(), torch.from_numpy(labels)
    heads = fit(x, y, 5, PublishedLinearProtocol(least_steps=3, passes=0, batch=64, rates=(0.1,)))
    start = torch.from_numpy(keyed_rng("linear_dinov2 heads").normal(0, 0.01, (16, 5)))
    weight, bias = start.clone().requires_grad_(), torch.zeros(5, dtype=torch.float64, requires_grad=True)
    moved = [torch.zeros_like(value) for value in (weight, bias)]
    for rate in (0.025, 0.01875, 0.00625):  # a cosine to 0 from 0.1 * 64 / 256
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(x @ weight + bias, y), (weight, bias))
        for value, momentum, gradient in zip((weight, bias), moved, gradients, strict=True):
            momentum.mul_(0.9).add_(gradient)
            value.data.sub_(rate * momentum)
    torch.testing.assert_close(heads.weight[0], weight.detach())
    torch.testing.assert_close(heads.bias[0, 0], bias.detach())


@pytest.mark.parametrize("shape", [(300, 400), (101, 79), (256, 257)])
def test_the_published_crop_is_that_of_torchvision(shape: tuple[int, int]) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    judge = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)])
    assert np.array_equal(resized_centre(image, (224, 224), 0.875), np.asarray(judge(Image.fromarray(image))))


def test_attention_to_neighbours_is_that_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hummingbird, "KEYS", 37)
    monkeypatch.setattr(hummingbird, "QUERIES", 11)
    rng = np.random.default_rng(0)
    keys, queries, labels = rng.normal(size=(150, 8)), rng.normal(size=(40, 8)), rng.dirichlet(np.ones(4), 150)
    found = attend(*(torch.from_numpy(x).float() for x in (queries, keys, labels)), 30, 0.5)
    for row, query in zip(found.numpy(), queries, strict=True):
        near = np.argsort(-(keys @ query))[:30]
        weights = np.exp(keys[near] @ query / 0.5)
        np.testing.assert_allclose(row, weights @ labels[near] / weights.sum(), atol=1e-5)


def test_patches_of_rare_classes_come_first_into_a_full_memory() -> None:
    """By the rule written out, patch by patch."""
    rng = np.random.default_rng(0)
    cells = rng.choice([0, 0, 0, 1, 2, 3], size=(60, 2))
    cells[50:] = 3  # no label
    draws = np.random.default_rng(5).random(60)
    scores = {}
    for place, patch in enumerate(cells[:50]):
        classes = {index for index in patch.tolist() if index < 3}
        if classes:
            scores[place] = draws[place] * sum(sum(index in other for other in cells.tolist()) for index in classes)
    chosen, shares = sample_patches(cells, 3, 10, np.random.default_rng(5))
    assert chosen.tolist() == sorted(sorted(scores, key=lambda place: scores[place])[:10]) and shares.shape == (10, 3)
    assert len(sample_patches(cells, 3, 500, np.random.default_rng(5))[0]) == len(scores)


def halves(place: Path, rows: int) -> Dataset:
    """Images of two colours, left and right, whose masks say which."""
    rng = keyed_rng("halves", place.name)
    with ShardWriter(place, "images", classes=["dark", "light"], ignore_index=255) as writer:
        for index in range(rows):
            cut = 16 * int(rng.integers(1, SIDE // 16))
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, cut:] = 1
            image = np.where(mask[..., None] == 1, 180, 60) + rng.normal(0, 10, (SIDE, SIDE, 3))
            mask[0] = 255
            row = {
                "id": f"{place.name}{index}",
                "scene": f"{place.name}{index}",
                "image": encode_image(image.clip(0, 255).astype(np.uint8)),
            }
            writer.write(row | {"segmentation": encode_segmentation(mask)})
    return Dataset.open(place)


def test_hummingbird_finds_what_the_patches_show_and_stands_beside_the_majority(tmp_path: Path) -> None:
    result = probe("hummingbird", PatchColour(), halves(tmp_path / "train", 12), halves(tmp_path / "test", 4))
    rows = rows_by_name(result)
    assert "may be held against mIoU of open-hummingbird-eval" in result["covers"]
    found = {name: row["metrics"]["miou"]["value"] for name, row in rows.items()}
    assert found["trained"] > 0.9 and found["always the most frequent class"] < 0.5
    assert found["raw pixels"] < 0.5  # greys of one direction: cosine cannot tell them apart


def test_labels_follow_their_pixels_into_every_draw_and_tests_see_whole_images() -> None:
    """Left dark and red, right light and green: the label says which, and the colours of a patch must agree with it."""
    image, mask = np.zeros((60, 100, 3), np.uint8), np.zeros((60, 100), np.uint8)
    image[:, :40], image[:, 40:], mask[:, 40:] = (60, 20, 20), (90, 220, 90), 1
    frame = Frame(0, "image", "segmentation", "a", "", float("nan"), b"digest")
    cuts, colours = set(), set()
    for turn in range(30):
        seen, labels = augmented(HummingbirdProtocol(), turn, (48, 48), frame, image, mask)
        assert seen.shape == (48, 48, 3) and labels.shape == (48, 48)
        light = seen.mean(axis=2) > 90
        assert (light == labels).mean() > 0.95, turn
        cuts.add(int((labels == 0).sum()))
        colours.add(tuple(seen[labels == 1].mean(axis=0).round().tolist()))
    assert len(cuts) > 10 and len(colours) > 15
    again = augmented(HummingbirdProtocol(), 3, (48, 48), frame, image, mask)
    assert all(np.array_equal(a, b) for a, b in zip(again, augmented(HummingbirdProtocol(), 3, (48, 48), frame, image, mask), strict=True))
    whole, labels = squashed(image, mask, (48, 48))
    assert (labels == 0).mean() == pytest.approx(0.4, abs=0.02) and whole[24, 5, 0] == 60 and whole[24, 40, 1] == 220


def test_the_published_probes_are_measured_only_where_they_are_named() -> None:
    names = [spec.name for spec in ranked()]
    assert not set(NAMES) & {*names, *ProbeConfig().names} and "knn" in names
    assert ProbeConfig(names=NAMES).names == NAMES
    text = (Path(__file__).resolve().parents[4] / "docs" / "probes.md").read_text()
    for name, digest in HASHES.items():
        spec = find_probe(name)
        assert "arXiv" in spec.protocol.model_dump()["published"] and tuple(spec.metrics) == spec.protocol.model_dump()["metrics"]
        assert protocol_hash(spec.protocol) == digest and f"`{name}`, version {spec.protocol.version} (`{digest}`)" in text


class Known(PatchColour):
    """Says itself what stands for an image."""

    def image_feature(self, images: torch.Tensor) -> torch.Tensor:
        return self.tokens(images)[:, 0]


def test_the_feature_is_what_the_encoder_says_of_an_image(tmp_path: Path) -> None:
    """The first patch holds the class, and any colour all others."""
    for name, rows in (("train", 30), ("test", 12)):
        rng = keyed_rng("first patch", name)
        with ShardWriter(tmp_path / name, "images", classes=["a", "b"]) as writer:
            for index in range(rows):
                image = np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3))
                image[:24, :24] = (index % 2) * 200
                writer.write({"id": f"{name}{index}", "image": encode_image(image.astype(np.uint8)), "label": index % 2})
    train, test = (Dataset.open(tmp_path / name) for name in ("train", "test"))
    result = probe("knn_dino", {"class token": Known(), "mean": PatchColour()}, train, test)
    found = {name: row["metrics"]["accuracy"]["value"] for name, row in rows_by_name(result).items()}
    assert found["class token"] == 1 and found["mean"] < 1
    assert {"accuracy_k10", "accuracy_k100", "accuracy_k200"} <= rows_by_name(result)["mean"]["metrics"].keys()
    linear = PublishedLinearProtocol(least_steps=20)
    assert rows_by_name(probe("linear_dinov2", Known(), train, test, protocol=linear))["trained"]["metrics"]["accuracy"]["value"] > 0.8
