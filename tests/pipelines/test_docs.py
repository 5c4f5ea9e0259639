"""What the pages and the help tell people to type is what the commands take; links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from sightline.pipelines.__main__ import commands, parse
from sightline.platform import config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = set(config.recipe_names())


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip().startswith("sightline ") and " ... " not in line:
            yield shlex.split(line, comments=True)[1:]


def _told() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M):
            for words in _lines(block):
                yield page.name, words
    for name, command in commands().items():
        for words in _lines(command.__doc__ or ""):
            yield f"{name} --help", words


TOLD = [pytest.param(place, words, id=f"{place}-{' '.join(words)}"[:90]) for place, words in _told()]


@pytest.mark.parametrize(("place", "words"), TOLD)
def test_a_line_that_is_told_is_a_line_that_is_taken(place: str, words: list[str]) -> None:
    args = parse(words)
    if words[0] == "submit" and "--" in words:
        test_a_line_that_is_told_is_a_line_that_is_taken(place, words[words.index("--") + 1 :])
    if words[0] in ("pretrain", "sweep") and args.recipe in RECIPES:
        config.load(args.recipe, config.parse_overrides(args.settings))


def test_there_are_such_lines() -> None:
    assert len(TOLD) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_that_are_there(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def _imports() -> Iterator[tuple[str, str, str]]:
    """(page, module, name) of everything that an example in Python imports from Sightline."""
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sightline."):
                    yield from ((page.name, str(node.module), alias.name) for alias in node.names)


IMPORTS = sorted(set(_imports()))


@pytest.mark.parametrize(("page", "module", "name"), IMPORTS, ids=[" ".join(one) for one in IMPORTS])
def test_what_an_example_imports_is_there(page: str, module: str, name: str) -> None:
    assert hasattr(import_module(module), name), page
