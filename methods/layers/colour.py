"""Colour on the training device: images as float in [0, 1], factors drawn elsewhere."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d, pad

Channels = tuple[float, ...]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3
SOLARISE_FROM = 128 / 255


def to_float(images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """In [0, 1], channels first."""
    return images.permute(0, 3, 1, 2).float() / 255


def imagenet_normalise(
    images: Float[Tensor, "b 3 h w"], mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD
) -> Float[Tensor, "b 3 h w"]:
    """Standardised by ImageNet's moments, or by those given."""
    shift, scale = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return (images - shift) / scale


def imagenet_denormalise(
    images: Float[Tensor, "b 3 h w"], mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD
) -> Float[Tensor, "b 3 h w"]:
    """The inverse of `imagenet_normalise`."""
    shift, scale = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return images * scale + shift


def grey(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Luma with PIL's weights."""
    r, g, b = torch.split(images, 1, dim=1)
    luma: Tensor = GREY[0] * r + GREY[1] * g + GREY[2] * b
    return luma


def colour_jitter(images: Float[Tensor, "b 3 h w"], jitter: Float[Tensor, "b k"]) -> Float[Tensor, "b 3 h w"]:
    """Brightness, contrast, saturation and, with k = 8, hue: each sample with its own factors (the first half of `jitter`) in its own
    order (the second half).

    The first three are a blend with a reference, x f + (1 - f) ref, clamped to [0, 1]: black for brightness, the mean of the grey image
    for contrast, the grey image for saturation, as in PIL, which also truncates to 8 bits after each and rounds the mean to an integer.
    """
    ops = jitter.shape[1] // 2
    factors, order = jitter[:, :ops], jitter[:, ops:].long()
    for slot in range(ops):
        op = order[:, slot, None]
        f = torch.where(op == HUE, 1.0, factors.gather(1, op)).view(-1, 1, 1, 1)
        luma = grey(images)
        op = op.view(-1, 1, 1, 1)
        reference = luma * (op == SATURATION) + luma.mean(dim=(2, 3), keepdim=True) * (op == CONTRAST)
        images = torch.addcmul((1 - f) * reference, images, f).clamp_(0, 1)
        if ops > HUE:
            rows = (order[:, slot] == HUE).nonzero().flatten()
            images[rows] = shift_hue(images[rows], factors[rows, HUE])
    return images


def shift_hue(images: Float[Tensor, "b 3 h w"], turns: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
    """The hue of HSV moved round the circle by `turns` (1 = once round); PIL rounds hue, saturation and value to 8 bits."""
    r, g, b = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = chroma.clamp_min(1e-12)
    sector = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sector = sector + 6 * turns.view(-1, 1, 1)
    channels = []
    for offset in (5, 3, 1):
        k = (sector + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def gaussian_blur(images: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], reach: int) -> Float[Tensor, "b 3 h w"]:
    """Each image with its own standard deviation in pixels, the kernel cut at +-`reach` pixels, edges repeated.

    PIL's GaussianBlur of radius r is three box blurs of the same standard deviation r.
    """
    b, c, h, w = images.shape
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None].clamp_min(1e-3)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(images.dtype).repeat_interleave(c, dim=0)
    stacked = pad(images, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    stacked = conv2d(stacked, kernel[:, None, :, None], groups=b * c)
    return conv2d(stacked, kernel[:, None, None, :], groups=b * c).view(b, c, h, w)


def solarise(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Values from 128 of 255 on are inverted, as in PIL."""
    return torch.where(images < SOLARISE_FROM, images, 1 - images)
