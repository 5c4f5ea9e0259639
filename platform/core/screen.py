"""What a person reads on the screen. Strings are shown as they are: never taken as markup, their control characters as escapes, and
without passwords."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from .printable import printable
from .redaction import redact


class Screen(Console):
    """A console on standard output, or on standard error where the other belongs to a script. Lines are not wrapped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(redact(one)) if isinstance(one, str) else one for one in objects), **options)

    def field(self, label: str, text: str, width: int = 8) -> None:
        """A line of a list: the label in bold, then the text."""
        super().print(Text.assemble((f"{printable(label):<{width}}", "bold"), " ", printable(redact(text))))

    def fields(self, lines: Iterable[tuple[str, str]]) -> None:
        """The last lines of a command. Those without a text are left out."""
        for label, text in lines:
            if text:
                self.field(label, text)

    def warn(self, text: str) -> None:
        self.print(text, style="yellow")
