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
from .config import Palette
from .views import NO_CLASS

SHOWN = 40
"""Classes in the legend, those with the most pixels."""
_LINE, _SWATCH, _LETTER = 18, 14, 8


def label_maps(
    images: Float[Tensor, "b 3 h w"],
    truth: Int[Tensor, "b h w"],
    predicted: Int[Tensor, "b h w"],
    names: Sequence[str],
    palette: Palette = (),
) -> Visualisation:
    """A row a sample: the photo, the true classes (black: none), the predicted ones. Below, what the colours mean."""
    colours = class_colours(len(names), palette)
    columns = [images.clamp(0, 1), _coloured(truth, colours), _coloured(predicted, colours)]
    sheet = image_grid(columns)
    counts = np.bincount(torch.cat([truth[truth != NO_CLASS], predicted.flatten()]).cpu().numpy(), minlength=len(names))
    order = [int(index) for index in counts.argsort(kind="stable")[::-1] if counts[index]]
    more = f" and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    caption = "Left to right: the photo, its true classes (black: no class), the predicted ones. Colours: " + ", ".join(
        f"{names[index]}" for index in order[:SHOWN]
    )
    legend = _legend(sheet.shape[1], [(names[index], index) for index in order[:SHOWN]], colours)
    return Visualisation("What each pixel is taken for", f"{caption}{more}, the most frequent first.", np.concatenate([sheet, legend]))


def class_colours(classes: int, palette: Palette = ()) -> UInt8[np.ndarray, "c 3"]:
    """The data set's own colours, or one for each class, apart as far as they go; `sightline predict` has the same."""
    return np.array(palette, np.uint8) if palette else turbo((np.arange(classes) + 0.5) / classes)


def _coloured(labels: Int[Tensor, "b h w"], colours: UInt8[np.ndarray, "c 3"]) -> Float[Tensor, "b 3 h w"]:
    with_none = np.concatenate([colours, np.zeros((1, 3), np.uint8)])
    place = torch.where(labels == NO_CLASS, len(colours), labels).cpu()
    return (torch.from_numpy(with_none)[place].permute(0, 3, 1, 2).float() / 255).to(labels.device)


def _legend(width: int, entries: Sequence[tuple[str, int]], colours: UInt8[np.ndarray, "c 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Swatches with names, in as many columns as fit."""
    column = min(width, _SWATCH + 8 + _LETTER * max((len(name) for name, _ in entries), default=1))
    across = max(1, width // column)
    panel = Image.new("RGB", (width, _LINE * -(-len(entries) // across) + 6), "white")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default()
    for number, (name, index) in enumerate(entries):
        left, top = number % across * column, 6 + number // across * _LINE
        draw.rectangle((left, top, left + _SWATCH - 2, top + _SWATCH - 2), fill=tuple(int(value) for value in colours[index]))
        draw.text((left + _SWATCH + 4, top), name.encode("latin-1", "replace").decode("latin-1"), fill="black", font=font)
    return np.asarray(panel)
