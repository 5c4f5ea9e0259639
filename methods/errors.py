"""Errors for a person to read: what is wrong, and what to do about it."""

from __future__ import annotations


class SightlineError(Exception):
    """A command failed. `str(error)` says what is wrong; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.hint)


class CallError(SightlineError):
    """The command was called wrongly: a misspelt key, a name that exists, a plan that cannot fit. Nothing was started."""

    exit_code = 2


class MachineError(SightlineError):
    """The machine failed, for example with a full disk. The same command works once that is fixed."""


class BrokenSampleError(ValueError):
    """One sample cannot be used (undecodable, too small). The loader replaces it, counts it and names it."""


def first_line(error: BaseException) -> str:
    """What a library says went wrong, cut to a line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
