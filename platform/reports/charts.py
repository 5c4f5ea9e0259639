"""Small charts as inline SVG. Colours and fonts come from the page's style sheet, so they follow light and dark.

Drawn here, not by matplotlib: a page must be small and follow the reader's colours, and matplotlib would add megabytes to every import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from .svg import HEIGHT, WIDTH, circle, colour_of, drawing, markup, polyline, stroke, text

Points = Sequence[tuple[float, float]]
Band = Sequence[tuple[float, float, float]]
"""(x, low, high)"""
Place = Callable[[float, float], tuple[float, float]]
"""From the values of a point to its place in the drawing."""
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 14, 40
PHASES = ("data_wait", "forward", "backward", "optimiser", "targets", "validation", "checkpoint", "health", "to_device")
"""Parts of the training time, in the order of their colours."""
CURVES = {"train loss": 0, "validation loss": 1}
"""Colours of lines that are on many pages; others are counted."""


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption."""

    title: str
    svg: Markup
    unit: str = ""
    lines: tuple[str, ...] = ()
    """Names of the lines; a legend is made of several."""
    colours: tuple[int, ...] = ()
    """One for each line."""
    wide: bool = False
    """Whether it takes the whole width of the page."""


@dataclass(frozen=True)
class Dot:
    """A value with its interval, one row of an `interval_chart`."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    emphasised: bool = True


@dataclass(frozen=True)
class Axis:
    """An axis of a `parallel_chart`, with its ticks: a place in [0, 1] and what stands there."""

    name: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Course:
    """A line of a `parallel_chart`: its place on each axis, in [0, 1], as far as it goes, and its shade, in [0, 1]."""

    name: str
    places: tuple[float, ...]
    shade: float = 0.0
    emphasised: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Mark:
    """A point of a `front_chart`."""

    name: str
    x: float
    y: float
    front: bool = False


@dataclass(frozen=True)
class Share:
    """A part of a duration."""

    name: str
    percent: float
    duration: str
    colour: int = 0
    """Of the same name the same on every page."""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that span [low, high]."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [round(index * step, 12) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A short readable number."""
    size = abs(value)
    if size >= 1e6 or (0 < size < 1e-3):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def seconds(value: float) -> str:
    """A duration as a person says it."""
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def line_chart(
    title: str,
    series: Mapping[str, Points],
    x_label: str,
    unit: str = "",
    *,
    bands: Mapping[str, Band] | None = None,
    levels: Mapping[str, float] | None = None,
) -> Chart | None:
    """Lines over a common x axis; None where there is no finite point. A long noisy line is pale, with its moving average on top.

    `bands`: the intervals of lines. `levels`: dashed lines across, such as a baseline that does not change.
    """
    clean = {name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()}
    clean = {name: points for name, points in clean.items() if points}
    if not clean:
        return None
    said = "; ".join(f"{name}: from {number(points[0][1])} to {number(points[-1][1])}" for name, points in clean.items())
    levels = levels or {}
    said += "".join(f"; {name}: {number(value)}" for name, value in levels.items())
    svg = drawing(f"{title}. {said}", HEIGHT)
    xs = [x for points in clean.values() for x, _ in points]
    ends = {name: [one for one in (bands or {}).get(name, ()) if all(map(math.isfinite, one))] for name in clean}
    edges = [(x, y) for band in ends.values() for x, *both in band for y in both]
    flat = {name: [(min(xs), value), (max(xs), value)] for name, value in levels.items()}
    shown = [*clean.values(), *flat.values(), edges]
    place = _axes(svg, [point for points in shown for point in points], x_label)
    colours = [CURVES.get(name, list(series).index(name)) for name in clean]  # a line that is left out takes its colour along
    for colour, band in zip(colours, ends.values(), strict=True):
        _band(svg, band, place, colour_of(colour))
    level_colours = [len(series) + index for index in range(len(levels))]
    for colour, points in zip(level_colours, flat.values(), strict=True):
        polyline(svg, (place(x, y) for x, y in points), stroke=colour_of(colour), **{"class": "line", "stroke-dasharray": "6 5"})
    for colour, points in zip(colours, clean.values(), strict=True):
        _line(svg, points, place, colour_of(colour))
    return Chart(title, markup(svg), unit, (*clean, *levels), (*colours, *level_colours))


