"""Between the augmented cloud and the trainer: depth views, and what a 2-D teacher makes of them. Runs in the data workers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..contract import (
    BuildContext,
    HasBlockTokens,
    HasColourStatistics,
    HasLevels,
    HasTokensAndAttention,
    HasTokensAndSaliency,
    ImageEncoder,
)
from ..layers.colour import IMAGENET_MEAN, IMAGENET_STD, imagenet_normalise
from .config import I2PConfig
from .views2d import depth_images


class TeacherStage:
    """`points` in; `features` (views x channels x rows x columns, float16) and `saliency` (views x rows x columns) of each sample out.

    One sample at a time: matrix products of the same shape have the same bits, so what a sample gets does not depend on its neighbours.
    """

    def __init__(self, config: I2PConfig, teacher: nn.Module, device: torch.device | str = "cpu") -> None:
        self.task, self.device = config.pretext, torch.device(device)
        self.teacher = cast("ImageEncoder", teacher.to(device).eval())

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        features, saliency = [], []
        for points in columns["points"]:
            maps, looked_at = self.see(torch.from_numpy(np.ascontiguousarray(points)).to(self.device))
            features.append(maps.half().cpu().numpy())
            saliency.append(looked_at.float().cpu().numpy())
        return {"features": np.stack(features), "saliency": np.stack(saliency)}

    @torch.inference_mode()
    def see(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "v c y x"], Float[Tensor, "v h w"]]:
        height, width = self.teacher.image_size
        grid = (height // self.teacher.patch_size, width // self.teacher.patch_size)
        images = depth_images(points[None], self.task.views, self.task.splat, self.task.depth_value)[:, None]
        if images.shape[2:] != (height, width):
            images = interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
        images = self.coloured(images.expand(-1, 3, -1, -1))
        with self.features_watched() as watched:
            tokens, saliency = self.tokens_and_saliency(images)
        if watched:
            maps = watched[-1]
        else:
            maps = self.of_level(images, tokens).transpose(1, 2).reshape(len(tokens), -1, *grid)
        return maps, saliency.reshape(-1, *grid)

    def tokens_and_saliency(self, images: Float[Tensor, "v 3 h w"]) -> tuple[Float[Tensor, "v n c"], Float[Tensor, "v n"]]:
        if self.task.saliency == "attention" and isinstance(self.teacher, HasTokensAndAttention):
            return self.teacher.tokens_and_attention(images)
        if isinstance(self.teacher, HasTokensAndSaliency):
            return self.teacher.tokens_and_saliency(images)
        return self.teacher.tokens(images), self.teacher.saliency(images)

    def features_watched(self) -> AbstractContextManager[list[Tensor]]:
        """The maps of `pretext.teacher_level` in the passes meanwhile; none where the teacher's tokens are the features."""
        if self.task.teacher_level is not None and isinstance(self.teacher, HasLevels):
            return self.teacher.watching(self.task.teacher_level)
        return nullcontext([])

    def of_level(self, images: Float[Tensor, "v 3 h w"], tokens: Float[Tensor, "v n c"]) -> Float[Tensor, "v n c"]:
        """The tokens of `pretext.teacher_level`, by a second pass; null: those that there are."""
        if self.task.teacher_level is None or not isinstance(self.teacher, HasBlockTokens):
            return tokens
        return self.teacher.block_tokens(images)[self.task.teacher_level]

    def coloured(self, images: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
        """What the teacher, which normalises what it is given, must be given so that its network sees `pretext.teacher_input`."""
        if self.task.teacher_input == "own" or not isinstance(self.teacher, HasColourStatistics):
            return images
        mean, std = self.teacher.mean.to(images), self.teacher.std.to(images)
        of_imagenet = [torch.tensor(values).view(3, 1, 1).to(images) for values in (IMAGENET_MEAN, IMAGENET_STD)]
        if torch.equal(mean, of_imagenet[0]) and torch.equal(std, of_imagenet[1]):
            return images
        return imagenet_normalise(images) * std + mean


def build(config: I2PConfig, context: BuildContext) -> TeacherStage:
    return TeacherStage(config, context.teachers["model.teacher"], context.device)
