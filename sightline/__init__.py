"""Sightline in a notebook: `load_encoder("my-run")`, and `__version__`. The packages beside it are described in docs/architecture.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .platform.models.encoders import load_encoder

__all__ = ["__version__", "load_encoder"]

__version__: str


def __getattr__(name: str) -> object:
    """Both are looked up when they are asked for: torch alone takes seconds to import, and every command imports this package."""
    if name == "__version__":
        from .platform.core.version import installed_version

        return installed_version()
    if name == "load_encoder":
        from .platform.models.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
