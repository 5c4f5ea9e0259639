"""The authors' fine-tuned layout, both ways: `h_encoder.*` without its norms, `norm.*`, `cls_head_finetune.*`. Reads and writes no file.

Our names are theirs after `predictor.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..i2p_mae import official
from ..i2p_mae.config import I2PConfig
from .config import FinetunePointsConfig

OURS = "predictor."
FIRST, LAST, NORM = "cls_head_finetune.0.weight", "cls_head_finetune.8.weight", "norm.weight"
SAME = {"npoints": "points", "group_sizes": "neighbours", "local_radius": "radius", "drop_path_rate": "drop_path"}
"""Their setting -> ours of `model`, where the values are the same."""


def settings_of(content: Content) -> Sections:
    """Our sections as far as shapes tell them, and what `save` put beside the tensors. Points, neighbours, radii, groups and heads are not
    in the tensors: they are those of the preset, or of its encoder."""
    state = official.weights(content)
    if absent := [name for name in (FIRST, LAST, NORM) if name not in state]:
        raise SightlineError(f"{absent[0]} is not in the file", "name a checkpoint that the authors' code fine-tuned for classification")
    encoder = {**official.encoder_shapes(state), **official.settings_from_official(content)}
    side_by_side = state[FIRST].shape[1] == 2 * state[NORM].shape[0]
    model: dict[str, Any] = {"encoder": {"method": "i2p_mae", "model": encoder}, "classes": state[LAST].shape[0]}
    model["pooling"] = "concat" if side_by_side else "sum"
    model |= {ours: content[theirs] for theirs, ours in SAME.items() if theirs in content}
    return {"model": model} | ({"pretext": {"label_smoothing": content["smooth"]}} if "smooth" in content else {})


def load(content: Content, into: Mapping[str, Tensor], config: FinetunePointsConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """State for a pretext of `config` whose present state is `into`. Raises `SightlineError` where nothing matches or a shape differs."""
    places = {name.removeprefix(OURS): value for name, value in into.items()}
    state, match = official.load(content, places, I2PConfig())
    return {OURS + name: value for name, value in state.items()}, match


def save(state: Mapping[str, Tensor], config: FinetunePointsConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors under the official names, the authors' settings)."""
    encoder = I2PConfig(model=config.model.network)
    tensors, settings = official.save({name.removeprefix(OURS): value for name, value in state.items()}, encoder)
    settings = {name: value for name, value in settings.items() if name in official.SAME and name != "decoder_depths"}
    model = config.model
    settings |= {"npoints": model.points, "local_radius": list(model.radius), "smooth": config.pretext.label_smoothing}
    return tensors, {"NAME": "I2P_MAE_ModelNet40" if model.pooling == "sum" else "I2P_MAE_ScanObjectNN", **settings}
