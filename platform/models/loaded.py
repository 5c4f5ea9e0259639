"""An encoder for notebooks: it takes pictures or clouds in any usual form, and says in a sentence what it cannot take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps

from sightline.methods.contract import HasNormalised, HasPooled, Predictor, TakesPairs, TakesPoints
from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.ops.clouds import draw_points, fitted
from sightline.methods.random import keyed_rng
from sightline.platform.data.encoder_input import PIXEL_SLACK, class_names, fit_image

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")
"""Pillow's modes of 8 bits a channel. What has more is no photograph, and Pillow would clip it."""


class LoadedEncoder:
    """`tokens`, `pooled` and the other methods of an encoder, on pictures or clouds in the form that a person has.

    Pictures: PIL images, or arrays and tensors of RGB, height x width x 3 or 3 x height x width, uint8 or floats in [0, 1]; one, a list or
    a batch. Clouds: arrays or tensors n x 3, one, a list or a batch. PIL images and NumPy arrays of another size are fitted as `sightline
    encode` does: the largest centre crop of the encoder's shape, resized; as many points as the encoder takes, centred and scaled. A
    torch tensor is taken as it is, so it must have the encoder's size, and gradients can reach it.

    Results are tensors with the samples along dimension 0. They carry no gradients unless `gradients=True`. `module` is the network itself,
    an `nn.Module` in evaluation mode; its other attributes (`dim`, `image_size`, `points`, ...) are found here, too.
    """

    def __init__(self, module: Any, method: str, source: str) -> None:
        self.module = module
        self.method = method
        """Id of the method that made it."""
        self.source = source
        """Where it comes from, in words."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "module":
            raise AttributeError(name)
        return getattr(self.module, name)

    def __repr__(self) -> str:
        what = f"{self.module.points} points" if self._of_clouds else "{} x {} pixels".format(*self.module.image_size)
        return f"<{self.method} of {self.source}: {what}>"

    def to(self, device: torch.device | str) -> LoadedEncoder:
        """Move the network; what it is given follows."""
        self.module.to(device)
        return self

    def __call__(self, inputs: Any, *, gradients: bool = False) -> torch.Tensor:
        """What the network's `forward` gives: tokens of an encoder, logits of a fine-tuned model."""
        return self._run("forward", inputs, gradients)

    def tokens(self, inputs: Any, *, gradients: bool = False) -> Float[torch.Tensor, "b n d"]:
        """The tokens of the last block: patches in raster order, or groups of points."""
        return self._run("tokens", inputs, gradients)

    def pooled(self, inputs: Any, *, gradients: bool = False) -> Float[torch.Tensor, "b d"]:
        """One feature a sample: the encoder's own pooling where it has one, else the mean of its tokens."""
        if isinstance(self.module, HasPooled) and not isinstance(self.module, Predictor):
            return self._run("pooled", inputs, gradients)
        return self._run("tokens", inputs, gradients).mean(dim=1)

    def saliency(self, inputs: Any, *, gradients: bool = False) -> Float[torch.Tensor, "b n"]:
        """How much attention each patch receives; rows sum to 1."""
        return self._run("saliency", inputs, gradients)

    def at_points(self, inputs: Any, *, gradients: bool = False) -> Float[torch.Tensor, "b n e"]:
        """A feature of each point of the prepared clouds (`prepare`)."""
        return self._run("at_points", inputs, gradients)

    def logits(self, inputs: Any, *, gradients: bool = False) -> torch.Tensor:
        """Of a fine-tuned model: a value for each class."""
        return self._run("logits", inputs, gradients)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of a fine-tuned model, in the order of its logits; numbers where the model is older than its names."""
        if not isinstance(self.module, Predictor):
            raise CallError(f"{self.source} is an encoder and knows no classes", "fine-tune it: sightline finetune --help")
        return class_names(self.module)

    def classify(self, inputs: Any) -> list[tuple[str, float]]:
        """Of a fine-tuned classifier: for each sample the name of its class and the probability that the model gives it."""
        names = self.class_names
        if self.module.task != "classification":
            raise CallError(
                "this model labels pixels or points, not the whole", "take the largest of logits(...) along the classes, and class_names"
            )
        best = self.logits(inputs).softmax(dim=1).max(dim=1)
        return [(names[index], float(share)) for index, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def prepare(self, inputs: Any) -> torch.Tensor:
        """The tensor that the network is given: float32 b x 3 x height x width in [0, 1], or b x points x 3. Raises `CallError`."""
        return (self._clouds if self._of_clouds else self._pictures)(inputs).to(next(self.module.parameters()).device)

    def _pairs(self, inputs: Any) -> Float[torch.Tensor, "b 2 3 h w"]:
        if isinstance(inputs, torch.Tensor) and inputs.ndim == 5:
            return torch.stack([self.prepare(inputs[:, side]) for side in (0, 1)], dim=1)
        first, second = self.module.pair
        if not isinstance(inputs, Sequence) or isinstance(inputs, str) or len(inputs) != 2:
            raise CallError(
                f"this model takes the {first} and the {second}", f"give both: encoder(({first.split()[0]}, {second.split()[0]}))"
            )
        sides = [self.prepare(one) for one in inputs]
        if sides[0].shape != sides[1].shape:
            raise CallError(f"{len(sides[0])} of the {first}, {len(sides[1])} of the {second}", "give as many of both")
        return torch.stack(sides, dim=1)

    def _run(self, method: str, inputs: Any, gradients: bool) -> torch.Tensor:
        if not hasattr(self.module, method):
            raise CallError(f"{self.source} ({self.method}) has no {method}", "its docs are in docs/methods")
        with torch.set_grad_enabled(gradients):
            prepare = self._pairs if method == "forward" and isinstance(self.module, TakesPairs) else self.prepare
            result: torch.Tensor = getattr(self.module, method)(prepare(inputs))
        return result

    @property
    def _of_clouds(self) -> bool:
        return isinstance(self.module, TakesPoints)

    def _pictures(self, inputs: Any) -> Float[torch.Tensor, "b 3 h w"]:
        height, width = self.module.image_size
        if isinstance(inputs, Image.Image):
            inputs = [inputs]
        if isinstance(inputs, Sequence) and not isinstance(inputs, str):
            if not inputs:
                raise CallError("an empty list of pictures", "give at least one")
            return torch.cat([self._pictures(_array_of(one) if isinstance(one, Image.Image) else one) for one in inputs])
        if not isinstance(inputs, np.ndarray | torch.Tensor):
            raise CallError(
                f"{type(inputs).__name__} is no picture",
                "give a PIL image, an array, a tensor, or a list of them; open a file with PIL.Image.open",
            )
        values = torch.from_numpy(np.array(inputs)) if isinstance(inputs, np.ndarray) else inputs
        values = _unit_range(_channels_first(values))
        if tuple(values.shape[2:]) == (height, width):
            return values
        if isinstance(inputs, torch.Tensor):
            raise CallError(
                f"the tensor's pictures have {values.shape[2]} x {values.shape[3]} pixels (height x width), not {height} x {width}",
                "resize them, or give PIL images or NumPy arrays, which are cropped and resized",
            )
        bytes_ = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        fit = np.stack([fit_image(one, (height, width)) for one in bytes_])
        return torch.from_numpy(fit).permute(0, 3, 1, 2).float() / 255

    def _clouds(self, inputs: Any) -> Float[torch.Tensor, "b n 3"]:
        count = self.module.points
        if isinstance(inputs, Sequence) and not isinstance(inputs, str):
            if not inputs:
                raise CallError("an empty list of clouds", "give at least one")
            return torch.cat([self._clouds(one) for one in inputs])
        if not isinstance(inputs, np.ndarray | torch.Tensor):
            raise CallError(f"{type(inputs).__name__} is no cloud", "give an array or a tensor of points x 3, or a list of them")
        batch = inputs[None] if inputs.ndim == 2 else inputs
        if batch.ndim != 3 or batch.shape[2] != 3:
            raise CallError(f"a cloud is points x 3, a batch of them clouds x points x 3; this has the shape {tuple(inputs.shape)}")
        if isinstance(batch, torch.Tensor):
            if batch.shape[1] != count:
                raise CallError(
                    f"the tensor's clouds have {batch.shape[1]} points; this encoder takes {count}",
                    "give NumPy arrays, of which as many points are drawn, centred and scaled",
                )
            return batch.float()
        centred = self.module.normalised if isinstance(self.module, HasNormalised) else True
        least = getattr(self.module, "least", 1)
        try:
            made = [fitted(one, count, least) if centred else draw_points(one, count, least, keyed_rng("fitted cloud")) for one in batch]
        except BrokenSampleError as error:
            raise CallError(f"this cloud cannot be used: {error}") from None
        return torch.from_numpy(np.stack(made)).float()


def _array_of(image: Image.Image) -> np.ndarray:
    """uint8 height x width x 3, turned as its EXIF data say."""
    if image.mode not in MODES:
        raise CallError(
            f"a picture of mode {image.mode} has more than 8 bits a channel", "scale it to 8 bits first, for example to mode RGB"
        )
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _channels_first(values: torch.Tensor) -> torch.Tensor:
    """b x 3 x height x width of one picture or a batch, whichever way its channels lie."""
    shape = tuple(values.shape)
    if values.ndim == 2:  # grey
        values = values[None].expand(3, -1, -1)
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or (values.shape[1] != 3) == (values.shape[3] != 3):
        both = values.ndim == 4 and values.shape[1] == values.shape[3] == 3
        raise CallError(
            f"the shape {shape} {'can be read in two ways' if both else 'is that of no picture'}",
            "give height x width x 3 or 3 x height x width, or a batch of such; grey as height x width; no alpha channel",
        )
    return values if values.shape[1] == 3 else values.permute(0, 3, 1, 2)


def _unit_range(values: torch.Tensor) -> torch.Tensor:
    """float32 in [0, 1] of uint8, or of floats that are so already."""
    if values.dtype == torch.uint8:
        return values.float() / 255
    if values.dtype == torch.bool or not values.is_floating_point():
        raise CallError(f"pictures of {str(values.dtype).removeprefix('torch.')}", "give uint8 from 0 to 255, or floats from 0 to 1")
    low, high = (float(end) for end in values.detach().aminmax()) if values.numel() else (0.0, 1.0)
    if not (low >= -PIXEL_SLACK and high <= 1 + PIXEL_SLACK):
        hint = "divide by 255" if high > 4 else "leave them as they are in [0, 1]: normalisation is inside the encoder"
        raise CallError(f"floats of a picture lie in [0, 1]; these go from {low:.3g} to {high:.3g}", hint)
    return values.float()
