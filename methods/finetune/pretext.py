"""The torch half of fine-tuning: encoder and linear head, trained end to end on labels."""

from __future__ import annotations

import copy
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ..contract import Batch, BuildContext, Visualisation
from ..errors import SightlineError
from ..layers.colour import colour_jitter, to_float
from ..layers.drop_path import draw_kept
from ..layers.ema import average_update
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, layer_groups, standard_schedules
from ..random import MicrobatchRng
from .config import ClassificationConfig, FinetuneConfig, SegmentationConfig
from .decoders import draw_alive
from .diagnostics import label_maps
from .network import Classifier, Segmenter, backbone_of, build_head
from .views import NO_CLASS


class FinetunePretext(nn.Module):
    """What both tasks share: the trainer sees a `Pretext` like any other.

    With `pretext.ema`, `predictor` is the average, which is never trained, and `student` the network that is.
    """

    def __init__(self, config: FinetuneConfig, predictor: Classifier | Segmenter) -> None:
        super().__init__()
        self.config, self.predictor = config, predictor
        self.student: Classifier | Segmenter | None = None
        self.encoder_prefixes: tuple[str, ...] = ("predictor.backbone.",)
        if config.pretext.ema:
            self.student = copy.deepcopy(predictor)
            predictor.requires_grad_(False)
            self.encoder_prefixes = ("predictor.backbone.", "student.backbone.")

    @property
    def trained(self) -> Classifier | Segmenter:
        return self.predictor if self.student is None else self.student

    @property
    def kept_weights(self) -> str:
        return f"the average over the steps (pretext.ema={self.config.pretext.ema:g})" if self.student is not None else ""

    def encoder_form(self, encoder: nn.Module) -> nn.Module:
        return backbone_of(encoder, self.config)

    def kept(self, batch: int, rng: MicrobatchRng, device: torch.device) -> Tensor | None:
        if not self.training:
            return None
        return draw_kept(self.config.model.drop_path, self.predictor.backbone.depth, batch, rng.torch("drop_path"), device)

    def after_step(self, step: int, steps: int) -> None:
        """The average follows the network, where there is one."""
        if self.student is not None:
            average_update(self.predictor, self.student, self.config.pretext.ema, step + 1)

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension; the rate of a layer is `optim.layer_decay` ** (layers above it)."""
        backbone, prefix = self.trained.backbone, self.encoder_prefixes[-1]
        top = backbone.depth + 1
        return layer_groups(
            ((name, parameter) for name, parameter in self.named_parameters() if self.student is None or not name.startswith("predictor.")),
            lambda name: backbone.layer_of(name.removeprefix(prefix)) if name.startswith(prefix) else top,
            top,
            optim.layer_decay,
            lambda name, p: p.ndim == 1 or name.endswith((".bias", "pos_embed", "cls_token", "cls_emb")),
        )

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return standard_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        return copy.deepcopy(self.predictor)


class ClassificationPretext(FinetunePretext):
    config: ClassificationConfig

    def to_device(self, batch: Batch) -> Batch:
        return {"image": to_float(batch["image"]), "label": batch["label"], "erase": batch["erase"]}

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        images, classes = batch["image"], self.config.model.classes
        if not self.training:
            logits = self.predictor.logits(images).float()
            return {"cross_entropy": cross_entropy(logits, batch["label"]), "accuracy": accuracy(logits, batch["label"])}
        images = erase_boxes(images, batch["erase"], rng.torch("erase", images.device))
        smoothing = self.config.pretext.label_smoothing
        targets = one_hot(batch["label"], classes).float() * (1 - smoothing) + smoothing / classes
        images, targets = mix(images, targets, rng, self.config.augment.mixup, self.config.augment.cutmix)
        network = cast(Classifier, self.trained)
        logits = network.logits(images, self.kept(len(images), rng, images.device)).float()
        return {"cross_entropy": cross_entropy(logits, targets), "accuracy": accuracy(logits, targets.argmax(dim=1))}


class SegmentationPretext(FinetunePretext):
    config: SegmentationConfig
    predictor: Segmenter

    def to_device(self, batch: Batch) -> Batch:
        return {"image": colour_jitter(to_float(batch["image"]), batch["jitter"]), "mask": batch["mask"].long()}

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        images, mask = batch["image"], batch["mask"]
        kept = self.kept(len(images), rng, images.device)
        auxiliary = None
        network = cast(Segmenter, self.trained) if self.training else self.predictor
        if self.training and network.auxiliary is not None:
            if len(images) < 2:
                raise SightlineError("a microbatch of one image has no batch statistics", "use batch.microbatch=2 or more with UPerNet")
            drawn = rng.torch("dropout")
            alive = [draw_alive(len(images), width, drawn, images.device) for width in network.dropped_widths]
            logits, auxiliary = network.logits_and_auxiliary(images, kept, *alive)
        else:
            logits = network.logits(images, kept).float()
        counts = mask != NO_CLASS
        right = ((logits.argmax(dim=1) == mask) & counts).sum()
        loss, accuracy = self._loss(logits, mask), right / counts.sum().clamp(min=1)
        if auxiliary is None:
            return {"cross_entropy": loss, "accuracy": accuracy}
        second = self._loss(auxiliary, mask)
        return {"cross_entropy": loss + self.config.pretext.auxiliary * second, "accuracy": accuracy, "auxiliary": second.detach()}

    def _loss(self, logits: Float[Tensor, "b c h w"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Summed and divided by hand: a crop in which no pixel counts gives 0, not the mean of nothing."""
        losses = cross_entropy(logits, mask, ignore_index=NO_CLASS, label_smoothing=self.config.pretext.label_smoothing, reduction="sum")
        return losses / (mask != NO_CLASS).sum().clamp(min=1)

    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        model = self.config.model
        names = model.class_names or tuple(map(str, range(model.classes)))
        return [label_maps(batch["image"], batch["mask"], self.predictor.logits(batch["image"]).argmax(dim=1), names, model.palette)]


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
    images: Float[Tensor, "b 3 h w"], targets: Float[Tensor, "b c"], rng: MicrobatchRng, mixup: float, cutmix: float
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b c"]]:
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of each image with that in the mirrored place of the microbatch.

    One draw a microbatch.
    """
    draws = rng.numpy("mix")
    both = mixup > 0 and cutmix > 0
    cut = cutmix > 0 and (not both or draws.random() < 0.5)
    strength = cutmix if cut else mixup
    if strength <= 0:
        return images, targets
    share = float(draws.beta(strength, strength))
    if cut:
        h, w = images.shape[2:]
        box_h, box_w = int(h * (1 - share) ** 0.5), int(w * (1 - share) ** 0.5)
        y, x = int(draws.integers(h)), int(draws.integers(w))
        top, bottom, left, right = max(0, y - box_h // 2), min(h, y + box_h // 2), max(0, x - box_w // 2), min(w, x + box_w // 2)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (h * w)
    else:
        mixed = images * share + images.flip(0) * (1 - share)
    return mixed, targets * share + targets.flip(0) * (1 - share)


def build_classification(config: ClassificationConfig, context: BuildContext) -> ClassificationPretext:
    """The network on the CPU, the same for the same `context.seed`; the encoder's weights are random until `init` fills them."""
    return ClassificationPretext(config, build_head(config, context, Classifier))


def build_segmentation(config: SegmentationConfig, context: BuildContext) -> SegmentationPretext:
    """As `build_classification`, with a decoder of the patches."""
    return SegmentationPretext(config, build_head(config, context, Segmenter))
