"""The strokes that charts are made of: SVG whose colours and fonts come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH, HEIGHT = 480, 270
SERIES = 8
"""Number of colours in the style sheet (`--c0` to `--c7`)."""


def colour_of(index: int) -> str:
    return f"var(--c{index % SERIES})"


def drawing(said: str, height: float, width: float = WIDTH) -> ElementTree.Element:
    """An empty drawing; `said` is what a screen reader says of it."""
    return ElementTree.Element("svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": said})


def markup(svg: ElementTree.Element) -> Markup:
    """ElementTree escapes every text and attribute."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def text(svg: ElementTree.Element, words: str, x: float, y: float, *, anchor: str = "middle", kind: str = "") -> None:
    look = {"class": kind} if kind else {}
    ElementTree.SubElement(svg, "text", {**look, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}).text = words


def stroke(svg: ElementTree.Element, kind: str, start: tuple[float, float], end: tuple[float, float], **look: str) -> None:
    (x1, y1), (x2, y2) = start, end
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    ElementTree.SubElement(svg, "line", {"class": kind, **places, **look})


def circle(svg: ElementTree.Element, centre: tuple[float, float], radius: float, colour: str) -> ElementTree.Element:
    x, y = centre
    return ElementTree.SubElement(svg, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}", "fill": colour})


def polyline(svg: ElementTree.Element, places: Iterable[tuple[float, float]], **look: str) -> ElementTree.Element:
    return ElementTree.SubElement(svg, "polyline", {**look, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})


def polygon(svg: ElementTree.Element, places: Iterable[tuple[float, float]], colour: str, kind: str = "area") -> ElementTree.Element:
    """A filled area; the style sheet makes it transparent by its kind."""
    look = {"class": kind, "fill": colour, "stroke": colour}
    return ElementTree.SubElement(svg, "polygon", {**look, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})
