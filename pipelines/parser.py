"""The parser of every command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `CallError`, so that `--json` gets its document for a wrong call too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter} | options)

    fill: Callable[[], None] | None = None
    """Adds the arguments just before words are read, so that their imports cost nothing until then."""

    def error(self, message: str) -> NoReturn:
        from sightline.methods.errors import CallError

        raise CallError(message, f"see `{self.prog} --help`")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        if self.fill:
            fill, self.fill = self.fill, None
            fill()
        return super().parse_known_args(args, namespace)
