"""Errors for a person to read: what is wrong, and what to do about it."""

from __future__ import annotations

import errno
import sys
from typing import Any


class SightlineError(Exception):
    """A command failed. `str(error)` says what is wrong; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint
        self.result: dict[str, Any] = {}
        """What the command would have returned, of one that failed at its end."""

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


NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "bad_alloc")
"""What libraries say when they ask for more memory than there is."""
OF_FILES = {
    errno.EACCES: "change who may read and write there, or name another place ($SIGHTLINE_HOME is where runs lie)",
    errno.EPERM: "change who may read and write there, or name another place ($SIGHTLINE_HOME is where runs lie)",
    errno.EROFS: "name a place that can be written ($SIGHTLINE_HOME is where runs lie)",
    errno.ENOSPC: "free some space, or name another place; then give the same command again",
    errno.EDQUOT: "free some of your quota, or name another place; then give the same command again",
    errno.EMFILE: "allow more open files: ulimit -n 65536",
    errno.EIO: "the disk or the network failed; give the same command again when it works",
}
"""Hint for an error of the system, by its number."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for, of the machine or of a GPU, and there was none."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY))


def explained(error: BaseException) -> SightlineError | None:
    """An error that the machine or a file of a person caused, as a sentence; None where it is a fault of the code."""
    if out_of_memory(error):
        return MachineError(f"not enough memory: {first_line(error)}", "use a smaller model, batch or image, or a machine with more memory")
    if isinstance(error, RuntimeError) and "determine home directory" in str(error):
        return CallError("a path begins with ~, and that user has no home folder here", "write the path whole, from /")
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return CallError("a name of a file or a folder holds a null byte", "write it without")
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        what = f"{error.object!r} holds letters that the locale does not know ({sys.getfilesystemencoding()})"
        return CallError(what, "name one with UTF-8: export LC_ALL=C.UTF-8 PYTHONUTF8=1")
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return CallError(f"{error.object!r} holds bytes that are no UTF-8", "rename the file or the folder")
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return MachineError(f"{names}: {error.strerror}", OF_FILES.get(error.errno, "check the name, and that the file is there and whole"))
    if isinstance(error, OSError) and error.errno in OF_FILES:
        return MachineError(str(error.strerror), OF_FILES[error.errno])
    return None
