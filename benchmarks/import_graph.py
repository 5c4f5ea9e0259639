"""Counts the modules of the platform and the imports between its packages: edges, edges against the order of the layers, circles.

  python benchmarks/import_graph.py                 # this checkout
  python benchmarks/import_graph.py OTHER_CHECKOUT  # another one, also one from before there were packages

Imports inside functions and under TYPE_CHECKING count as well. The order of the layers is that of .importlinter. A module that lies
directly in platform/ counts as a package of its own.
"""

from __future__ import annotations

import ast
import configparser
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below `platform` -> file."""
    folder = root / "platform"
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path for path in sorted(folder.rglob("*.py")) if path.stem != "__init__"
    }


def imported(path: Path, root: Path, known: set[str]) -> Iterator[str]:
    """Modules of the platform that a file imports, anywhere in it."""
    package = ("sightline", *path.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            names = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            short = name.removeprefix("sightline.platform.")
            if name != short and short in known:
                yield short


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while (member := stack.pop()) != node:
                group.append(member)
            if group:
                found.append(sorted([*group, node]))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def layers(root: Path) -> list[str]:
    """Packages of the platform, the lowest first; empty for a checkout without .importlinter."""
    parser = configparser.ConfigParser()
    parser.read(root / ".importlinter")
    if "importlinter:contract:layers" not in parser:
        return []
    names = parser["importlinter:contract:layers"]["layers"].split()
    return [name.removeprefix("sightline.platform.") for name in reversed(names) if name.startswith("sightline.platform.")]


def main(root: Path) -> None:
    found = modules(root)
    known = set(found)
    edges = {name: set(imported(path, root, known)) - {name} for name, path in found.items()}
    between: dict[str, set[str]] = defaultdict(set)
    count = 0
    for name, others in edges.items():
        for other in others:
            if (one := name.split(".")[0]) != (two := other.split(".")[0]):
                between[one].add(two)
                count += 1
    order = layers(root)
    upward = [(one, two) for one, others in between.items() for two in others if order and order.index(one) < order.index(two)]
    print(f"modules {len(found)}, packages {len({name.split('.')[0] for name in found})}")
    print(f"imports between modules {sum(map(len, edges.values()))}, between modules of different packages {count}")
    print(f"edges between packages {sum(map(len, between.values()))}, upward {len(upward) if order else 'unknown: no layers are stated'}")
    print(f"circles of packages {circles(between) or 'none'}")
    print(f"circles of modules {circles(edges) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]).resolve())
