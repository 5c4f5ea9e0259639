"""Removes passwords and tokens from what is shown, recorded or sent."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def redact(text: str) -> str:
    """`text` without the user, password or token of the addresses in it: `http://***@host`."""
    return re.sub(r"://[^/\s]+@", "://***@", text)


def safe_line(error: BaseException | None) -> str:
    """What went wrong, in a line without passwords."""
    return redact(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def command_line(words: Sequence[str]) -> str:
    """The `sightline` command of these words, as a shell takes it and without passwords."""
    return shlex.join(["sightline", *map(redact, words)])
