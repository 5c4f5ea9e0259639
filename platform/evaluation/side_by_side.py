"""Networks measured on a CPU by several threads of Python, each with a part of the work and of torch's threads.

torch divides every operation among its threads and waits for the slowest. An evaluation makes thousands of small ones: where anything else
runs on the machine, two threads take longer than one does (docs/notes/waiting.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")
MOST = 4
"""Parts at once: each holds activations of its own. Where there are more processors, each gets several of torch's threads."""


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device | str) -> list[Result]:
    """`function` of each part, in order. `function` is called from several threads, and changes nothing that is shared."""
    threads, at_once = torch.get_num_threads(), min(most_at_once(device), len(parts))
    if at_once < 2:
        return [function(part) for part in parts]
    gradients = torch.is_grad_enabled()

    def run(part: Part) -> Result:
        with torch.set_grad_enabled(gradients):  # a setting of each thread
            return function(part)

    torch.set_num_threads(threads // at_once)  # what a new thread begins with
    try:
        with ThreadPoolExecutor(at_once, "sightline-measure") as pool:
            return list(pool.map(run, parts))
    finally:
        torch.set_num_threads(threads)


def most_at_once(device: torch.device | str) -> int:
    """How many parts are worked on at once, where there are so many."""
    return min(MOST, torch.get_num_threads()) if torch.device(device).type == "cpu" else 1


def is_ours(module: object) -> bool:
    """Whether several threads may use it at once. A network of another package may keep something of a call in itself."""
    return type(module).__module__.startswith("sightline.")
