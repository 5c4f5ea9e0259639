"""Every number recorded from the official ConMIM code is ours, too; and a vector that was tampered with does not pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from parity_conmim import KINDS

METHOD = "conmim"


def test_numbers_agree_with_the_official_code(parity_file: Path, parity_check: Callable[..., None]) -> None:
    parity_check(parity_file, KINDS)
