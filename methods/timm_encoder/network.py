"""An `ImageEncoder` made of a timm model: its patch tokens, its normalisation, and where its last block looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import CallError
from .config import TimmModel

EMBEDDING = tuple(f"network.{name}" for name in ("patch_embed.", "cls_token", "reg_token", "pos_embed", "norm_pre."))


class TimmEncoder(nn.Module):
    """ViTs give the tokens after the final norm; networks with feature maps (ResNet, ConvNeXt, Swin) the cells of the last one.

    `saliency`: attention of the class token in the last block, mean over heads; without a class token the mean attention that a patch
    receives; without attention the length of its feature (ours). Rows sum to 1.
    """

    network: Any
    mean: Tensor
    std: Tensor

    def __init__(self, model: TimmModel) -> None:
        super().__init__()
        self.network, config = _create(model)
        self.name, self.project = model.name, model.project
        if model.project and not isinstance(getattr(self.network, "head", None), nn.Linear):
            raise CallError(f"timm's {model.name} has no head that takes its tokens one by one", "leave model.project=false")
        self.register_buffer("mean", torch.tensor(config["mean"], device="cpu").view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"], device="cpu").view(-1, 1, 1), persistent=False)
        self.prefix = int(getattr(self.network, "num_prefix_tokens", 0))
        if self.last is not None:
            self.last.fused_attn = False  # its matrix is asked for
        patches = getattr(self.network, "patch_embed", None)
        size = getattr(patches, "img_size", None) or config["input_size"][1:]
        self.patch_size = self._patch_size(patches)
        height, width = (size, size) if isinstance(size, int) else size
        self.image_size = (self._whole(height), self._whole(width))
        self.dim = int(self.network.num_classes if model.project else self.network.num_features)

    @property
    def last(self) -> Any:
        """The attention of the last block; None where there is none."""
        return _last_attention(self.network)

    def _whole(self, side: int) -> int:
        """The next multiple of a patch: where its own size is none, as with ResNets at 176, a network with feature maps pads."""
        return -(-int(side) // self.patch_size) * self.patch_size

    def _patch_size(self, patches: Any) -> int:
        if self.last is not None and hasattr(patches, "feat_ratio"):
            return int(patches.feat_ratio())
        return int(self.network.feature_info[-1]["reduction"])

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self._projected(self._features(images))

    @property
    def depth(self) -> int:
        """Blocks of a ViT; a network with feature maps has no such attribute."""
        if self.last is None or self.project:
            raise AttributeError("depth")
        return len(self.network.blocks)

    @property
    def branches(self) -> list[tuple[nn.Module, nn.Module]]:
        """Where timm itself would drop them; networks without such blocks have no such attribute."""
        blocks = list(self.network.blocks) if self.last is not None else []
        if not blocks or not all(hasattr(block, "drop_path1") and hasattr(block, "drop_path2") for block in blocks):
            raise AttributeError("branches")
        return [(block.drop_path1, block.drop_path2) for block in blocks]

    def block_tokens(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
        """Patch tokens after each block of a ViT, the last one after the final norm."""
        found = self.network.forward_intermediates((images - self.mean) / self.std, output_fmt="NLC", intermediates_only=True)
        return [*found[:-1], self._one_a_patch(self.network.norm(found[-1]), images)]

    @property
    def level_dims(self) -> list[int]:
        """Channels of each block of a ViT, of each stage of another network."""
        return [int(info["num_chs"]) for info in self.network.feature_info]

    @contextmanager
    def watching(self, level: int) -> Iterator[list[Float[Tensor, "b c y x"]]]:
        """The maps of a block or stage, -1 the last, in every pass meanwhile: before the network's last norm, layers and head."""
        maps: list[Tensor] = []
        module = self.network.get_submodule(self.network.feature_info[level]["module"])
        hook = module.register_forward_hook(lambda module, inputs, output: maps.append(self._as_map(output)))
        try:
            yield maps
        finally:
            hook.remove()

    def _as_map(self, found: Tensor) -> Tensor:
        if found.ndim == 3:  # tokens
            rows, columns = (side // self.patch_size for side in self.image_size)
            return found[:, self.prefix :].transpose(1, 2).reshape(len(found), -1, rows, columns)
        return found.permute(0, 3, 1, 2) if getattr(self.network, "output_fmt", "NCHW") == "NHWC" else found

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 (embedding), i + 1 (block i), depth + 1 (what follows)."""
        if match := re.match(r"network\.blocks\.(\d+)\.", name):
            return int(match[1]) + 1
        return 0 if name.startswith(EMBEDDING) else self.depth + 1

    def _projected(self, found: Tensor) -> Tensor:
        if not self.project:
            return found
        head: Tensor = self.network.head(self.network.fc_norm(found)) if hasattr(self.network, "fc_norm") else self.network.head(found)
        return head

    def image_feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """What timm gives a classifier: the class token after the final norm, or what the model pools; with `project` behind its head."""
        found = self.network.forward_features((images - self.mean) / self.std)
        feature: Tensor = self.network.forward_head(found, pre_logits=not self.project)
        return feature

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokens(images)

    def _features(self, images: Tensor) -> Tensor:
        found = self.network.forward_features((images - self.mean) / self.std)
        if isinstance(found, Tensor) and found.ndim == 4:
            channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC" or found.shape[-1] == self.network.num_features
            found = found.flatten(1, 2) if channels_last else found.flatten(2).transpose(1, 2)
        elif isinstance(found, Tensor) and found.ndim == 3:
            found = found[:, self.prefix :]
        return self._one_a_patch(found, images)

    def _one_a_patch(self, found: Any, images: Tensor) -> Tensor:
        """Raises `CallError` where the network has no feature, or no attention, for each patch in raster order."""
        rows, columns = (side // self.patch_size for side in images.shape[2:])
        if not isinstance(found, Tensor) or found.ndim < 2 or found.shape[1] != rows * columns:
            got = f"{found.shape[1]} of them" if isinstance(found, Tensor) and found.ndim > 1 else "none"
            raise CallError(
                f"timm's {self.name} does not have one feature a patch: {rows} x {columns} are needed for {images.shape[2]} x "
                f"{images.shape[3]} pixels, it gives {got}",
                f"give images whose sides are multiples of {self.patch_size}, or choose a ViT, a ResNet, a ConvNeXt or a Swin",
            )
        return found

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        return self.tokens_and_saliency(images)[1]

    def tokens_and_saliency(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Both from one pass."""
        tokens, rows = self._tokens_and_rows(images)
        return tokens, rows / rows.sum(dim=1, keepdim=True)

    def tokens_and_attention(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """The class token's attention as it is, without what it gives itself and register tokens."""
        tokens, rows = self._tokens_and_rows(images)
        has_class = self.last is not None and self.network.cls_token is not None
        return tokens, rows if has_class else rows / rows.sum(dim=1, keepdim=True)

    def _tokens_and_rows(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, what `saliency` is made of: not scaled)."""
        found, matrix = self.features_and_attention(images)
        if matrix is None:
            return self._projected(found), found.norm(dim=-1)
        rows = matrix[:, 0, self.prefix :] if self.network.cls_token is not None else matrix[:, self.prefix :, self.prefix :].mean(dim=1)
        return self._projected(found), self._one_a_patch(rows, images)

    def features_and_attention(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(features, attention of the last block: b x m x m, mean over heads, class and register tokens first; None without attention)."""
        if self.last is None:
            return self._features(images), None
        seen: list[Tensor] = []
        hook = self.last.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            found = self._features(images)
        finally:
            hook.remove()
        return found, seen[-1].float().mean(dim=1)


def _create(model: TimmModel) -> tuple[Any, dict[str, Any]]:
    import timm

    arguments: dict[str, Any] = {**({} if model.project else {"num_classes": 0}), **model.arguments}
    try:
        network: Any = timm.create_model(model.name, pretrained=False, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        if timm.is_model(model.name):
            raise CallError(f"timm cannot make {model.name} with {arguments}: {error}", "correct model.arguments") from None
        near = get_close_matches(model.name.partition(".")[0], timm.list_models(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`timm.list_models()` has the names"
        raise CallError(f"timm has no model {model.name!r}", hint) from None
    return network, dict(network.pretrained_cfg)


def _last_attention(network: Any) -> Any:
    blocks = getattr(network, "blocks", None)
    last = getattr(blocks[-1], "attn", None) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks) else None
    return last if hasattr(last, "attn_drop") and hasattr(network, "cls_token") else None
