"""LOCA's colours, on the training device: TensorFlow's operations, which differ from PIL's and torchvision's. Images in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import conv2d

from ..layers.colour import imagenet_normalise

GREY = (0.2989, 0.5870, 0.1140)
THRESHOLD = 0.5
Images = Float[Tensor, "b 3 h w"]
PerImage = Float[Tensor, " b"]


def brightness(images: Images, delta: PerImage) -> Images:
    """Adds `delta`."""
    return images + _spread(delta)


def contrast(images: Images, factor: PerImage) -> Images:
    """Stretches about the mean of each channel."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * _spread(factor) + mean


def saturation(images: Images, factor: PerImage) -> Images:
    """Multiplies S of HSV, at most up to 1."""
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    chroma = value - least
    # In HSV with hue and value kept, every channel moves towards or away from the value in proportion to S.
    s = torch.where(value > 0, chroma / value, 0.0)
    scale = torch.where(s > 0, (s * _spread(factor)).clamp(0, 1) / s, 0.0)
    return value - (value - images) * scale


def hue(images: Images, turns: PerImage) -> Images:
    """Adds `turns` (1 = the whole circle) to H of HSV."""
    r, g, b = images.unbind(dim=1)
    value, least = images.amax(dim=1), images.amin(dim=1)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(value == r, (g - b) / safe, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    sixths = (sixths + 6 * turns.view(-1, 1, 1))[:, None]
    offset = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(3, 1, 1)
    k = (sixths + offset) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


JITTER: tuple[Callable[[Images, PerImage], Images], ...] = (brightness, contrast, saturation, hue)
"""In the order of their strengths in `views.COLOURS`."""


def grey(images: Images) -> Images:
    weights = torch.tensor(GREY, device=images.device).view(3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def solarise(images: Images) -> Images:
    return torch.where(images < THRESHOLD, images, 1 - images)


def blur(images: Images, sigma: PerImage, kernel: int) -> Images:
    """Gaussian, separable, 2 int(kernel / 2) + 1 taps, with *zeros* beyond the border; a kernel below 2 leaves the image as it is."""
    radius = kernel // 2
    if not radius:
        return images
    b, _, h, w = images.shape
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    taps = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    taps = (taps / taps.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    planes = conv2d(images.reshape(1, 3 * b, h, w), taps[:, None, :, None], padding=(radius, 0), groups=3 * b)
    return conv2d(planes, taps[:, None, None, :], padding=(0, radius), groups=3 * b).view(b, 3, h, w)


def augment(images: Images, colours: Float[Tensor, "b 12"]) -> Images:
    """Jitter, grey, blur, solarise, each for the images whose `colours` (see `views.COLOURS`) say so; then standardised. In place.

    The four jitters act in each image's own order, clipped to [0, 1] after each.
    """
    table = colours.cpu()  # which images an operation meets is decided here: one wait for the device instead of many
    for slot in range(4):
        for number, operation in enumerate(JITTER):
            if len(at := _where((table[:, 4 + slot] == number) & (table[:, 8] > 0), images)):
                images[at] = operation(images[at], colours[at, number]).clamp_(0, 1)
    if len(at := _where(table[:, 9] > 0, images)):
        images[at] = grey(images[at])
    if len(at := _where(table[:, 11] > 0, images)):
        images[at] = blur(images[at], colours[at, 11], images.shape[2] // 10)
    if len(at := _where(table[:, 10] > 0, images)):
        images[at] = solarise(images[at])
    return imagenet_normalise(images)


def _where(chosen: Bool[Tensor, " b"], images: Images) -> Int[Tensor, " m"]:
    return chosen.nonzero()[:, 0].to(images.device)


def _spread(values: PerImage) -> Tensor:
    return values.view(-1, 1, 1, 1)
