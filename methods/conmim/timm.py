"""The encoder as timm's BEiT, which has the same maths."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..contract import TimmForm
from .backbone import mean_std
from .config import ConMIMConfig
from .official import BIAS

PREFIX = "backbone."


def timm_form(config: ConMIMConfig, state: Mapping[str, Tensor]) -> TimmForm:
    """`state`: of a `ConMIMEncoder`. Every setting of ours has its counterpart in `timm.models.beit`; the mask token stays behind.

    `forward_features` gives the class token and then our tokens: both are after the final norm (`use_fc_norm=False`).
    """
    model = config.model
    shared, own = BIAS[model.relative_bias]
    mean, std = mean_std(model)
    return TimmForm(
        architecture="beit_base_patch16_224",
        arguments={
            "img_size": model.image_size,
            "patch_size": model.patch_size,
            "embed_dim": model.dim,
            "depth": model.depth,
            "num_heads": model.heads,
            "mlp_ratio": model.mlp_ratio,
            "init_values": model.layer_scale or 0.0,  # timm takes None for "not given" and would put its own in
            "use_abs_pos_emb": model.position_table,
            "use_rel_pos_bias": own,
            "use_shared_rel_pos_bias": shared,
            "global_pool": "avg",
            "use_fc_norm": False,
        },
        state={name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name != f"{PREFIX}mask_token"},
        mean=mean,
        std=std,
        prefix_tokens=1,
    )