def _axes(svg: ElementTree.Element, points: Points, x_label: str, *, pad_x: bool = False) -> Place:
    """Draws grid, ticks and the x axis for all `points`; with `pad_x` none lies at its ends."""
    xs, ys = (np.array(values) for values in zip(*points, strict=True))
    x0, x1 = float(xs.min()), float(xs.max())
    y0, y1 = float(ys.min()), float(np.quantile(ys, 0.995)) if len(ys) > 100 else float(ys.max())  # one spike must not flatten the rest
    pad = (y1 - y0) * 0.06 or abs(y1) * 0.1 or 1.0
    y0, y1 = (0.0 if 0 <= y0 < 0.35 * y1 else y0 - pad), y1 + pad
    if pad_x:
        margin = (x1 - x0) * 0.08 or abs(x1) * 0.1 or 1.0
        x0, x1 = x0 - margin, x1 + margin
    x1 = x1 if x1 > x0 else x0 + 1
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / (x1 - x0), (min(max(y, y0), y1) - y0) / (y1 - y0)
        return LEFT + across * (right - LEFT), TOP + (1 - up) * (bottom - TOP)

    for tick in nice_ticks(y0, y1):
        _, y = place(x0, tick)
        stroke(svg, "grid", (LEFT, y), (right, y))
        text(svg, number(tick), LEFT - 7, y + 4, anchor="end")
    for tick in nice_ticks(x0, x1):
        x, _ = place(tick, y0)
        text(svg, number(tick), x, bottom + 18)
    stroke(svg, "axis", (LEFT, bottom), (right, bottom))
    text(svg, x_label, (LEFT + right) / 2, HEIGHT - 4, kind="label")
    return place


def _line(svg: ElementTree.Element, points: Points, place: Place, colour: str) -> None:
    noisy = len(points) > 60
    polyline(svg, (place(x, y) for x, y in _thin(points)), stroke=colour, **{"class": "raw" if noisy else "line"})
    if noisy:
        polyline(svg, (place(x, y) for x, y in _thin(_smooth(points))), stroke=colour, **{"class": "line"})
    elif len(points) <= 30:
        for x, y in points:
            circle(svg, place(x, y), 2.6, colour)


def _band(svg: ElementTree.Element, band: Band, place: Place, colour: str) -> None:
    if len(band) == 1:
        x, low, high = band[0]
        stroke(svg, "whisker", place(x, low), place(x, high), stroke=colour)
    around = [*((x, high) for x, _, high in band), *((x, low) for x, low, _ in reversed(band))]
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(x, y) for x, y in around))
    ElementTree.SubElement(svg, "polygon", {"class": "band", "points": places, "fill": colour})


def _smooth(points: Points) -> list[tuple[float, float]]:
    """Centred moving average over a fortieth of the line."""
    values = np.array([y for _, y in points])
    width = max(3, len(points) // 40) | 1
    padded = np.pad(values, width // 2, mode="edge")
    average = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    return [(x, float(y)) for (x, _), y in zip(points, average, strict=True)]


def _thin(points: Points, most: int = 400) -> Points:
    keep = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int))
    return [points[index] for index in keep]


def interval_chart(title: str, dots: Sequence[Dot], unit: str, *, from_zero: bool = False) -> Chart | None:
    """A row for each dot, with its interval as a whisker."""
    if not dots:
        return None
    ends = [end for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None]
    first, last = min([*ends, 0.0] if from_zero else ends), max(ends)
    pad = (last - first) * 0.08 or 1.0
    first, last = (0.0 if from_zero and first >= 0 else first - pad), last + pad
    left, right, step = min(230, max(150, 20 + 7 * max(len(dot.name) for dot in dots))), WIDTH - 52, 30
    bottom = TOP + step * len(dots)
    height = bottom + 36

    def at(value: float) -> float:
        return left + (value - first) / (last - first) * (right - left)

    svg = drawing(f"{title}: {'; '.join(f'{dot.name} {number(dot.value)}' for dot in dots)}", height)
    for tick in nice_ticks(first, last, 4):
        stroke(svg, "grid", (at(tick), TOP), (at(tick), bottom))
        text(svg, number(tick), at(tick), bottom + 17)
    for index, dot in enumerate(dots):
        y, colour = TOP + step * (index + 0.5), colour_of(0) if dot.emphasised else "var(--quiet)"
        text(svg, dot.name, left - 10, y + 4, anchor="end", kind="name")
        if dot.low is not None and dot.high is not None:
            stroke(svg, "whisker", (at(dot.low), y), (at(dot.high), y), stroke=colour)
        circle(svg, (at(dot.value), y), 5.5, colour)
        end = at(max(dot.value, dot.high if dot.high is not None else dot.value))
        text(svg, number(dot.value if abs(dot.value) >= 1 else round(dot.value, 3)), end + 10, y + 4, anchor="start", kind="value")
    text(svg, unit, (left + right) / 2, height - 2, kind="label")
    return Chart(title, markup(svg))


