"""Parity vectors become one test a file; shapes in annotations are checked at run time in every test of the methods."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
CHECKED = (
    "layers",
    "ops",
    "croco",
    "conmim",
    "loca",
    "i2p_mae",
    "dense",
    "finetune.network",
    "finetune.pretext",
    "finetune_points",
    "finetune_parts",
    "timm_encoder",
)
install_import_hook([f"sightline.methods.{name}" for name in CHECKED], "beartype.beartype")

import parity_harness as parity  # noqa: E402

REPORTS = pytest.StashKey[dict[str, list[parity.Report]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORTS] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `parity_file` runs once for each file of its module's `METHOD`; no file at all is a failure."""
    if "parity_file" in metafunc.fixturenames:
        method = metafunc.module.METHOD
        folder = parity.parity_folder(method)
        try:
            files = parity.parity_files(folder)
        except parity.ParityError:
            files = [folder / "no-file"]
        metafunc.parametrize("parity_file", files, ids=[f"{method}-{os.path.relpath(p, folder)}" for p in files])


@pytest.fixture
def parity_check(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Checks one file against the kinds of a method, keeps the figures for the summary, xfails what is pending."""

    def check(path: Path, kinds: Sequence[parity.Kind | parity.JsonKind]) -> None:
        method = request.module.METHOD
        if not path.exists():
            raise parity.ParityError(f"no parity vector under {path.parent}")
        report = parity.check_file(path, kinds)
        request.config.stash[REPORTS].setdefault(method, []).append(report)
        if report.pending:
            pytest.xfail(f"{report.kind}: {report.pending}")
        record_property(
            "parity", f"{report.tensors} tensors, {report.values} values, worst {report.worst:.3g} of the tolerance ({report.worst_name})"
        )

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for method, reports in config.stash[REPORTS].items():
        done = [r for r in reports if not r.pending]
        terminalreporter.section(f"parity: {method}")
        for r in done:
            count = f"{r.values} values" if r.values else f"{r.tensors} tensors"
            terminalreporter.write_line(
                f"{r.path.name} ({r.kind}): {count}, largest error {r.largest_error:.3g}, "
                f"worst {r.worst:.3f} of its tolerance ({r.worst_name})"
            )
        pending = ", ".join(r.kind for r in reports if r.pending) or "none"
        terminalreporter.write_line(
            f"{len(done)} files, {sum(r.tensors for r in done)} tensors, {sum(r.values for r in done)} values agree; pending: {pending}"
        )
