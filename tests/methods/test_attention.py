"""Attention as it is fastest: the same numbers as PyTorch's fused attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sightline.methods.layers import attention
from sightline.methods.layers.attention import attend

Tensors = tuple[Tensor, ...]


def inputs(n: int = 12, m: int = 9, bias: str = "none", seed: int = 0) -> list[Tensor | None]:
    """q, k, v as views of projections, as the networks have them; float32 numbers that bf16 can hold."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16().float()

    q, k, v = (drawn(2, length, 3, 8).transpose(1, 2) for length in (n, m, m))
    if bias == "added":
        return [q, k, v, drawn(1, 3, n, m)]
    if bias == "seen":
        seen = torch.rand(2, 1, 1, m, generator=generator) > 0.5
        seen[..., 0] = True
        return [q, k, v, seen]
    return [q, k, v, None]


def result_and_gradients(dtype: torch.dtype, given: list[Tensor | None], call: object = attend) -> Tensors:
    leaves = [t.to(dtype).requires_grad_() if t is not None and t.is_floating_point() else t for t in given]
    out = call(*leaves)  # type: ignore[operator]
    out.backward(torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16().to(dtype))
    return out.detach(), *(t.grad for t in leaves if t is not None and t.grad is not None)


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


@pytest.mark.parametrize("bias", ["none", "added", "seen"])
def test_bf16_agrees_with_float64(bias: str) -> None:
    given = inputs(bias=bias)
    exact, ours = (result_and_gradients(dtype, given, call) for dtype, call in ((torch.float64, fused), (torch.bfloat16, attend)))
    assert len(exact) == (5 if bias == "added" else 4)
    for right, one in zip(exact, ours, strict=True):
        assert one.dtype == torch.bfloat16 and one.shape == right.shape
        assert (one.double() - right).norm() < 0.008 * right.norm()  # bf16 rounds by at most 0.004 of a number


@pytest.mark.parametrize("bias", ["none", "added", "seen"])
def test_float32_is_the_fused_kernel_to_the_bit(bias: str) -> None:
    given = inputs(bias=bias)
    pairs = zip(result_and_gradients(torch.float32, given), result_and_gradients(torch.float32, given, fused), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_table_that_is_too_large_is_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, _ = (t if t is None else t.bfloat16() for t in inputs())
    assert q is not None and k is not None and v is not None
    assert not torch.equal(attend(q, k, v), fused(q, k, v, None))  # another order of roundings
    monkeypatch.setattr(attention, "LARGEST", 2 * 2 * 3 * 12 * 9 - 1)
    assert torch.equal(attend(q, k, v), fused(q, k, v, None))


def test_other_devices_keep_the_fused_kernel() -> None:
    q = torch.empty(2, 3, 12, 8, dtype=torch.bfloat16, device="meta")
    assert not attention._pays_to_write_out(q, q)
