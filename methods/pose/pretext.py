"""The torch half of relative pose: an encoder of both views, a decoder between them, and a head for rotation and translation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..contract import Batch, BuildContext, Visualisation
from ..dense.network import build_views, grid_of
from ..dense.pretext import SHOWN, FineTunedEncoder, FineTuning
from ..layers.colour import colour_jitter, to_float
from ..layers.cross_view import CrossViewDecoder
from ..layers.initial import uninitialised, weight_rng
from ..ops.image_grid import image_grid
from ..ops.pose_metrics import angles_between, auc_scores, rotation_angles
from ..random import MicrobatchRng
from .config import PoseConfig

LIMITS = (30.0, 10.0, 5.0)
"""Degrees up to which areas under the curve are taken."""
SMALL = 1e-6


def rotation_of(six: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
    """The first two columns, made orthonormal by Gram-Schmidt, and their product: continuous in `six` (Zhou et al., CVPR 2019)."""
    x = nn.functional.normalize(six[:, :3], dim=1)
    y = nn.functional.normalize(six[:, 3:] - (x * six[:, 3:]).sum(dim=1, keepdim=True) * x, dim=1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=2)


class PoseHead(nn.Module):
    """Of each token of image 1, which has looked at image 2, with its ray and the intrinsics of image 2; then the mean over the tokens."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.tokens = nn.Linear(dim, hidden)
        self.rays = nn.Linear(2, hidden, bias=False)
        self.second = nn.Linear(4, hidden, bias=False)
        self.each = nn.Linear(hidden, hidden)
        self.pose = nn.Linear(hidden, 9)

    def forward(
        self, tokens: Float[Tensor, "b n d"], rays: Float[Tensor, "b n 2"], second: Float[Tensor, "b 4"]
    ) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
        """(rotation, translation)."""
        x = self.tokens(self.norm(tokens)) + self.rays(rays) + self.second(second)[:, None]
        x = nn.functional.gelu(self.each(nn.functional.gelu(x))).mean(dim=1)
        out = self.pose(x).float()
        return rotation_of(out[:, :6]), out[:, 6:]


