"""The package `sightline` itself, as a notebook imports it: `load_encoder("my-run")` and `__version__`.

docs/architecture.md describes the packages below it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.platform.models.encoders import load_encoder

__all__ = ["__version__", "load_encoder"]

__version__: str

_CHECKOUT = Path(__file__).resolve().parents[2]
if (_CHECKOUT / "pyproject.toml").is_file():
    __path__.append(str(_CHECKOUT))  # an editable installation: methods, platform and pipelines lie at its top


def __getattr__(name: str) -> object:
    """Both are looked up when they are asked for: torch alone takes seconds to import, and every command imports this package."""
    if name == "__version__":
        from sightline.platform.core.version import installed_version

        return installed_version()
    if name == "load_encoder":
        from sightline.platform.models.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
