"""Counts the FLOP of what runs in a block, by torch's own formulas."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class CountFlops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`with CountFlops() as counter: ...`, then `counter.total`: what torch's `FlopCounterMode` counts, without its import of
    torch.compile, which takes a second and 150 MB."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: float = 0.0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch imports torch.compile to keep it out of the method below."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # in inference mode, `linear` and others come here whole
                out = func.decompose(*args, **given)
            return func(*args, **given) if out is NotImplemented else out
        out = func(*args, **given)
        self.total += formula(*args, **given, out_val=out)
        return out