def parallel_chart(title: str, axes: Sequence[Axis], courses: Sequence[Course]) -> Chart | None:
    """Parallel coordinates; the best shade is drawn last. Each line has its name as a tooltip."""
    if len(axes) < 2 or not courses:
        return None
    width, height = max(2 * WIDTH, 60 + 150 * len(axes)), HEIGHT + 60
    left, right, top, bottom = 90, width - 110, TOP + 14, height - BOTTOM

    def at(axis: int, share: float) -> tuple[float, float]:
        return left + axis * (right - left) / (len(axes) - 1), bottom - share * (bottom - top)

    svg = drawing(f"{title}: {'; '.join(course.name for course in courses)}", height, width)
    for course in sorted(courses, key=lambda course: (course.emphasised, not course.failed, course.shade)):
        look = {"stroke": colour_of(0), "stroke-width": f"{1.2 + course.shade:.1f}", "opacity": f"{0.18 + 0.62 * course.shade**2:.2f}"}
        if course.failed:
            look = {"stroke": "var(--bad)", "stroke-width": "1.4", "stroke-dasharray": "5 5", "opacity": "0.8"}
        if course.emphasised:
            look = {"stroke": colour_of(1), "stroke-width": "3"}
        line = polyline(svg, (at(index, share) for index, share in enumerate(course.places)), **look)
        ElementTree.SubElement(line, "title").text = course.name
    for index, axis in enumerate(axes):
        x, _ = at(index, 0)
        stroke(svg, "axis", (x, top), (x, bottom))
        text(svg, axis.name, x, height - 10, kind="name")
        for place, words in axis.ticks:
            _, y = at(index, place)
            stroke(svg, "axis", (x - 3, y), (x + 3, y))
            text(svg, words, x + 8, y + 4, anchor="start", kind="tick")
    return Chart(title, markup(svg), wide=True)


def front_chart(title: str, marks: Sequence[Mark], x_label: str, *, joined: bool = True) -> Chart | None:
    """Trials by two objectives. Those of the front are named and, where there are no others, joined; the rest are pale."""
    if not marks:
        return None
    front = sorted((mark for mark in marks if mark.front), key=lambda mark: (mark.x, mark.y))
    svg = drawing(f"{title}. On the front: {'; '.join(f'{m.name} at {number(m.x)}, {number(m.y)}' for m in front)}", HEIGHT)
    place = _axes(svg, [(mark.x, mark.y) for mark in marks], x_label, pad_x=True)
    if joined:
        polyline(svg, (place(mark.x, mark.y) for mark in front), stroke=colour_of(1), **{"class": "line", "opacity": "0.5"})
    for mark in sorted(marks, key=lambda mark: mark.front):
        dot = circle(svg, place(mark.x, mark.y), 5 if mark.front else 3.5, colour_of(1) if mark.front else "var(--quiet)")
        ElementTree.SubElement(dot, "title").text = f"{mark.name}: {number(mark.x)}, {number(mark.y)}"
    above = float("inf")
    for mark in front:
        x, y = place(mark.x, mark.y)
        if abs(x - above) > 26:  # names of near points would lie on each other
            text(svg, mark.name, x, y - 9, kind="value")
            above = x
    return Chart(title, markup(svg))


def shares(parts: Mapping[str, float]) -> list[Share]:
    """The parts of a duration in seconds, the longest first, without those that took no time."""
    total = sum(parts.values())
    known = sorted(((value, name) for name, value in parts.items() if value > 0), reverse=True)
    colours = {name: index for index, name in enumerate([*PHASES, *sorted(set(parts) - set(PHASES))])}
    return [Share(name, 100 * value / total, seconds(value), colours[name]) for value, name in known]
