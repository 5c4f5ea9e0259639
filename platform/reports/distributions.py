"""Charts of how values are spread: histograms of one or several sets, bars by name, and cameras seen from above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .charts import BOTTOM, LEFT, RIGHT, TOP, Chart, nice_ticks, number
from .svg import HEIGHT, WIDTH, circle, colour_of, drawing, markup, polygon, stroke, text

BARS = 30
LINKS = 1500
"""Lines between cameras that are drawn at most; of more, an even share."""


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    said: str
    """Stands behind the bar."""
    colour: tuple[int, int, int] | None = None


def histogram_chart(
    title: str,
    values: Mapping[str, np.ndarray],
    x_label: str,
    *,
    bins: int = 30,
    ends: tuple[float, float] | None = None,
    log: bool = False,
    mark: float | None = None,
    from_zero: bool = False,
) -> Chart | None:
    """Shares of each named list of values; None where there is nothing to draw.

    `ends`: first and last value of the axis. `log`: bins grow by a factor. `mark`: a dashed line at this value.
    """
    finite = {name: one[np.isfinite(one)].astype(np.float64) for name, one in values.items()}
    finite = {name: np.log10(np.maximum(one, 1e-3)) if log else one for name, one in finite.items() if len(one)}
    if not finite:
        return None
    every = np.concatenate(list(finite.values()))
    low, high = ends or (0.0 if from_zero else float(every.min()), float(every.max()))
    line = None if mark is None else math.log10(mark) if log else mark
    if line is not None:
        low, high = min(low, line - 0.02 * (high - low)), max(high, line)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    edges = np.linspace(low, high, bins + 1)
    shares = {name: 100 * np.histogram(one.clip(low, high), edges)[0] / len(one) for name, one in finite.items()}
    top = max(float(one.max()) for one in shares.values()) * 1.06
    shown = {name: 10**one if log else one for name, one in finite.items()}
    said = "; ".join(f"{name}: {len(one):,}, median {number(float(np.median(one)))}" for name, one in shown.items())
    svg, right, bottom = drawing(f"{title}. {said}", HEIGHT), WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (right - LEFT)

    def up(share: float) -> float:
        return bottom - share / top * (bottom - TOP)

    for tick in nice_ticks(0, top, 4):
        stroke(svg, "grid", (LEFT, up(tick)), (right, up(tick)))
        text(svg, f"{number(tick)} %", LEFT - 7, up(tick) + 4, anchor="end")
    for tick in _powers(low, high) if log else nice_ticks(low, high):
        text(svg, number(10**tick if log else tick), across(tick), bottom + 18)
    for index, one in enumerate(shares.values()):
        steps = [(across(edge), up(share)) for a, b, share in zip(edges, edges[1:], one, strict=False) for edge in (a, b)]
        polygon(svg, [(across(low), bottom), *steps, (across(high), bottom)], colour_of(index))
    if line is not None:
        stroke(svg, "axis", (across(line), TOP), (across(line), bottom), **{"stroke-dasharray": "5 4"})
    stroke(svg, "axis", (LEFT, bottom), (right, bottom))
    text(svg, x_label, (LEFT + right) / 2, HEIGHT - 4, kind="label")
    return Chart(title, markup(svg), lines=tuple(finite), colours=tuple(range(len(finite))))


def _powers(low: float, high: float) -> list[float]:
    """Logarithms of round numbers in between: powers of ten, of a short axis also 2 and 5 times these."""
    factors = (1,) if high - low > 2 else (1, 2, 5)
    ticks = [power + math.log10(factor) for power in range(math.floor(low), math.ceil(high)) for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def bar_chart(title: str, bars: Sequence[Bar], unit: str = "") -> Chart | None:
    """A row for each bar, in the order given; of many, the first ones and the last."""
    if not bars:
        return None
    left_out = len(bars) - BARS
    shown = [*bars[: BARS - 3], Bar(f"... {left_out:,} more ...", 0, ""), *bars[-2:]] if left_out > 0 else bars
    left, step = min(190, 24 + 7 * max(len(bar.name) for bar in shown)), 21
    right = WIDTH - 14 - 7.5 * max(len(bar.said) for bar in shown)
    largest = max((bar.value for bar in bars), default=0) or 1
    svg = drawing(f"{title}: {'; '.join(f'{bar.name} {bar.said}' for bar in bars[:BARS])}", step * len(shown) + 6)
    for index, bar in enumerate(shown):
        y = 3 + step * index
        text(svg, shortened(bar.name, 24), left - 8, y + 14, anchor="end", kind="name")
        fill = "rgb({}, {}, {})".format(*bar.colour) if bar.colour else colour_of(0)
        end = left + bar.value / largest * (right - left)
        if bar.said:
            polygon(svg, [(left, y + 3), (max(end, left + 1), y + 3), (max(end, left + 1), y + 17), (left, y + 17)], fill, "bar")
            text(svg, bar.said, max(end, left + 1) + 7, y + 14, anchor="start", kind="value")
    return Chart(title, markup(svg), unit)


def shortened(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most // 2]}…{words[-(most - most // 2 - 1) :]}"


def map_chart(title: str, places: np.ndarray, directions: np.ndarray, links: np.ndarray, unit: str) -> Chart | None:
    """Cameras from above (n x 2 places and directions), forward is up. Lines join the cameras of a pair. One scale for both axes."""
    if len(places) < 2:
        return None
    low, high = places.min(axis=0), places.max(axis=0)
    size, height = float((high - low).max()) or 1.0, 380
    scale = min((WIDTH - 90) / max(float(high[0] - low[0]), size / 4), (height - 90) / max(float(high[1] - low[1]), size / 4))
    middle = (low + high) / 2
    x, y = WIDTH / 2 + (places[:, 0] - middle[0]) * scale, height / 2 - 10 - (places[:, 1] - middle[1]) * scale
    svg = drawing(f"{title}: {len(places):,} cameras, {number(size)} {unit} across", height)
    for a, b in links[:: max(1, math.ceil(len(links) / LINKS))].tolist():
        stroke(svg, "grid", (x[a], y[a]), (x[b], y[b]))
    reach = 13.0
    for index, (dx, dy) in enumerate(directions.tolist()):
        here = (float(x[index]), float(y[index]))
        ends = [_turned(dx, dy, angle, reach) for angle in (-0.35, 0.35)]
        polygon(svg, [here, *((here[0] + ex, here[1] - ey) for ex, ey in ends)], colour_of(0), "view")
    for index in range(len(places)):
        circle(svg, (float(x[index]), float(y[index])), 2.2, colour_of(1))
    length = next(step for step in (nice_ticks(0, size, 3)[1:] or [size]))
    start = (24.0, height - 16.0)
    stroke(svg, "axis", start, (start[0] + length * scale, start[1]))
    text(svg, f"{number(length)} {unit}", start[0], start[1] - 6, anchor="start", kind="value")
    return Chart(title, markup(svg))


def _turned(dx: float, dy: float, angle: float, reach: float) -> tuple[float, float]:
    c, s = math.cos(angle), math.sin(angle)
    return reach * (c * dx - s * dy), reach * (s * dx + c * dy)
