"""The networks of dense tasks: an encoder of one view, or of two with a decoder between them, and a head."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..contract import BuildContext, HasBlockTokens, HasLayers
from ..errors import CallError, SightlineError
from ..finetune.config import encoder_settings
from ..layers.cross_view import CrossViewDecoder, DecoderShape, Grid
from ..layers.initial import uninitialised, weight_rng
from ..layers.positions import sincos_table
from .config import DecoderModel, DenseModel, EncoderModel
from .heads import DptHead, LinearHead, default_hooks, initialise_head, start_at

Head = DptHead | LinearHead


def grid_of(images: Float[Tensor, "b 3 h w"], patch: int) -> Grid:
    """(rows, columns) of patches. Raises `ValueError` where the patch divides no side."""
    h, w = images.shape[2:]
    if h % patch or w % patch:
        raise ValueError(f"images of {h} x {w} pixels (height x width) are no whole patches of {patch}: pad them or predict in tiles")
    return h // patch, w // patch


class OneViewNetwork(nn.Module):
    """Images in [0, 1] in, maps of their size out: monocular depth, normals. `encoder` has `block_tokens`."""

    def __init__(self, encoder: Any, head: Head) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.patch_size = int(encoder.patch_size)

    def block_tokens(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """What the head is given: patch tokens after each block, the last one after the final norm."""
        tokens: list[Tensor] = self.encoder.block_tokens(images)
        return tokens

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        h, w = images.shape[2:]
        grid = grid_of(images, self.patch_size)
        out: Tensor = self.head(self.block_tokens(images), grid, (h, w))
        return out


class TwoViewNetwork(nn.Module):
    """Two images of one size in [0, 1] in, maps of image 1 out: stereo, optical flow. Nothing is masked.

    Both views go through the encoder as one batch; the head is given the encoder's blocks for image 1, then the decoder's.
    """

    def __init__(self, encoder: Any, decoder: CrossViewDecoder, head: Head) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.patch_size = int(encoder.patch_size)

    def block_tokens(self, images1: Float[Tensor, "b 3 h w"], images2: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """What the head is given: of image 1 after each block of the encoder and of the decoder, each last one after its final norm."""
        blocks: list[Tensor] = self.encoder.block_tokens(torch.cat([images1, images2]))
        b = images1.shape[0]
        decoded = self.decoder.block_tokens(blocks[-1][:b], blocks[-1][b:], grid_of(images1, self.patch_size))
        return [tokens[:b] for tokens in blocks] + decoded

    def forward(self, images1: Float[Tensor, "b 3 h w"], images2: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        h, w = images1.shape[2:]
        grid = grid_of(images1, self.patch_size)
        out: Tensor = self.head(self.block_tokens(images1, images2), grid, (h, w))
        return out


def build_head(model: DenseModel, channels: int, encoder: Any, decoder: CrossViewDecoder | None = None) -> Head:
    """An uninitialised head for the tokens of an encoder, and of a decoder after it. Raises `CallError` for hooks that are no blocks."""
    dims = [encoder.dim] * encoder.depth + ([decoder.dim] * decoder.depth if decoder is not None else [])
    if model.head == "linear":
        return LinearHead(dims[-1], encoder.patch_size, channels)
    hooks = model.hooks or default_hooks(encoder.depth, decoder.depth if decoder is not None else 0)
    if max(hooks) >= len(dims):
        raise CallError(f"model.hooks {list(hooks)}: there are {len(dims)} blocks", f"name four from 0 to {len(dims) - 1}")
    return DptHead([dims[hook] for hook in hooks], hooks, channels, model.widths, model.features, model.last)


def build_decoder(model: DecoderModel, encoder: Any) -> CrossViewDecoder:
    """An uninitialised decoder on the tokens of an encoder; a fixed table has the grid of the encoder's own image size."""
    h, w = encoder.image_size
    return CrossViewDecoder(
        DecoderShape(
            encoder_dim=encoder.dim,
            dim=model.decoder_dim,
            depth=model.decoder_depth,
            heads=model.decoder_heads,
            grid=(h // encoder.patch_size, w // encoder.patch_size),
            rope=(model.rope_base, model.rope_f0) if model.position == "rope" else None,
            mlp_ratio=model.mlp_ratio,
            norm_memory=model.norm_memory,
        )
    )


@torch.no_grad()
def initialise_decoder(decoder: CrossViewDecoder, generator: torch.Generator) -> None:
    """As CroCo's: linear maps Xavier-uniform (qkv as one matrix), bias 0; norms 1 / 0; the table by its formula."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    if decoder.rope is None:
        decoder.dec_pos_embed.copy_(sincos_table(decoder.dim, decoder.grid))


def _check_size(encoder: Any, size: tuple[int, int], method: str) -> None:
    """Raise `CallError` where an encoder of another image size has no positions for crops of `size`. It looks at a crop to find out."""
    if tuple(encoder.image_size) == size:
        return
    height, width = encoder.image_size
    hint = f"use model.image_size=[{height},{width}], its own"
    training = encoder.training
    try:
        with torch.no_grad():
            found = encoder.eval().block_tokens(torch.zeros(1, 3, *size))[-1].shape[1]
    except (RuntimeError, ValueError, AssertionError, SightlineError) as error:
        reason = str(error).partition("\n")[0]
        raise CallError(
            f"the encoder of {method} sees {height} x {width} pixels, and no crops of {size[0]} x {size[1]}: {reason}", hint
        ) from None
    finally:
        encoder.train(training)
    cells = size[0] // encoder.patch_size * (size[1] // encoder.patch_size)
    if found != cells:
        raise CallError(f"the encoder of {method} gives {found} tokens for a crop of {size[0]} x {size[1]}, not its {cells} patches", hint)


def build_views(model: EncoderModel, context: BuildContext) -> tuple[Any, CrossViewDecoder | None]:
    """(encoder, decoder), a decoder for models that have one. Freshly initialised on the CPU, the same for the same `context.seed`.

    Raises `CallError` for an encoder that does not give the tokens of its blocks.
    """
    method, settings = encoder_settings(model.encoder)
    encoder = method.build(settings, context).encoder()
    if not isinstance(encoder, HasBlockTokens):
        raise CallError(f"the encoder of {method.id} does not give the tokens of its blocks", "use an encoder that has `block_tokens`")
    if not isinstance(encoder, HasLayers):
        raise CallError(f"the encoder of {method.id} does not tell the depth of its parameters", "use an encoder that has `layer_of`")
    patch = encoder.patch_size
    for side in model.image_size:
        if side % patch:
            raise CallError(
                f"model.image_size {side} is no multiple of the encoder's patch, {patch}", f"use {max(1, round(side / patch)) * patch}"
            )
    _check_size(encoder, model.image_size, method.id)
    if not isinstance(model, DecoderModel):
        return encoder, None
    decoder = uninitialised(lambda: build_decoder(model, encoder))
    initialise_decoder(decoder, weight_rng("dense decoder", context.seed))
    return encoder, decoder


def build_network(model: DenseModel, channels: int, context: BuildContext, first: float | None = None) -> OneViewNetwork | TwoViewNetwork:
    """Of two views for a `TwoViewModel`. As `build_views`. `first`: what the head predicts before training, in its first channel."""
    encoder, decoder = build_views(model, context)
    head = uninitialised(lambda: build_head(model, channels, encoder, decoder))
    initialise_head(head, weight_rng("dense head", context.seed))
    if first is not None:
        start_at(head, first)
    return OneViewNetwork(encoder, head) if decoder is None else TwoViewNetwork(encoder, decoder, head)
