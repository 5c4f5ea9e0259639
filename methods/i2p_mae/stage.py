"""Between the augmented cloud and the trainer: depth views, and what a frozen 2-D encoder makes of them. Runs in the data workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from .config import I2PConfig
from .views2d import depth_images


class TeacherStage:
    """`points` in; `features` (views x channels x rows x columns, float16) and `saliency` (views x rows x columns) of each sample out.

    One sample at a time: matrix products of the same shape have the same bits, so what a sample gets does not depend on its neighbours.
    """

    def __init__(self, config: I2PConfig, teacher: Any, device: torch.device | str = "cpu") -> None:
        self.views, self.teacher, self.device = config.pretext.views, teacher.to(device).eval(), torch.device(device)

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        features, saliency = [], []
        for points in columns["points"]:
            maps, looked_at = self.see(torch.from_numpy(np.ascontiguousarray(points)).to(self.device))
            features.append(maps.half().cpu().numpy())
            saliency.append(looked_at.float().cpu().numpy())
        return {"features": np.stack(features), "saliency": np.stack(saliency)}

    @torch.inference_mode()
    def see(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "v c h w"], Float[Tensor, "v h w"]]:
        height, width = self.teacher.image_size
        grid = (height // self.teacher.patch_size, width // self.teacher.patch_size)
        images = depth_images(points[None], self.views)[:, None]
        if images.shape[2:] != (height, width):
            images = interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
        images = images.expand(-1, 3, -1, -1)
        if hasattr(self.teacher, "tokens_and_saliency"):
            tokens, saliency = self.teacher.tokens_and_saliency(images)
        else:
            tokens, saliency = self.teacher.tokens(images), self.teacher.saliency(images)
        return tokens.transpose(1, 2).unflatten(2, grid), saliency.unflatten(1, grid)
