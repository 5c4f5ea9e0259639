"""The fine-tuned network: an encoder of any method, and a head."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..contract import BuildContext, HasBranches, HasFinetuning, HasLayers
from ..errors import CallError
from ..layers.drop_path import HookedBranches
from ..layers.initial import uninitialised, weight_rng
from ..ops.tiling import Axis, Passes, TiledPrediction, class_scores, largest_class, predict_fitted
from .config import FinetuneConfig, SegmentationConfig, encoder_settings
from .decoders import AUXILIARY_WIDTH, Alive, AuxiliaryHead, MaskTransformer, UPerNet, as_maps, enlarged, initialise_decoder, spread_blocks

P = TypeVar("P", bound="Head")
GREY = 0.456
"""Where an image at a small scale leaves a tile empty: about what training crops have there."""


class Pooled(nn.Module):
    """The backbone of an encoder that brings no fine-tuning form of its own: its patch tokens, and their mean."""

    def __init__(self, encoder: Any, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim, self.depth, self.patch_size = encoder.dim, encoder.depth, encoder.patch_size
        self.branches = HookedBranches(encoder.branches, drop_path) if drop_path else None

    def forward(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.branches is not None:
            self.branches.keep(kept)
        tokens = self.encoder.tokens(images)
        return tokens, tokens.mean(dim=1)

    def block_tokens(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> list[Tensor]:
        if self.branches is not None:
            self.branches.keep(kept)
        tokens: list[Tensor] = self.encoder.block_tokens(images)
        return tokens

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
        self.head: nn.Module = nn.Linear(self.dim, model.classes, device="meta").to_empty(device="cpu")  # filled by `build_head`

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
    """A decoder of the patches, then bilinear to pixels."""

    task, output = "segmentation", "logits"

    def __init__(self, config: SegmentationConfig, backbone: Any) -> None:
        super().__init__(config, backbone)
        model = config.model
        self.decoder, self.palette = model.decoder, model.palette
        self.auxiliary: AuxiliaryHead | None = None
        if model.decoder == "mask_transformer":
            self.head = uninitialised(lambda: MaskTransformer(self.dim, model.decoder_depth, model.classes))
        if model.decoder == "upernet":
            self.hooks = read_blocks(config, backbone)
            width = model.decoder_dim or self.dim
            self.head = uninitialised(lambda: UPerNet(self.dim, width, model.classes))
            self.dropped_widths = (width, AUXILIARY_WIDTH)
            self.auxiliary = uninitialised(lambda: AuxiliaryHead(self.dim, model.classes))

    def logits(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None, alive: Alive = None) -> Float[Tensor, "b c h w"]:
        """`kept`: branches of the encoder that stochastic depth keeps; `alive`: channels of UPerNet that dropout leaves."""
        return self._logits(self._read(images, kept), images, alive)

    def logits_and_auxiliary(
        self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None, alive: Alive, auxiliary_alive: Alive
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """`logits`, and those of the auxiliary head; of UPerNet alone."""
        assert self.auxiliary is not None
        maps = self._read(images, kept)
        return self._logits(maps, images, alive), enlarged(self.auxiliary(maps, auxiliary_alive).float(), images.shape[2:])

    def _read(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None) -> list[Tensor]:
        """What the decoder is given, as maps of patches: four blocks for UPerNet, else the last one."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        if self.decoder != "upernet":
            return [as_maps(self.backbone(images, kept)[0], grid)]
        blocks = self.backbone.block_tokens(images, kept)
        return [as_maps(blocks[hook], grid) for hook in self.hooks]

    def _logits(self, maps: list[Tensor], images: Float[Tensor, "b 3 h w"], alive: Alive) -> Float[Tensor, "b c h w"]:
        if self.decoder == "upernet":
            found = self.head(maps, alive)
        else:
            tokens = maps[-1].flatten(2).transpose(1, 2)
            grid = (maps[-1].shape[2], maps[-1].shape[3])
            found = self.head(tokens, grid) if self.decoder == "mask_transformer" else as_maps(self.head(tokens), grid)
        return enlarged(found.float(), images.shape[2:])

    def of_any_size(self, images: Float[Tensor, "b 3 h w"], overlap: float | None = None) -> TiledPrediction:
        """Logits, of images resized so that a crop just fits, in tiles."""
        axes: list[Axis] = [""] * self.classes
        return predict_fitted(self.logits, images, self.image_size, axes, 0.5 if overlap is None else overlap)

    def labels(self, images: Float[Tensor, "b 3 h w"], passes: Passes | None = None) -> Int[Tensor, "b h w"]:
        """The class of each pixel, of images of any size; by default one pass at scale 1 with half a tile of overlap."""
        scores = class_scores(self.logits, images, self.image_size, self.classes, passes or Passes(), GREY)
        return largest_class(scores, (int(images.shape[2]), int(images.shape[3])))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        return self.logits(images)


def read_blocks(config: SegmentationConfig, backbone: Any) -> tuple[int, int, int, int]:
    """The blocks that UPerNet reads. Raises `CallError` for an encoder or a crop that it cannot read."""
    encoder = backbone.encoder if isinstance(backbone, Pooled) else backbone
    if not hasattr(encoder, "block_tokens"):
        named = config.model.encoder.get("method", "the encoder")
        raise CallError(f"model.decoder=upernet reads several blocks, and {named} gives the last one alone", "use model.decoder=linear")
    hooks = config.model.hooks or spread_blocks(backbone.depth)
    if not 0 <= min(hooks) <= max(hooks) < backbone.depth:
        raise CallError(f"model.hooks {list(hooks)}: there are {backbone.depth} blocks", f"name four from 0 to {backbone.depth - 1}")
    if min(config.model.image_size) < 2 * backbone.patch_size:
        raise CallError(
            f"model.image_size {config.model.image_size}: UPerNet halves the grid of patches", "give two patches or more a side"
        )
    return hooks


def backbone_of(encoder: nn.Module, config: FinetuneConfig) -> nn.Module:
    """A `Backbone`, the fine-tuning form of an encoder: its own where it has one, else its tokens and their mean."""
    if isinstance(encoder, HasFinetuning):
        return cast("nn.Module", encoder.finetuning(config.model.image_size, config.model.drop_path))
    if not isinstance(encoder, HasLayers):
        named = config.model.encoder.get("method", "this method")
        raise CallError(f"an encoder of {named} with feature maps, not blocks, cannot be fine-tuned here", "use a ViT")
    rate = config.model.drop_path if config.model.drop_path_in == "every" else 0.0
    if rate and not isinstance(encoder, HasBranches):
        named = config.model.encoder.get("method", "this method")
        raise CallError(f"model.drop_path={rate}: an encoder of {named} does not say what its blocks add", "use model.drop_path=0")
    return Pooled(encoder, rate)


def build_head(config: FinetuneConfig, context: BuildContext, kind: type[P]) -> P:
    """A fresh head on the encoder that the settings describe."""
    method, settings = encoder_settings(config.model.encoder)
    encoder = method.build(settings, context).encoder()
    predictor = kind(config, backbone_of(encoder, config))
    generator = weight_rng("head", context.seed)
    if not isinstance(predictor.head, nn.Linear):
        for part in (predictor.head, getattr(predictor, "auxiliary", None)):
            if part is not None:
                initialise_decoder(part, generator)
        return predictor
    with torch.no_grad():
        nn.init.trunc_normal_(predictor.head.weight, std=0.02, a=-2, b=2, generator=generator)
        predictor.head.weight.mul_(config.model.head_scale)
        nn.init.zeros_(predictor.head.bias)
    return predictor
