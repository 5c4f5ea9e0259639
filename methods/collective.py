"""The one door to `torch.distributed`: identity where it is not initialised."""

from __future__ import annotations

import torch
import torch.distributed as dist


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if active() else 1


def rank() -> int:
    return dist.get_rank() if active() else 0


def gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of all ranks in rank order, equal shapes, without gradient; on every rank."""
    if not active():
        return [tensor]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return parts


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, in place, without gradient; on every rank."""
    if active():
        dist.all_reduce(tensor)
    return tensor


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all ranks, without gradient; on every rank."""
    return sum_(tensor.detach().clone()) / world_size()


def broadcast(tensor: torch.Tensor, source: int = 0) -> torch.Tensor:
    if active():
        dist.broadcast(tensor, source)
    return tensor


def barrier() -> None:
    if active():
        dist.barrier()
