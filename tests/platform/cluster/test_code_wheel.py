"""The code as it travels: what the wheel holds, that it can be packed without network from anywhere, and that other code is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.cluster import code_wheel
from sightline.platform.cluster.code_wheel import DIGEST, pack, running_code, unmet, verify, verify_driver

ROOT = Path(__file__).resolve().parents[3]


def unpack(wheel: Path, folder: Path) -> Path:
    """What `pip install --target` of a wheel without scripts and data does."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def in_another_place(folder: Path, code: str) -> str:
    """The last line that `code` prints in a process whose path begins with `folder`, as in a job's."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)}, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_wheel_holds_the_modules_recipes_and_templates_of_the_tree_and_asks_pip_for_nothing(tmp_path: Path) -> None:
    wheel = pack(running_code(), tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (about,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    tree = {f"sightline/{path.relative_to(ROOT)}" for room in ("methods", "platform", "pipelines") for path in (ROOT / room).rglob("*.py")}
    tree.add("sightline/__init__.py")
    recipes = {f"sightline/{path.relative_to(ROOT)}" for path in (ROOT / "methods").glob("*/recipes/*.yaml")}
    templates = {f"sightline/{path.relative_to(ROOT)}" for path in (ROOT / "platform").glob("*/templates/*")}
    assert templates and held == tree | recipes | templates
    assert "Requires-Python: >=3.11" in about and "Requires-Dist" not in about


def test_the_same_code_is_the_same_wheel_and_other_code_has_another_name(tmp_path: Path) -> None:
    code = running_code()
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    one, two = pack(code, tmp_path / "one"), pack(code, tmp_path / "two")
    assert one.name == two.name and one.read_bytes() == two.read_bytes()
    changed = replace(code, files={**code.files, "sightline/pipelines/inspect.py": b"pass\n"})
    assert pack(changed, tmp_path / "three").name != one.name, "Ray takes a wheel of a known name for the same wheel"
    assert replace(code, entry_points="").digest != code.digest != replace(code, requirements=()).digest


def test_an_installed_wheel_comes_before_the_checkout_and_packs_itself_again(tmp_path: Path) -> None:
    code = running_code()
    place = unpack(pack(code, tmp_path), tmp_path / "node")
    said = in_another_place(
        place,
        "from importlib.metadata import version\nfrom pathlib import Path\nfrom sightline.platform.cluster import code_wheel\n"
        "from sightline.methods.catalog import method_ids\n"
        "again = code_wheel.pack(code_wheel.running_code(), Path('.'))\n"
        "print(code_wheel.__file__, again.name, version('sightline-pretext'), 'croco' in method_ids())",
    ).split()
    assert Path(said[0]).is_relative_to(place)
    assert said[1:] == [f"sightline_pretext-0.1.0+{code.digest}-py3-none-any.whl", f"0.1.0+{code.digest}", "True"]
    assert (place / said[1]).read_bytes() == (tmp_path / said[1]).read_bytes()


def test_other_code_than_was_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIGEST, raising=False)
    verify()
    verify_driver()
    monkeypatch.setenv(DIGEST, running_code().digest)
    verify()
    monkeypatch.setenv(DIGEST, "0123456789ab")
    with pytest.raises(SightlineError, match=r"code 0123456789ab was sent, but code [0-9a-f]{12} runs here, from .*platform"):
        verify()


def test_a_job_needs_a_place_for_its_runs_and_what_the_code_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = running_code()
    monkeypatch.setenv(DIGEST, code.digest)
    monkeypatch.setattr(code_wheel, "unmet", lambda requirements: [])
    monkeypatch.delenv("SIGHTLINE_HOME", raising=False)
    with pytest.raises(CallError, match="no SIGHTLINE_HOME") as refused:
        verify_driver()
    assert "--home" in refused.value.hint
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path))
    verify_driver()
    monkeypatch.setattr(code_wheel, "unmet", lambda requirements: ["no timm"])
    with pytest.raises(CallError, match="no timm"):
        verify_driver()


def test_requirements_that_are_not_met_are_named() -> None:
    asked = ("numpy>=1.26", "numpy<1", "no-such-thing>=3", "also-none; extra == 'dev'")
    assert [what.split()[0] for what in unmet(asked)] == ["numpy", "no"] and "no no-such-thing" in unmet(asked)
