"""Colour on the training device: images as float in [0, 1], factors drawn elsewhere."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2


def imagenet_normalise(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def imagenet_denormalise(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return images * std + mean


def grey(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Luma with PIL's weights."""
    r, g, b = torch.split(images, 1, dim=1)
    luma: Tensor = GREY[0] * r + GREY[1] * g + GREY[2] * b
    return luma


def colour_jitter(images: Float[Tensor, "b 3 h w"], jitter: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 h w"]:
    """Brightness, contrast and saturation, each sample with its own factors (`jitter[:, :3]`) in its own order (`jitter[:, 3:]`).

    Each is a blend with a reference, x f + (1 - f) ref, clamped to [0, 1]: black for brightness, the mean of the grey image for
    contrast, the grey image for saturation, as in PIL, which also truncates to 8 bits after each and rounds the mean to an integer.
    """
    factors, order = jitter[:, :3], jitter[:, 3:].long()
    for slot in range(3):
        op = order[:, slot, None]
        f = factors.gather(1, op).view(-1, 1, 1, 1)
        luma = grey(images)
        op = op.view(-1, 1, 1, 1)
        reference = luma * (op == SATURATION) + luma.mean(dim=(2, 3), keepdim=True) * (op == CONTRAST)
        images = torch.addcmul((1 - f) * reference, images, f).clamp_(0, 1)
    return images