@torch.no_grad()
def initialise_pose_head(head: PoseHead, generator: torch.Generator) -> None:
    """Xavier-uniform, bias 0; the last map small, so that the first prediction is nearly no motion."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    head.pose.weight.mul_(0.1)
    head.pose.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0]))


class PoseNetwork(nn.Module):
    """Two images of one size in [0, 1] with their intrinsics in, the pose T_2from1 out."""

    def __init__(self, encoder: Any, decoder: CrossViewDecoder, head: PoseHead) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.patch_size = int(encoder.patch_size)

    def forward(
        self,
        images1: Float[Tensor, "b 3 h w"],
        images2: Float[Tensor, "b 3 h w"],
        intrinsics1: Float[Tensor, "b 4"],
        intrinsics2: Float[Tensor, "b 4"],
    ) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
        """(rotation, translation). Intrinsics as `PoseModel.intrinsics`."""
        grid = grid_of(images1, self.patch_size)
        b, seen = images1.shape[0], self.encoder.tokens(torch.cat([images1, images2]))
        tokens = self.decoder.block_tokens(seen[:b], seen[b:], grid)[-1]
        rows, columns = ((torch.arange(n, device=tokens.device) + 0.5) / n - 0.5 for n in grid)
        places = torch.stack([columns.repeat(grid[0]), rows.repeat_interleave(grid[1])], dim=1)
        rays = (places - intrinsics1[:, None, 2:]) / intrinsics1[:, None, :2]
        out: tuple[Tensor, Tensor] = self.head(tokens, rays, intrinsics2)
        return out


def relative(K: Float[Tensor, "b 3 3"], size: tuple[int, int]) -> Float[Tensor, "b 4"]:
    """As `PoseModel.intrinsics`, of images of (height, width) `size`."""
    h, w = size
    return torch.stack([K[:, 0, 0] / w, K[:, 1, 1] / h, (K[:, 0, 2] + 0.5) / w - 0.5, (K[:, 1, 2] + 0.5) / h - 0.5], dim=1)


class PosePredictor(FineTunedEncoder):
    """Pairs of images in [0, 1] in, the upper three rows of T_2from1 out. `pose` takes the intrinsics too, `forward` assumes them."""

    output, output_unit = "pose", "metres"
    pair = ("first image", "second image")
    network: PoseNetwork
    intrinsics: Tensor

    def __init__(self, config: PoseConfig, network: PoseNetwork) -> None:
        super().__init__(config.model, network)
        self.unit_length = config.pretext.translation == "direction"
        self.register_buffer("intrinsics", torch.tensor([config.model.intrinsics]), persistent=False)

    def pose(
        self, images1: Float[Tensor, "b 3 h w"], images2: Float[Tensor, "b 3 h w"], K1: Float[Tensor, "b 3 3"], K2: Float[Tensor, "b 3 3"]
    ) -> Float[Tensor, "b 3 4"]:
        """The pose, with K in pixels of the images (pixel centres at whole numbers)."""
        return self._pose(images1, images2, relative(K1, self.image_size), relative(K2, self.image_size))

    def forward(self, pairs: Float[Tensor, "b 2 3 h w"]) -> Float[Tensor, "b 3 4"]:
        assumed = self.intrinsics.expand(pairs.shape[0], -1)
        return self._pose(pairs[:, 0], pairs[:, 1], assumed, assumed)

    def _pose(self, images1: Tensor, images2: Tensor, intrinsics1: Tensor, intrinsics2: Tensor) -> Float[Tensor, "b 3 4"]:
        rotation, translation = self.network(images1, images2, intrinsics1, intrinsics2)
        if self.unit_length:
            translation = nn.functional.normalize(translation, dim=1)
        return torch.cat([rotation, translation[:, :, None]], dim=2)


class PosePretext(FineTuning):
    """After `to_device` a batch holds float `image1`, `image2` in [0, 1], `K1`, `K2` and `pose`, b x 4 x 4."""

    other_parts: ClassVar[dict[str, str]] = {"decoder.": "predicting.network.decoder."}
    predicting: PosePredictor

    def __init__(self, config: PoseConfig, network: PoseNetwork) -> None:
        super().__init__(config.model, PosePredictor(config, network))

    def to_device(self, batch: Batch) -> Batch:
        images = {f"image{i}": colour_jitter(to_float(batch[f"image{i}"]), batch[f"jitter{i}"]) for i in (1, 2)}
        return {**images, **{name: batch[name].float() for name in ("K1", "K2", "pose")}}

    def _predicted(self, batch: Batch, second: Batch | None = None) -> Float[Tensor, "b 3 4"]:
        second = batch if second is None else second
        return self.predicting.pose(batch["image1"], second["image2"], batch["K1"], second["K2"])

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`rotation`: |R - R'| / sqrt(2) of the matrices, 2 sin(angle / 2); `translation`: |t - t'|. Means over the pairs."""
        found, true = self._predicted(batch), batch["pose"]
        translation = true[:, :3, 3]
        if self.predicting.unit_length:
            translation = nn.functional.normalize(translation, dim=1)
        turned = (found[:, :, :3] - true[:, :3, :3]).square().sum(dim=(1, 2)).add(SMALL).sqrt() / 2**0.5
        moved = (found[:, :, 3] - translation).square().sum(dim=1).add(SMALL).sqrt()
        return {"rotation": turned.mean(), "translation": moved.mean()}

    def metrics(self, found: Float[np.ndarray, "b 3 4"], true: Float[np.ndarray, "b 4 4"]) -> dict[str, np.ndarray]:
        """Of each pair. A direction that does not exist is not measured, nor a distance where only directions are learned."""
        rotation = rotation_angles(found[:, :, :3].transpose(0, 2, 1) @ true[:, :3, :3])
        direction = angles_between(found[:, :, 3], true[:, :3, 3])
        worst = np.where(np.isnan(direction), rotation, np.maximum(rotation, direction))
        distance = np.linalg.norm(found[:, :, 3] - true[:, :3, 3], axis=1)
        return {
            **{f"auc_{limit:g}": auc_scores(worst, limit) for limit in LIMITS},
            "rotation_error": rotation,
            "direction_error": direction,
            "translation_error": np.full_like(distance, np.nan) if self.predicting.unit_length else distance,
        }

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """Of each pair, with its own second image, with that of another pair, and for no motion."""
        true = batch["pose"].double().cpu().numpy()
        found: dict[str, Any] = {}
        for given, second in (("", None), ("_other_image", other)):
            measured = self.metrics(self._predicted(batch, second).double().cpu().numpy(), true)
            found |= {f"{name}{given}": value for name, value in measured.items()}
        unmoved = self.metrics(np.broadcast_to(np.eye(4)[:3], (len(true), 3, 4)), true)
        found |= {f"{name}_unmoved": unmoved[name] for name in ("rotation_error", "translation_error")}
        return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        """Both images of some pairs; the errors in words."""
        some = {name: values[:SHOWN] for name, values in batch.items()}
        measured = self.metrics(self._predicted(some).double().cpu().numpy(), some["pose"].double().cpu().numpy())
        pairs = zip(measured["rotation_error"], measured["direction_error"], strict=True)
        errors = "; ".join(f"{rotation:.1f}° and {direction:.1f}°" for rotation, direction in pairs)
        caption = f"Both images of pairs. Errors of rotation and of the direction of translation, from the top: {errors}."
        return [Visualisation("Relative pose", caption, image_grid([some[name].cpu().float() for name in ("image1", "image2")]))]


def build_pose(config: PoseConfig, context: BuildContext) -> PosePretext:
    """The network on the CPU, the same for the same `context.seed`; what `init` does not fill stays random."""
    encoder, decoder = build_views(config.model, context)
    assert decoder is not None
    head = uninitialised(lambda: PoseHead(decoder.dim, config.model.hidden))
    initialise_pose_head(head, weight_rng("pose head", context.seed))
    return PosePretext(config, PoseNetwork(encoder, decoder, head))
