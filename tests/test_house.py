"""The house: three rooms, imports that run one way, cheap imports, nothing that unpickles, a wheel that holds what the tree holds."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sightline
from sightline.platform.core.version import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("methods", "platform", "pipelines")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

PICKLERS = {"pickle", "cloudpickle", "joblib", "dill"}


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Of its syntax tree; read once for all tests."""
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path: Path) -> Iterator[str]:
    """Absolute names of all that a module imports, anywhere in it; relative imports resolved to `sightline.<room>...`."""
    package = ("sightline", *path.relative_to(ROOT).parent.parts)
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def offenders(room: str, *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules(room)
        for name in imported(path)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


def test_the_scan_sees_imports_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    folder = tmp_path / "methods" / "deep"
    folder.mkdir(parents=True)
    lines = ["import ray.data", "from ..platform import x", "from ...platform import y", "def f():\n    from . import z"]
    (folder / "m.py").write_text("\n".join(lines))
    assert set(imported(folder / "m.py")) == {
        "ray.data",
        "sightline.methods.platform.x",
        "sightline.platform.y",
        "sightline.methods.deep.z",
    }
    assert offenders("methods", "ray", "sightline.platform") == ["methods/deep/m.py: ray.data", "methods/deep/m.py: sightline.platform.y"]


def test_methods_know_neither_the_platform_nor_its_engines() -> None:
    assert offenders("methods", "sightline.platform", "sightline.pipelines", "ray", "mlflow", "pyarrow", "rich") == []


def test_methods_open_no_file() -> None:
    opens = re.compile(r"(?<![\w.])open\(|\.(?:read_text|read_bytes|write_text|write_bytes|open)\(")
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in modules("methods") for m in opens.finditer(p.read_text())]
    assert found == []


def test_the_platform_knows_no_command() -> None:
    assert offenders("platform", "sightline.pipelines") == []


def test_the_platform_knows_of_the_methods_only_their_contract() -> None:
    shared = {path.stem for path in (ROOT / "methods").glob("*.py")} - {"__init__"} | {"ops"}
    names = {name for path in modules("platform") for name in imported(path) if name.startswith("sightline.methods.")}
    assert {name.split(".")[2] for name in names} <= shared


def test_the_platform_is_never_a_package_that_hides_pythons_own() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import platform; print(platform.__file__, platform.python_version())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    where, version = done.stdout.split()
    assert not Path(where).is_relative_to(ROOT) and version == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    "module",
    [
        "sightline.methods",
        "sightline.methods.contract",
        "sightline.methods.catalog",
        "sightline.methods.croco",
        "sightline.methods.croco.config",
        "sightline.methods.i2p_mae",
        "sightline.methods.timm_encoder",
        "sightline.methods.optim",
        "sightline.methods.random",
        "sightline.platform.config",
        "sightline.platform.experiments.preflight",
        "sightline.platform.runs.record",
        "sightline.pipelines.__main__",
    ],
)
def test_importing_settings_and_contract_loads_no_engine(module: str) -> None:
    """A misspelt key must be answered at once, and torch alone takes seconds."""
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "timm", "ray", "mlflow", "matplotlib"} & set(json.loads(done.stdout))


def test_every_folder_with_modules_is_a_package_of_the_distribution() -> None:
    settings = PROJECT["tool"]["setuptools"]
    listed = set(settings["packages"])
    folders = {"sightline." + ".".join(path.parent.relative_to(ROOT).parts) for path in modules(*ROOMS)} - {"sightline.pipelines.api"}
    assert folders | {"sightline", "sightline.platform"} == listed  # the platform holds packages only
    assert settings["package-dir"] == {"sightline": "pipelines/api"} | {f"sightline.{room}": room for room in ROOMS}


def test_a_notebook_finds_the_version_and_load_encoder_at_the_top_and_pays_for_torch_only_then() -> None:
    code = "import sightline, sys; print(sightline.__version__, 'torch' in sys.modules, sightline.load_encoder.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [PROJECT["project"]["version"], "False", "sightline.platform.models.encoders"]
    assert PROJECT["project"]["name"] == DISTRIBUTION
    assert not hasattr(sightline, "load_encodre")


def test_nothing_is_unpickled() -> None:
    """Nothing in the three rooms reads a pickle, or YAML that can run code; published files enter by one door as plain values."""
    forbidden = {
        ("torch", "load"),
        ("torch", "save"),
        ("pickle", "load"),
        ("pickle", "loads"),
        ("pickle", "dump"),
        ("pickle", "dumps"),
        ("yaml", "load"),
        ("yaml", "unsafe_load"),
        ("yaml", "full_load"),
        ("joblib", "load"),
    }
    found = []
    for path in modules(*ROOMS):
        found += [f"{path.relative_to(ROOT)}: {name}" for name in imported(path) if name.split(".")[0] in PICKLERS]
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in forbidden:
                if path == ROOT / "platform" / "weights" / "foreign.py" and node.attr == "load" and node.value.id == "torch":
                    continue
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.id}.{node.attr}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", None) is not False:
                found.append(f"{path.relative_to(ROOT)}:{node.value.lineno}: allow_pickle")
    assert found == []
    door = (ROOT / "platform" / "weights" / "foreign.py").read_text()
    assert door.count("torch.load(") == 1 and "weights_only=True" in re.findall(r"torch\.load\((.*)\)", door)[0]


def test_no_global_random_generator_is_used() -> None:
    pattern = re.compile(
        r"\bnp\.random\.(?!Generator\b|Philox\b)\w+\(|(?<![\w.])random\.(?:random|seed|shuffle|choice|randint)\(|torch\.manual_seed\("
    )
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in modules(*ROOMS) for m in pattern.finditer(p.read_text())]
    assert found == []


@pytest.mark.slow
def test_the_wheel_holds_exactly_the_modules_recipes_and_templates_of_the_tree(tmp_path: Path) -> None:
    """Built from a clean copy: out of a stale `build/` a wheel would ship modules that are deleted."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
    ]
    probe = subprocess.run([sys.executable, "-c", "import setuptools.build_meta"], capture_output=True)
    if probe.returncode:
        pytest.skip("setuptools is not installed in this environment, and nothing is fetched here")
    done = subprocess.run([*build, str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("sightline_pretext-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree = {f"sightline/{path.relative_to(ROOT)}" for path in modules(*ROOMS) if path.parent.name != "api"}
    recipes = {f"sightline/{path.relative_to(ROOT)}" for path in (ROOT / "methods").glob("*/recipes/*.yaml")}
    templates = {f"sightline/{path.relative_to(ROOT)}" for path in (ROOT / "platform").glob("*/templates/*")}
    typed = {"sightline/__init__.py", "sightline/py.typed", *(f"sightline/{room}/py.typed" for room in ROOMS)}
    assert templates and names == tree | recipes | templates | typed
