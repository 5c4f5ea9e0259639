"""Text of others for a screen: names of files and classes, errors of libraries."""

from __future__ import annotations

import re
import sys

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but tab and line feed: terminals obey some. Besides marks that turn the direction of what follows, and bytes that are no UTF-8."""


def printable(text: str) -> str:
    """`text` with its control characters as escapes, such as `\\x1b`."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def tolerate_any_text() -> None:
    """Let standard output and error show what their encoding lacks as escapes, where Python would fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
