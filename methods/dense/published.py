"""CroCo-Stereo and CroCo-Flow as their authors publish them, for `sightline import` and `export`: an `Official` of each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from ..contract import Content, LoadReport, MethodConfig, Sections
from ..errors import SightlineError
from ..ops.tiling import FLOW_TILES, STEREO_TILES, TileWeight
from . import official
from .config import FlowConfig, StereoConfig, TwoViewModel
from .criteria import Criterion

NETWORK = "predicting.network."


class Published:
    """`task`: stereo or flow."""

    def __init__(self, task: str, tiles: TileWeight) -> None:
        self.task, self.tiles = task, tiles

    def settings_of(self, content: Content) -> Sections:
        found = official.settings_of(content)
        channels = official.CHANNELS[self.task]
        if not isinstance(found.model, TwoViewModel) or found.channels not in (channels, channels + 1):
            raise SightlineError(f"this file holds no network of {self.task}", "import it with --method finetune_stereo or finetune_flow")
        if found.task and found.task != self.task:
            raise SightlineError(f"this file is of the task {found.task}", f"import it with --method finetune_{found.task}")
        task: dict[str, object] = {"tiles": found.tile_weight}
        if (criterion := found.criterion) is not None:
            limits = {"a": criterion.a, "b": criterion.b} if criterion.name in ("bounded", "bounded2") else {}
            task |= {"criterion": criterion.name, "max_norm": criterion.max_norm, **limits}
        elif found.channels == channels:
            task |= {"criterion": "l1"}
        return {"model": found.model.model_dump(mode="json"), "pretext": task}

    def load(self, content: Content, into: Mapping[str, Tensor], config: MethodConfig) -> tuple[dict[str, Tensor], LoadReport]:
        own = {name.removeprefix(NETWORK): tensor for name, tensor in into.items()}
        state, report = official.load(content, own, _of_two_views(config).model)
        return {NETWORK + name: tensor for name, tensor in state.items()}, report

    def save(self, state: Mapping[str, Tensor], config: MethodConfig) -> tuple[dict[str, Tensor], dict[str, object]]:
        ours = _of_two_views(config)
        task = ours.pretext
        network = {name.removeprefix(NETWORK): tensor for name, tensor in state.items()}
        criterion = Criterion(task.criterion, task.a, task.b, task.max_norm)
        return official.save(network, ours.model, self.task, criterion, task.tiles or str(self.tiles))


def _of_two_views(config: MethodConfig) -> StereoConfig | FlowConfig:
    return cast("StereoConfig | FlowConfig", config)


def published_stereo() -> Published:
    return Published("stereo", STEREO_TILES)


def published_flow() -> Published:
    return Published("flow", FLOW_TILES)
