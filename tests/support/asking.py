"""The types of the fixture `ask`."""

from __future__ import annotations

from collections.abc import Callable

Answer = tuple[int, str, str]
"""Exit code, standard output, standard error."""
Ask = Callable[..., Answer]
