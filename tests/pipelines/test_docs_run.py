"""What README and docs tell people to type runs as it stands, in order, from nothing but this checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asking import Ask
from told import FOR_LATER, ROOT, Line, told

LINES = [line for line in told() if not line.reason]
README = [line for line in LINES if line.page == "README.md"]
MADE_ELSEWHERE = {"croco-encoder", "methods.yaml"}


def outputs(line: Line) -> set[str]:
    """Names that the line makes: folders, files and runs."""
    words = line.words
    made = {
        words[words.index(option) + 1].removeprefix("./") for option in ("--out", "--name", "--contact-sheet", "--html") if option in words
    }
    return made | ({words[1].removeprefix("./")} if words[:1] == ["examples"] else set())


def inputs(line: Line) -> set[str]:
    """Names of data, runs and files that the line needs: the first part of each path, and the runs."""
    words = [word for word in line.words if not word.startswith("--space")]
    options = {
        index + 1
        for index, word in enumerate(words)
        if word in ("--out", "--name", "--contact-sheet", "--html", "--probe", "--format", "--task")
    }
    needed = {word.rpartition("=")[2] for index, word in enumerate(words) if index not in options and "./" in word}
    needed |= {word.partition("=")[2] for word in words if word.startswith(("init=", "model.teacher="))}
    if words[0] in ("evaluate", "finetune", "encode", "export", "resume", "clean"):
        after = [word for index, word in enumerate(words[1:], 1) if index not in options and not word.startswith("-") and "=" not in word]
        needed |= set(after if words[0] == "evaluate" else after[:1]) - {"classification", "segmentation"}
    return {name.removeprefix("./").partition("/")[0] if "models:/" not in name else name for name in needed if name}


def test_every_line_needs_only_what_a_line_before_it_has_made() -> None:
    made, lacking = set(), []
    for line in LINES:
        if not line.words or line.words[0] == "examples":
            made |= outputs(line)
            continue
        known = made | {f"{name}-{number:03d}" for name in made for number in range(16)}
        lacking += [f"{line.page}: {name} of {line.text}" for name in sorted(inputs(line) - known) if "models:/" not in name]
        made |= outputs(line)
    assert lacking == []


def test_every_reason_to_leave_a_line_out_is_used() -> None:
    texts = [line.text for line in told()]
    assert [part for part in FOR_LATER if not any(part in text for text in texts)] == []


@pytest.mark.slow
def test_the_readmes_data_sets_are_made_and_seen(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; what trains is run by the long test."""
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in README:
        if line.words[:1] in (["examples"], ["prepare"], ["inspect"]) or "--dry-run" in line.words:
            code, out, err = ask(*line.words)
            assert code == 0 and "skipped" not in out, f"{line.text}\n{out}{err}"
            ran += 1
    assert ran >= 6 and (tmp_path / "photos.html").stat().st_size > 10_000


SHIM = """#!{python}
import os, sys
words = sys.argv[1:]
few = ["probe.samples=16", "train.validate_samples=16", "train.precision=fp32"]
short = ["train.length=4 steps", "optim.warmup=1 steps", *few]
added = {{"pretrain": [*short, "optim.decay=null", "probe.names=[]"], "finetune": short, "sweep": short, "compare": few}}
for option, value in (("--trials", "3" if words[:1] == ["resume"] else "2"), ("--budget", "64 samples"), ("--seeds", "1")):
    if option in words:
        words[words.index(option) + 1] = value
words += added.get(words[0] if words else "", [])
os.execv({real!r}, [{real!r}, *words])
"""
"""`sightline` on the path: the same command, a few steps long. Probes are measured by `evaluate` alone, once for each kind of data."""


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_every_line_runs(home: Path, tmp_path: Path) -> None:
    """With runs of a few steps, two trials and one seed; nothing else is changed.

    `SIGHTLINE_DOCS_FOLDER=FOLDER pytest -m long -s` keeps what is made and shows each line with its seconds; `SIGHTLINE_DOCS_FROM=NUMBER`
    besides goes on from a line.
    """
    folder = Path(os.environ.get("SIGHTLINE_DOCS_FOLDER") or tmp_path).resolve()
    first = int(os.environ.get("SIGHTLINE_DOCS_FROM", "1"))
    real = Path(sys.executable).parent
    shim = folder / "bin" / "sightline"
    shim.parent.mkdir(parents=True, exist_ok=True)
    shim.write_text(SHIM.format(python=sys.executable, real=str(real / "sightline")))
    shim.chmod(0o755)
    (folder / ".venv").unlink(missing_ok=True)
    (folder / ".venv").symlink_to(real.parent)
    methods = re.search(r"^```yaml\n# methods.yaml.*?^```", (ROOT / "docs" / "compare.md").read_text(), re.S | re.M)
    assert methods, "the recipes of docs/compare.md"
    (folder / "methods.yaml").write_text("\n".join(methods[0].splitlines()[1:-1]))
    environment = {**os.environ, "PATH": f"{shim.parent}:{real}:{os.environ['PATH']}", "SIGHTLINE_HOME": str(folder / "home")}
    failed = []
    for number, line in enumerate(LINES, 1):
        if number < first or line.text.startswith(". .venv"):
            continue  # the latter would put the shim behind
        start = time.monotonic()
        done = subprocess.run(["bash", "-c", line.text], cwd=folder, env=environment, capture_output=True, text=True)
        right = not done.returncode or (done.returncode == 1 and line.words[:1] == ["promote"])  # 1: the other version is not worse
        what = f"{number} of {len(LINES)}, {time.monotonic() - start:.0f} s, {'right' if right else f'exit {done.returncode}'}"
        print(f"{what}: {line.page}: {line.text}", *([] if right else [done.stdout[-500:] + done.stderr[-1500:]]), flush=True)
        if not right:
            failed.append(f"{line.page}: {line.text}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    assert not failed, "\n\n".join(failed)
