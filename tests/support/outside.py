"""A package from outside: an entry point that names an object of a test's own module."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.platform.core.plugins import plugins


def publish(folder: Path, group: str, points: dict[str, str], modules: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a distribution in `folder`, or adds to it: entry points (name -> module:object) and the text of its modules."""
    info = folder / "outside-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    with (info / "entry_points.txt").open("a") as file:
        file.write(f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items()))
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    plugins.cache_clear()
