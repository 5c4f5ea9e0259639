"""The fine-tuned network: an encoder of any method, and a linear head."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..contract import BuildContext, HasFinetuning
from ..layers.initial import weight_rng
from ..ops.tiling import Axis, TiledPrediction, predict_fitted
from .config import FinetuneConfig, encoder_settings

P = TypeVar("P", bound="Head")


class Pooled(nn.Module):
    """The backbone of an encoder that brings no fine-tuning form of its own: its patch tokens, and their mean."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim, self.depth, self.patch_size = encoder.dim, encoder.depth, encoder.patch_size

    def forward(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tokens = self.encoder.tokens(images)
        return tokens, tokens.mean(dim=1)

    def layer_of(self, name: str) -> int:
        return int(self.encoder.layer_of(name.removeprefix("encoder.")))


class Head(nn.Module):
    """The fine-tuned network as it is registered and used: images in [0, 1] in, class logits out."""

    def __init__(self, config: FinetuneConfig, backbone: Any) -> None:
        super().__init__()
        model = config.model
        self.backbone, self.image_size = backbone, model.image_size
        self.dim, self.patch_size, self.classes = backbone.dim, backbone.patch_size, model.classes
        self.class_names = model.class_names
        self.head = nn.Linear(self.dim, model.classes, device="meta").to_empty(device="cpu")  # filled by `build_head`

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        tokens: Tensor = self.backbone(images)[0]
        return tokens


class Classifier(Head):
    task, output = "classification", "logits"

    def logits(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> Float[Tensor, "b c"]:
        out: Tensor = self.head(self.backbone(images, kept)[1])
        return out

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.logits(images)


class Segmenter(Head):
    """Segmenter's linear decoder: one linear map a patch, then bilinear to pixels."""

    task, output = "segmentation", "logits"

    def logits(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        h, w = images.shape[2:]
        tokens = self.head(self.backbone(images, kept)[0])
        maps = tokens.transpose(1, 2).unflatten(2, (h // self.patch_size, w // self.patch_size))
        return interpolate(maps.float(), size=(h, w), mode="bilinear", align_corners=False)

    def of_any_size(self, images: Float[Tensor, "b 3 h w"], overlap: float | None = None) -> TiledPrediction:
        """Logits, of images resized so that a crop just fits, in tiles."""
        axes: list[Axis] = [""] * self.classes
        return predict_fitted(self.logits, images, self.image_size, axes, 0.5 if overlap is None else overlap)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        return self.logits(images)


def backbone_of(encoder: nn.Module, config: FinetuneConfig) -> nn.Module:
    """A `Backbone`, the fine-tuning form of an encoder: its own where it has one, else its tokens and their mean."""
    if isinstance(encoder, HasFinetuning):
        return cast("nn.Module", encoder.finetuning(config.model.image_size, config.model.drop_path))
    return Pooled(encoder)


def build_head(config: FinetuneConfig, context: BuildContext, kind: type[P]) -> P:
    """A fresh head on the encoder that the settings describe."""
    method, settings = encoder_settings(config.model.encoder)
    encoder = method.build(settings, context).encoder()
    predictor = kind(config, backbone_of(encoder, config))
    generator = weight_rng("head", context.seed)
    with torch.no_grad():
        nn.init.trunc_normal_(predictor.head.weight, std=0.02, a=-2, b=2, generator=generator)
        predictor.head.weight.mul_(config.model.head_scale)
        nn.init.zeros_(predictor.head.bias)
    return predictor
