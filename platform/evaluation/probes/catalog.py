"""The probes by name: what each needs of the data, its protocol, and where it is. Imports no torch, so settings can be checked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from sightline.methods.errors import CallError
from sightline.methods.settings import nearest

from .protocol import CORRESPONDENCE, DEPTH, FEW_SHOT, KNN, LINEAR, PART_SEGMENTATION, SEGMENTATION, SHAPE_KNN, SHAPE_SVM, Protocol

if TYPE_CHECKING:
    from sightline.platform.data.dataset import Dataset

    from .result_table import Measurement


@dataclass(frozen=True)
class ProbeSpec:
    title: str
    protocol: Protocol
    columns: Mapping[str, tuple[str, ...]]
    """The columns it needs of each kind of data that it can use."""
    metrics: Mapping[str, Mapping[str, str]]
    """The main figures, the first of them first: label, unit, better (higher or lower), means."""
    says: str
    """The finding's subject: `{value}` is the first metric."""
    module: str
    trains: bool = True
    """Whether a head is fitted, which takes training data."""
    modality: Literal["images", "points"] = "images"
    """What the encoders that it measures take."""

    def lacks(self, dataset: Dataset) -> str:
        """What the data set lacks for this probe, in words; empty where it will do."""
        needed = self.columns.get(dataset.kind)
        if needed is None:
            return f"{' or '.join(self.columns)} are needed, and {dataset.uri} holds {dataset.kind}"
        missing = [name for name in needed if name not in dataset.manifest.columns]
        return f"no {', '.join(missing)} column in {dataset.uri}" if missing else ""

    def load(self) -> Callable[..., Measurement]:
        """`measure(context, train, test, protocol)` of the probe's module."""
        measure: Callable[..., Measurement] = import_module(f".{self.module}", __package__).measure
        return measure


def _share(label: str, means: str) -> dict[str, str]:
    return {"label": label, "unit": "%", "better": "higher", "means": means}


ACCURACY = {"accuracy": _share("accuracy", "share of test images whose class is found")}
SHAPES = {"accuracy": _share("accuracy", "share of test clouds whose class is found")}
RECALL = "share of visible patches whose nearest feature lies within one patch of the true match"

PROBES: dict[str, ProbeSpec] = {
    "knn": ProbeSpec(
        "Classification by nearest neighbours of frozen features",
        KNN,
        {"images": ("label",)},
        ACCURACY,
        "The nearest training images give {value} of the test images their class",
        "knn",
    ),
    "linear": ProbeSpec(
        "Linear classification from frozen features",
        LINEAR,
        {"images": ("label",)},
        ACCURACY,
        "A linear map of the mean feature gives {value} of the test images their class",
        "linear",
    ),
    "segmentation": ProbeSpec(
        "Linear semantic segmentation from frozen patch features",
        SEGMENTATION,
        {"images": ("segmentation",)},
        {
            "miou": _share("mIoU", "intersection over union of pixels, mean over the classes of the test data"),
            "pixel_accuracy": _share("pixel accuracy", "share of the labelled pixels whose class is found"),
        },
        "A linear map of single patches reaches a mean IoU of {value}",
        "segmentation",
    ),
    "depth": ProbeSpec(
        "Monocular depth from frozen patch features",
        DEPTH,
        {"pairs": ("depth1", "depth2"), "images": ("depth",)},
        {
            "delta1": _share("delta1", "share of patches within a factor 1.25 of the true depth"),
            "absrel": {"label": "AbsRel", "unit": "", "better": "lower", "means": "mean of |predicted - true| / true"},
            "rmse": {"label": "RMSE", "unit": "m", "better": "lower", "means": "root mean squared error"},
        },
        "A linear map on the frozen features puts {value} of the patches within a factor 1.25 of the true depth",
        "depth",
    ),
    "correspondence": ProbeSpec(
        "Zero-shot correspondence between two views",
        CORRESPONDENCE,
        {"pairs": ("depth1", "depth2", "K1", "K2", "T_2from1")},
        {
            "recall": _share("all pairs", RECALL),
            "recall_0_15": _share("0 to 15°", f"{RECALL}, in pairs of cameras turned by less than 15 degrees"),
            "recall_15_30": _share("15 to 30°", f"{RECALL}, 15 to 30 degrees"),
            "recall_30_60": _share("30 to 60°", f"{RECALL}, 30 to 60 degrees"),
            "recall_60_180": _share("over 60°", f"{RECALL}, 60 degrees and more"),
        },
        "Of the patches that both views see, {value} find their match within one patch",
        "correspondence",
        trains=False,
    ),
    "shape_svm": ProbeSpec(
        "Shape classification by a linear SVM on frozen features",
        SHAPE_SVM,
        {"points": ("label",)},
        SHAPES,
        "A linear SVM gives {value} of the test clouds their class",
        "shape_svm",
        modality="points",
    ),
    "shape_knn": ProbeSpec(
        "Shape classification by nearest neighbours of frozen features",
        SHAPE_KNN,
        {"points": ("label",)},
        SHAPES,
        "The nearest training clouds give {value} of the test clouds their class",
        "shape_knn",
        modality="points",
    ),
    "few_shot": ProbeSpec(
        "Few-shot shape classification from frozen features",
        FEW_SHOT,
        {"points": ("label",)},
        {
            f"accuracy_{ways}w{shots}s": _share(f"{ways}-way {shots}-shot", f"accuracy with {shots} shapes of each of {ways} classes")
            for ways, shots in FEW_SHOT.tasks
        },
        "With ten shapes of each of five classes a linear SVM finds the class of {value} of the others",
        "few_shot",
        modality="points",
    ),
    "part_segmentation": ProbeSpec(
        "Linear part segmentation from frozen features of points",
        PART_SEGMENTATION,
        {"points": ("label", "part")},
        {
            "instance_miou": _share("instance mIoU", "IoU of the parts of a shape, mean over the shapes"),
            "class_miou": _share("class mIoU", "the same, mean over the shapes of each category, then over the categories"),
        },
        "A linear map of single points reaches an instance mIoU of {value}",
        "part_segmentation",
        modality="points",
    ),
}


def find_probe(name: str) -> ProbeSpec:
    """Raises `CallError` naming the nearest probe."""
    if name not in PROBES:
        raise CallError(f"unknown probe {name!r}: {nearest(name, list(PROBES))}")
    return PROBES[name]
