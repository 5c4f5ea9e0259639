"""The torch half of fine-tuning: encoder and linear head, trained end to end on labels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, one_hot

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter
from ..layers.drop_path import draw_kept
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, decay_groups, standard_schedules
from ..random import MicrobatchRng, key
from .config import ClassificationConfig, FinetuneConfig, SegmentationConfig, encoder_settings
from .views import NO_CLASS


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


class Predictor(nn.Module):
    """The fine-tuned network as it is registered and used: images in [0, 1] in, class logits out."""

    def __init__(self, config: FinetuneConfig, backbone: Any) -> None:
        super().__init__()
        model = config.model
        self.backbone, self.image_size = backbone, model.image_size
        self.dim, self.patch_size, self.classes = backbone.dim, backbone.patch_size, model.classes
        self.head = nn.Linear(self.dim, model.classes, device="meta").to_empty(device="cpu")  # filled by `_predictor`

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        tokens: Tensor = self.backbone(images)[0]
        return tokens


class Classifier(Predictor):
    task, output = "classification", "logits"

    def logits(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> Float[Tensor, "b c"]:
        out: Tensor = self.head(self.backbone(images, kept)[1])
        return out

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.logits(images)


class Segmenter(Predictor):
    """Segmenter's linear decoder: one linear map a patch, then bilinear to pixels."""

    task, output = "segmentation", "logits"

    def logits(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        h, w = images.shape[2:]
        tokens = self.head(self.backbone(images, kept)[0])
        maps = tokens.transpose(1, 2).unflatten(2, (h // self.patch_size, w // self.patch_size))
        return interpolate(maps.float(), size=(h, w), mode="bilinear", align_corners=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        return self.logits(images)


class FinetunePretext(nn.Module):
    """What both tasks share: the trainer sees a `Pretext` like any other."""

    encoder_prefixes = ("predictor.backbone.",)

    def __init__(self, config: FinetuneConfig, predictor: Any) -> None:
        super().__init__()
        self.config, self.predictor = config, predictor

    def encoder_form(self, encoder: nn.Module) -> nn.Module:
        backbone: nn.Module = _backbone_of(encoder, self.config)
        return backbone

    def kept(self, batch: int, noise: MicrobatchRng, device: torch.device) -> Tensor | None:
        if not self.training:
            return None
        return draw_kept(self.config.model.drop_path, self.predictor.backbone.depth, batch, noise.torch("drop_path", device))

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension; the rate of a layer is `optim.layer_decay` ** (layers above it)."""
        backbone = self.predictor.backbone
        top = backbone.depth + 1
        layers: dict[int, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.named_parameters():
            inside = name.removeprefix("predictor.backbone.")
            layer = top if inside == name else backbone.layer_of(inside)
            layers.setdefault(layer, []).append((name, parameter))
        groups = []
        for layer, named in sorted(layers.items()):
            for group in decay_groups(named, lambda name, p: p.ndim == 1 or name.endswith((".bias", "pos_embed", "cls_token"))):
                group.lr_scale, group.name = optim.layer_decay ** (top - layer), f"layer{layer}.{group.name}"
                groups.append(group)
        return groups

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return standard_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        predictor: nn.Module = copy.deepcopy(self.predictor)
        return predictor

    def visualisations(self, batch: Batch, noise: MicrobatchRng) -> list[Visualisation]:
        return []


class ClassificationPretext(FinetunePretext):
    config: ClassificationConfig

    def to_device(self, batch: Batch) -> Batch:
        return {"image": batch["image"].permute(0, 3, 1, 2).float() / 255, "label": batch["label"], "erase": batch["erase"]}

    def forward(self, batch: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
        images, classes = batch["image"], self.config.model.classes
        if not self.training:
            logits = self.predictor.logits(images).float()
            return {"cross_entropy": cross_entropy(logits, batch["label"]), "accuracy": accuracy(logits, batch["label"])}
        images = erase_boxes(images, batch["erase"], noise.torch("erase", images.device))
        smoothing = self.config.pretext.label_smoothing
        targets = one_hot(batch["label"], classes).float() * (1 - smoothing) + smoothing / classes
        images, targets = mix(images, targets, noise, self.config.augment.mixup, self.config.augment.cutmix)
        logits = self.predictor.logits(images, self.kept(len(images), noise, images.device)).float()
        return {"cross_entropy": cross_entropy(logits, targets), "accuracy": accuracy(logits, targets.argmax(dim=1))}


class SegmentationPretext(FinetunePretext):
    config: SegmentationConfig

    def to_device(self, batch: Batch) -> Batch:
        images = batch["image"].permute(0, 3, 1, 2).float() / 255
        return {"image": colour_jitter(images, batch["jitter"]), "mask": batch["mask"].long()}

    def forward(self, batch: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
        images, mask = batch["image"], batch["mask"]
        logits = self.predictor.logits(images, self.kept(len(images), noise, images.device)).float()
        counts = mask != NO_CLASS
        # Summed and divided by hand: a crop in which no pixel counts gives 0, not the mean of nothing.
        losses = cross_entropy(logits, mask, ignore_index=NO_CLASS, label_smoothing=self.config.pretext.label_smoothing, reduction="sum")
        total = counts.sum().clamp(min=1)
        right = ((logits.argmax(dim=1) == mask) & counts).sum()
        return {"cross_entropy": losses / total, "accuracy": right / total}


def accuracy(logits: Float[Tensor, "b c"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Share of right predictions."""
    return (logits.argmax(dim=1) == labels).float().mean()


def erase_boxes(images: Float[Tensor, "b 3 h w"], boxes: Int[Tensor, "b 4"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Random erasing (Zhong et al., 2020), pixel mode: boxes (top, left, height, width) are filled with noise of ImageNet's moments."""
    if not bool(boxes[:, 2].any()):
        return images
    rows = torch.arange(images.shape[2], device=images.device)[None, :, None]
    columns = torch.arange(images.shape[3], device=images.device)[None, None, :]
    top, left, height, width = (boxes[:, i, None, None] for i in range(4))
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    fill = 0.45 + 0.225 * torch.randn(images.shape, generator=generator, device=images.device)
    return torch.where(inside[:, None], fill, images)


def mix(
    images: Float[Tensor, "b 3 h w"], targets: Float[Tensor, "b c"], noise: MicrobatchRng, mixup: float, cutmix: float
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b c"]]:
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of each image with its mirror in the group; one draw a group."""
    rng = noise.numpy("mix")
    both = mixup > 0 and cutmix > 0
    cut = cutmix > 0 and (not both or rng.random() < 0.5)
    strength = cutmix if cut else mixup
    if strength <= 0:
        return images, targets
    share = float(rng.beta(strength, strength))
    if cut:
        h, w = images.shape[2:]
        box_h, box_w = int(h * (1 - share) ** 0.5), int(w * (1 - share) ** 0.5)
        y, x = int(rng.integers(h)), int(rng.integers(w))
        top, bottom, left, right = max(0, y - box_h // 2), min(h, y + box_h // 2), max(0, x - box_w // 2), min(w, x + box_w // 2)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (h * w)
    else:
        mixed = images * share + images.flip(0) * (1 - share)
    return mixed, targets * share + targets.flip(0) * (1 - share)


def _backbone_of(encoder: Any, config: FinetuneConfig) -> Any:
    """The fine-tuning form of an encoder: its own where the paper has one, else its tokens and their mean."""
    return encoder.finetuning(config.model.image_size, config.model.drop_path) if hasattr(encoder, "finetuning") else Pooled(encoder)


def _predictor(config: FinetuneConfig, context: BuildContext, kind: type[Predictor]) -> Predictor:
    method, settings = encoder_settings(config.model.encoder)
    encoder = method.build(settings, context).encoder()
    predictor = kind(config, _backbone_of(encoder, config))
    generator = torch.Generator().manual_seed(key("weights", "head", context.seed) >> 1)
    with torch.no_grad():
        nn.init.trunc_normal_(predictor.head.weight, std=0.02, a=-2, b=2, generator=generator)
        predictor.head.weight.mul_(config.model.head_scale)
        nn.init.zeros_(predictor.head.bias)
    return predictor


def build_classification(config: ClassificationConfig, context: BuildContext) -> ClassificationPretext:
    """The network on the CPU, the same for the same `context.seed`; the encoder's weights are random until `init` fills them."""
    return ClassificationPretext(config, _predictor(config, context, Classifier))


def build_segmentation(config: SegmentationConfig, context: BuildContext) -> SegmentationPretext:
    """As `build_classification`, with a linear map for each patch."""
    return SegmentationPretext(config, _predictor(config, context, Segmenter))
