"""One device of a recorded step as one rank of a real gloo group: `loca_rank.py VECTOR RANK WORLD STORE OUT.safetensors`."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from parity_harness import read_vector
from parity_loca import batch_of, grad_norm, group_outputs, official_grads, prepare, total
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from sightline.methods.random import MicrobatchRng


def main() -> None:
    path, rank, world, store, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    pretext, split = prepare(read_vector(path))
    rng = MicrobatchRng(0, 0, rank)
    with torch.no_grad():
        (batch,) = pretext.targets([batch_of(split[rank])], [rng])
    assert "mean_prediction" not in batch  # `forward` takes the mean over the ranks itself
    wrapped = DistributedDataParallel(pretext)  # kept: it exchanges gradients only as long as it lives
    losses = wrapped(batch, rng)
    total(losses).backward()
    results = {f"part.{name}": t for name, t in group_outputs(pretext, batch, rng, losses).items()}
    results |= {f"grad.{name}": t for name, t in official_grads(pretext).items()} | {"grad.": grad_norm(pretext)}
    save_file({name: t.contiguous() for name, t in results.items()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
