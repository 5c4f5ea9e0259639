"""All use of `torch.distributed`. Where it is not initialised, the functions return what they are given."""

from __future__ import annotations

import json
from collections.abc import Mapping

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


def broadcast_bytes(words: bytes, device: torch.device) -> bytes:
    """The bytes of rank 0, on every rank. `device`: one that the process group can use."""
    if not active():
        return words
    size = int(broadcast(torch.tensor([len(words)], device=device)))
    if rank() != 0:
        words = bytes(size)
    return bytes(broadcast(torch.tensor(list(words), dtype=torch.uint8, device=device)).tolist())


def broadcast_tensors(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of rank 0, on the CPU of every rank, sent one after another. Nothing is pickled."""
    if not active():
        return dict(tensors)
    lead = rank() == 0
    heads = [[name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors.items()] if lead else []
    shared: dict[str, torch.Tensor] = {}
    for name, dtype, shape in json.loads(broadcast_bytes(json.dumps(heads).encode(), device)):
        mine = tensors[name].to(device).contiguous() if lead else torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        broadcast(mine.reshape(-1).view(torch.uint8))  # bytes, whatever types the backend knows
        shared[name] = mine.cpu()
    return shared


def barrier() -> None:
    if active():
        dist.barrier()
