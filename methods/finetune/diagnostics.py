"""Label maps beside their photos, with a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..contract import Visualisation
from ..ops.colour_maps import turbo
from ..ops.image_grid import image_grid
from .views import NO_CLASS

SHOWN = 40
"""Classes in the legend, those with the most pixels."""
_LINE, _SWATCH, _LETTER = 18, 14, 8


def label_maps(
    images: Float[Tensor, "b 3 h w"], truth: Int[Tensor, "b h w"], predicted: Int[Tensor, "b h w"], names: Sequence[str]
) -> Visualisation:
    """A row a sample: the photo, the true classes (black: none), the predicted ones. Below, what the colours mean."""
    columns = [images.clamp(0, 1), _coloured(truth, len(names)), _coloured(predicted, len(names))]
    sheet = image_grid(columns)
    counts = np.bincount(torch.cat([truth[truth != NO_CLASS], predicted.flatten()]).cpu().numpy(), minlength=len(names))
    order = [int(index) for index in counts.argsort(kind="stable")[::-1] if counts[index]]
    more = f" and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    caption = "Left to right: the photo, its true classes (black: no class), the predicted ones. Colours: " + ", ".join(
        f"{names[index]}" for index in order[:SHOWN]
    )
    legend = _legend(sheet.shape[1], [(names[index], index) for index in order[:SHOWN]], len(names))
    return Visualisation("What each pixel is taken for", f"{caption}{more}, the most frequent first.", np.concatenate([sheet, legend]))


def class_colours(classes: int) -> UInt8[np.ndarray, "c 3"]:
    """A colour for each class, apart as far as they go; `sightline predict` has the same."""
    return turbo((np.arange(classes) + 0.5) / classes)


def _coloured(labels: Int[Tensor, "b h w"], classes: int) -> Float[Tensor, "b 3 h w"]:
    palette = np.concatenate([class_colours(classes), np.zeros((1, 3), np.uint8)])
    place = torch.where(labels == NO_CLASS, classes, labels).cpu()
    return (torch.from_numpy(palette)[place].permute(0, 3, 1, 2).float() / 255).to(labels.device)


def _legend(width: int, entries: Sequence[tuple[str, int]], classes: int) -> UInt8[np.ndarray, "h w 3"]:
    """Swatches with names, in as many columns as fit."""
    column = min(width, _SWATCH + 8 + _LETTER * max((len(name) for name, _ in entries), default=1))
    across = max(1, width // column)
    panel = Image.new("RGB", (width, _LINE * -(-len(entries) // across) + 6), "white")
    draw, font, colours = ImageDraw.Draw(panel), ImageFont.load_default(), class_colours(classes)
    for number, (name, index) in enumerate(entries):
        left, top = number % across * column, 6 + number // across * _LINE
        draw.rectangle((left, top, left + _SWATCH - 2, top + _SWATCH - 2), fill=tuple(int(value) for value in colours[index]))
        draw.text((left + _SWATCH + 4, top), name.encode("latin-1", "replace").decode("latin-1"), fill="black", font=font)
    return np.asarray(panel)
