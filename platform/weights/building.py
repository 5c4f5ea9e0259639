"""Builds the network that a file describes, in no more memory than the file can fill.

A few words in a file can name a million layers. Nothing is known of a method's sizes before it is built, so what it makes is counted
while it is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.methods.contract import BuildContext, Method, MethodConfig, Pretext
from sightline.methods.errors import SightlineError
from sightline.platform.core.budget import MEMORY

COPIES = 8
"""Bytes built for a byte of the file, above `MEMORY`: half precision becomes single, and a method may keep a student and a teacher."""
TENSORS = 20_000
"""Made while a network is built. The largest of ours makes about 2,000."""
_MAKERS = {"empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "empty_strided", "eye"}


class _TooLargeError(Exception):
    pass


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that are made, and their bytes, before they are."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self.bytes, self.tensors = limit, 0, 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "overloadpacket", None) is not None and func.__name__.split(".")[0] in _MAKERS and args:
            size = args[0]
            count = math.prod(size) if isinstance(size, list | tuple) else next((int(a) for a in args if isinstance(a, int | float)), 0)
            dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
            self.bytes += abs(count) * dtype.itemsize
            self.tensors += 1
            if self.bytes > self.limit or self.tensors > TENSORS:
                raise _TooLargeError
        return func(*args, **(kwargs or {}))


def build_within(method: Method, config: MethodConfig, place: str, held: int, seed: int = 0) -> Pretext:
    """The pretext of `config` with the weights of `seed`. Raises `SightlineError` where it would be much larger than the `held` bytes of
    weights in `place`."""
    limit = MEMORY + COPIES * held
    counted = _Counted(limit)
    try:
        with counted:
            return method.build(config, BuildContext(seed=seed))
    except (_TooLargeError, MemoryError, OverflowError):
        pass
    except RuntimeError as error:
        if "alloc" not in str(error) and "memory" not in str(error) and "overflow" not in str(error):
            raise
    raise SightlineError(
        f"the settings for {place} make a network of more than {counted.tensors:,} tensors and {counted.bytes / 2**30:.1f} GiB; "
        f"the file holds {held:,} bytes",
        "correct the settings with section.key=value, or get the file from its publisher",
    )
