"""Encoders whose features are known, for tests of probes."""

from __future__ import annotations

import json
from typing import Any

import torch

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.probes.context import EvaluatedModel
from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair
from sightline.platform.evaluation.probes.protocol import Protocol
from sightline.platform.evaluation.probes.run import make_contexts, run_probe
from sightline.platform.evaluation.results import probe_from_json

PATCH, SIDE = 16, 64
torch.set_num_threads(1)  # matrices this small lose more to threads than they gain, above all on a busy machine


class PatchColour(torch.nn.Module):
    """Features that hold what the images show: the mean colour of each patch, its square and its cube."""

    dim = 9

    def __init__(self, patch: int = PATCH, side: int = SIDE) -> None:
        super().__init__()
        self.patch_size, self.image_size = patch, (side, side)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        colour = torch.nn.functional.avg_pool2d(images, self.patch_size).flatten(2).transpose(1, 2)
        return torch.cat([colour, colour**2, colour**3], dim=2)


class Blind(torch.nn.Module):
    """Features that depend on the place in the image and the seed, never on the image."""

    dim, patch_size, image_size = 8, PATCH, (SIDE, SIDE)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(1, (SIDE // PATCH) ** 2, 8, generator=torch.Generator().manual_seed(seed)))

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        return self.table.expand(len(images), -1, -1)


def blind_controls() -> tuple[torch.nn.Module, ...]:
    return tuple(Blind(seed) for seed in (1, 2, 3))


def probe(
    name: str,
    encoder: torch.nn.Module | dict[str, torch.nn.Module],
    train: Dataset | None,
    test: Dataset,
    controls: tuple[torch.nn.Module, ...] = (),
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    """The outcome of a probe of one encoder (`trained`), or of several by name that share the controls, as it lies in `probes.json`.

    Asserts that what was written is read as the same.
    """
    encoders = encoder if isinstance(encoder, dict) else {"trained": encoder}
    contexts = make_contexts([EvaluatedModel(key, module, controls) for key, module in encoders.items()])
    stored = run_probe(name, contexts, [DatasetPair(train, test)], protocol).to_json()
    assert json.dumps(probe_from_json(json.loads(json.dumps(stored))).to_json()) == json.dumps(stored)
    return stored


def rows_by_name(result: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in result["rows"]}
