"""Text of others for a screen: names of files and classes, errors of libraries."""

from __future__ import annotations

import contextlib
import os
import re
import sys

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but tab and line feed: terminals obey some. Besides marks that turn the direction of what follows, and bytes that are no UTF-8."""


def printable(text: str) -> str:
    """`text` with its control characters as escapes, such as `\\x1b`."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


MARKS = re.compile(r"[\\`*_~\[\]|$]|^(?=[ \t]*(?:[#+>=-]|\d+[.)]))", re.M)
"""What Markdown takes for more than a letter: anywhere, and at the beginning of a line."""


def markdown(text: str) -> str:
    """Markdown that shows `text` as it is: names of files and classes may hold its marks, or HTML."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKS.sub(lambda found: f"\\{found[0]}" if found[0] else "&#8203;", plain)


def open_streams() -> None:
    """Let standard output and error show what their encoding lacks as escapes, where Python would fail.

    Of the three standard streams those that were closed lead nowhere: else the next file that is opened would get what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                if (made := os.open(os.devnull, os.O_RDWR)) != number:
                    os.dup2(made, number)
                    os.close(made)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
