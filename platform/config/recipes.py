"""Recipes: the YAML files that methods ship, and a user's own."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from sightline.methods.catalog import find_method, method_ids
from sightline.methods.errors import CallError
from sightline.methods.settings import nearest
from sightline.platform.core.budget import parse_yaml

SUFFIX = ".yaml"


def _shipped() -> dict[str, Traversable]:
    """Recipe name -> file, of all methods that are installed."""
    found: dict[str, Traversable] = {}
    for method_id in method_ids():
        with suppress(ImportError):  # of a method from outside; it is told where that method is asked for
            package = find_method(method_id).recipes
            for file in (files(package) / "recipes").iterdir() if package else ():
                if file.name.endswith(SUFFIX):
                    found[file.name.removesuffix(SUFFIX)] = file
    return found


def recipe_names() -> list[str]:
    return sorted(_shipped())


def read_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """(name, settings) of a shipped recipe or of a YAML file. Raises `CallError`."""
    path = Path(name)
    file: Traversable = path
    if path.suffix not in (".yaml", ".yml"):
        shipped = _shipped()
        if name not in shipped:
            raise CallError(f"no recipe {name!r}: {nearest(name, list(shipped))}", "name a shipped recipe or a YAML file")
        file = shipped[name]
    elif not path.is_file():
        raise CallError(f"no file {name!r}", f"shipped recipes: {', '.join(recipe_names())}")
    try:
        settings = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CallError(f"{name} is no valid YAML: {error}") from error
    if not isinstance(settings, dict) or "method" not in settings:
        raise CallError(f"{name} names no method", f"begin the recipe with a line `method: NAME`; known: {', '.join(method_ids())}")
    return _name_of_file(path) if file is path else name, settings


def _name_of_file(path: Path) -> str:
    """The file's own; of the `settings.yaml` of a run the recipe that the run was made by."""
    with suppress(OSError, ValueError):
        record = json.loads((path.parent / "run.json").read_text(encoding="utf-8")) if path.name == "settings.yaml" else None
        if isinstance(record, dict) and isinstance(record.get("recipe"), str):
            return str(record["recipe"])
    return path.stem
