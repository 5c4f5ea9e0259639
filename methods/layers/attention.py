"""Attention by what is fastest for device, dtype and shape."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

LARGEST = 128 * 2**20
"""Most bytes of the table of weights that is written out and kept for the backward pass; fused attention keeps none."""


def attend(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"], bias: Shaped[Tensor, "#b #h #n m"] | None = None
) -> Float[Tensor, "b n h d"]:
    """softmax(q k' / sqrt(d) + bias) v. A bool `bias` says which keys a query sees: at least one.

    PyTorch's fused attention, except in bf16 on a CPU, where its kernel takes two to seven times as long as the products written out:
    there q k' is rounded to bf16, and the softmax computes in float32 and rounds its result.
    """
    if _pays_to_write_out(q, k):
        out: Tensor = _WrittenOut.apply(q, k, v, bias)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias if bias is None or bias.dtype == torch.bool else bias.to(q.dtype))
    return out.transpose(1, 2)


def _pays_to_write_out(q: Tensor, k: Tensor) -> bool:
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q[..., 0].numel() * k.shape[2] * q.element_size() <= LARGEST


class _WrittenOut(torch.autograd.Function):
    """One product after the other. Autograd's own operators would copy in between: autocast makes the softmax float32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        b, h, n, d = q.shape
        scale = d**-0.5
        q, k, v = (t.reshape(b * h, -1, d) for t in (q, k, v))
        if bias is None:
            logits = torch.baddbmm(q.new_zeros(1), q, k.transpose(1, 2), beta=0, alpha=scale)
        else:
            added = torch.zeros_like(bias, dtype=q.dtype).masked_fill_(~bias, -torch.inf) if bias.dtype == torch.bool else bias.to(q.dtype)
            logits = added.expand(b, h, n, -1).contiguous().view(b * h, n, -1).baddbmm_(q, k.transpose(1, 2), alpha=scale)
        weights = torch.ops.aten._softmax(logits, -1, False)
        ctx.save_for_backward(q, k, v, weights)
        ctx.heads, ctx.scale, ctx.bias = (b, h), scale, bias if bias is None else (bias.shape, bias.dtype)
        return torch.bmm(weights, v).view(b, h, n, d)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad = grad.reshape(q.shape)
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, v.transpose(1, 2))
        grad_logits = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        none = q.new_zeros(1)
        grad_q = torch.baddbmm(none, grad_logits, k, beta=0, alpha=ctx.scale)
        grad_k = torch.baddbmm(none, grad_logits.transpose(1, 2), q, beta=0, alpha=ctx.scale)
        grad_bias = None
        if ctx.needs_input_grad[3]:
            shape, dtype = ctx.bias
            grad_bias = grad_logits.view(*ctx.heads, *grad_logits.shape[1:]).sum_to_size(shape).to(dtype)
        return *(t.view(*ctx.heads, -1, q.shape[-1]) for t in (grad_q, grad_k, grad_v)), grad_bias
