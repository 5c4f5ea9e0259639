"""Small charts as inline SVG. Colours and fonts come from the page's style sheet, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 14, 40
SERIES = 8
"""Number of colours in the style sheet (`--c0` to `--c7`)."""


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


def line_chart(title: str, series: Mapping[str, Points], x_label: str, y_label: str) -> str:
    """Lines over a common x axis, with axes, grid and legend. A long noisy line is drawn pale, with its moving average on top."""
    clean = {name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()}
    clean = {name: points for name, points in clean.items() if points}
    if not clean:
        return ""
    xs = [x for points in clean.values() for x, _ in points]
    ys = np.array([y for points in clean.values() for _, y in points])
    x0, x1 = min(xs), max(xs)
    y0, y1 = float(ys.min()), float(np.quantile(ys, 0.995)) if len(ys) > 100 else float(ys.max())  # one spike must not flatten the rest
    pad = (y1 - y0) * 0.06 or abs(y1) * 0.1 or 1.0
    y0, y1 = (0.0 if 0 <= y0 < 0.35 * y1 else y0 - pad), y1 + pad
    x1 = x1 if x1 > x0 else x0 + 1

    def place(x: float, y: float) -> tuple[float, float]:
        inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + (x - x0) / (x1 - x0) * inner_w, TOP + (1 - (min(max(y, y0), y1) - y0) / (y1 - y0)) * inner_h

    parts = []
    for tick in nice_ticks(y0, y1):
        _, y = place(x0, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in nice_ticks(x0, x1):
        x, _ = place(tick, y0)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for index, (_, points) in enumerate(clean.items()):
        colour = f"var(--c{index % SERIES})"
        noisy = len(points) > 60
        parts.append(_path(_thin(points), place, colour, "raw" if noisy else "line"))
        if noisy:
            parts.append(_path(_thin(_smooth(points)), place, colour, "line"))
        elif len(points) <= 30:
            parts += [f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="2.6" fill="{colour}"/>' for cx, cy in (place(x, y) for x, y in points)]
    last = "; ".join(f"{name}: from {number(points[0][1])} to {number(points[-1][1])}" for name, points in clean.items())
    svg = _svg(f"{title}. {last}", HEIGHT, "".join(parts))
    return _figure(f"{title} <span class='unit'>({escape(y_label)})</span>" if y_label else escape(title), svg, list(clean))


def interval_chart(title: str, rows: Sequence[tuple[str, float, float | None, float | None, bool]], unit: str, *, from_zero: bool) -> str:
    """One row for each (name, value, low, high, emphasised): a dot with its interval."""
    if not rows:
        return ""
    ends = [end for _, value, low, high, _ in rows for end in (value, low, high) if end is not None]
    low_end, high_end = min([*ends, 0.0] if from_zero else ends), max(ends)
    pad = (high_end - low_end) * 0.08 or 1.0
    low_end, high_end = (0.0 if from_zero and low_end >= 0 else low_end - pad), high_end + pad
    left, line = min(230, max(150, 20 + 7 * max(len(name) for name, *_ in rows))), 30
    height = TOP + line * len(rows) + 36

    def at(value: float) -> float:
        return left + (value - low_end) / (high_end - low_end) * (WIDTH - left - 52)

    bottom = TOP + line * len(rows)
    parts = []
    for tick in nice_ticks(low_end, high_end, 4):
        parts.append(f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{number(tick)}</text>')
    for index, (name, value, low, high, emphasised) in enumerate(rows):
        y = TOP + line * index + line / 2
        colour = "var(--c0)" if emphasised else "var(--quiet)"
        parts.append(f'<text class="name" x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        if low is not None and high is not None:
            parts.append(f'<line class="whisker" stroke="{colour}" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="5.5" fill="{colour}"/>')
        end = at(max(value, high if high is not None else value))
        parts.append(f'<text class="value" x="{end + 10:.1f}" y="{y + 4:.1f}">{number(round(value, 3))}</text>')
    parts.append(f'<text class="label" x="{(left + WIDTH - 52) / 2:.0f}" y="{height - 2}" text-anchor="middle">{escape(unit)}</text>')
    said = "; ".join(f"{name} {number(value)}" for name, value, *_ in rows)
    return _figure(escape(title), _svg(f"{title}: {said}", height, "".join(parts)), [])


def parallel_chart(title: str, axes: Sequence[tuple[str, str, str]], lines: Sequence[tuple[str, Sequence[float], float, bool]]) -> str:
    """Parallel coordinates. `axes`: (name, what stands at the bottom, at the top). `lines`: (name, place on each axis in [0, 1], shade in
    [0, 1], emphasised); the best shade is drawn last."""
    if len(axes) < 2 or not lines:
        return ""
    left, right, top, bottom = 60, WIDTH - 60, TOP + 22, HEIGHT - BOTTOM

    def at(axis: int, share: float) -> tuple[float, float]:
        return left + axis * (right - left) / (len(axes) - 1), bottom - share * (bottom - top)

    parts = []
    for index, (name, low, high) in enumerate(axes):
        x, _ = at(index, 0)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        for text, y, kind in ((name, HEIGHT - 6, "name"), (low, bottom + 16, ""), (high, top - 8, "")):
            parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="middle">{escape(text)}</text>')
    for _, places, shade, emphasised in sorted(lines, key=lambda line: (line[3], line[2])):
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(index, share) for index, share in enumerate(places)))
        pale = f'stroke="var(--c0)" stroke-width="1.4" opacity="{0.15 + 0.6 * shade:.2f}"'
        look = 'stroke="var(--c1)" stroke-width="3"' if emphasised else pale
        parts.append(f'<polyline {look} points="{drawn}"/>')
    said = "; ".join(name for name, *_ in lines)
    return _figure(escape(title), _svg(f"{title}: {said}", HEIGHT, "".join(parts)), [])


def stacked_bar(title: str, parts: Mapping[str, float]) -> str:
    """Shares of a whole (seconds) as one bar, with a legend that gives each in numbers."""
    known = {name: value for name, value in parts.items() if value > 0}
    total = sum(known.values())
    if not total:
        return ""
    bars, items = [], []
    for index, (name, value) in enumerate(sorted(known.items(), key=lambda item: -item[1])):
        colour = f"var(--c{index % SERIES})"
        bars.append(f'<span style="width:{100 * value / total:.2f}%;background:{colour}"></span>')
        share = f"<b>{100 * value / total:.1f} %</b><em>{seconds(value)}</em>"
        items.append(f'<li><i style="background:{colour}"></i><span>{escape(name)}</span>{share}</li>')
    return (
        f'<figure class="chart bar"><figcaption>{escape(title)} <span class="unit">({seconds(total)} in all)</span></figcaption>'
        f'<div class="stack" aria-hidden="true">{"".join(bars)}</div><ul class="shares">{"".join(items)}</ul></figure>'
    )


def seconds(value: float) -> str:
    """A duration as a person says it."""
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _path(points: Points, place: object, colour: str, kind: str) -> str:
    assert callable(place)
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(x, y) for x, y in points))
    return f'<polyline class="{kind}" stroke="{colour}" points="{drawn}"/>'


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


def _svg(said: str, height: float, inside: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(said)}">{inside}</svg>'


def _figure(caption: str, svg: str, legend: Sequence[str]) -> str:
    keys = "".join(f'<li><i style="background:var(--c{i % SERIES})"></i>{escape(name)}</li>' for i, name in enumerate(legend))
    listed = f'<ul class="legend">{keys}</ul>' if len(legend) > 1 else ""
    return f'<figure class="chart"><figcaption>{caption}</figcaption>{listed}{svg}</figure>'
