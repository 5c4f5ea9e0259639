"""One self-contained HTML page for a run: what was found, how sure that is, what it looks like, and how to do it again."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.methods.contract import Visualisation
from sightline.methods.errors import SightlineError

from .charts import Points, interval_chart, line_chart, number, stacked_bar
from .style import STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself is told to fetch nothing and run nothing."""
UNITS = {"psnr": "dB"}
"""Units of figures by the first word of their name."""


def write_report(path: str | Path, run: Mapping[str, Any]) -> Path:
    """Writes the page and returns its path. Every text is escaped. Raises `SightlineError` where it cannot be written.

    Keys of `run`, all but `title` optional: `title`; `kind` (what the page is of, as 'pre-training run'); `headline` (one or two plain
    sentences); `facts` [(label, value)]; `curves` {name: [(step, value)]}, those whose names end in 'loss' share a chart; `pictures`
    [`Visualisation`]; `sections` [(heading, HTML of `charts` and `text_table`)]; `probes` [result of a probe]; `claims` (result of
    `measure_control_metrics`); `meanings` {figure: what it means}; `time` {phase: seconds};
    `config` {flat key: value}; `provenance` [text]; `commands` [shell line]; `next` [text]; `warnings` [text].
    """
    path = Path(path)
    title = str(run["title"])
    sections = [
        _header(run),
        _warnings(run.get("warnings") or ()),
        _facts(run.get("facts") or ()),
        _claims(run.get("claims"), run.get("meanings") or {}),
        _pictures(run.get("pictures") or ()),
        *(_section(heading, body) for heading, body in run.get("sections") or ()),
        _probes(run.get("probes") or ()),
        _curves(run.get("curves") or {}),
        _section("Where the time went", stacked_bar("Training", run.get("time") or {})),
        _section("What to try next", _list(run.get("next") or (), "ol")),
        _section("How to do it again", _commands(run.get("commands") or ())),
        _section("Data and licence", _list(run.get("provenance") or (), "ul")),
        _settings(run.get("config") or {}),
    ]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n<footer>Written by Sightline. This page is complete in itself: it needs no network and runs no script.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SightlineError(f"cannot write the report {path}: {error.strerror}", "make room or choose another place") from None
    return path


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>" if body else ""


def _list(items: Iterable[Any], tag: str) -> str:
    inside = "".join(f"<li>{escape(str(item))}</li>" for item in items)
    return f"<{tag}>{inside}</{tag}>" if inside else ""


def _header(run: Mapping[str, Any]) -> str:
    kind = f'<p class="kind">Sightline · {escape(str(run.get("kind") or "pre-training run"))}</p>'
    headline = f'<p class="headline">{escape(str(run["headline"]))}</p>' if run.get("headline") else ""
    return f"<header>\n{kind}\n<h1>{escape(str(run['title']))}</h1>\n{headline}\n</header>"


def _warnings(warnings: Sequence[Any]) -> str:
    return f'<div class="warn" role="note"><b>Mind</b>{_list(warnings, "ul")}</div>' if warnings else ""


def _facts(facts: Sequence[tuple[str, Any]]) -> str:
    cells = "".join(f"<div><dt>{escape(str(label))}</dt><dd>{escape(str(value))}</dd></div>" for label, value in facts)
    return f'<dl class="facts">{cells}{"<div class=filler></div>" * 4}</dl>' if cells else ""


def _curves(curves: Mapping[str, Points]) -> str:
    losses = {name: points for name, points in curves.items() if name.endswith("loss")}
    charts = [line_chart("Loss", losses, "step", "")] if losses else []
    charts += [line_chart(name[:1].upper() + name[1:], {name: points}, "step", "") for name, points in curves.items() if name not in losses]
    drawn = "".join(charts)
    return _section("Learning curves", f'<div class="charts">{drawn}</div>' if drawn else "")


def _pictures(pictures: Sequence[Visualisation]) -> str:
    shown = []
    for picture in pictures:
        height, width = picture.image.shape[:2]
        buffer = io.BytesIO()
        Image.fromarray(picture.image).save(buffer, "PNG", optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
        shape = " wide" if width > 1.4 * height else ""
        small = ' class="small"' if width < 400 else ""
        shown.append(
            f'<figure class="picture{shape}"><img{small} src="data:image/png;base64,{data}" width="{width}" height="{height}" '
            f'alt="{escape(picture.title)}"><figcaption><b>{escape(picture.title)}</b> {escape(picture.caption)}</figcaption></figure>'
        )
    return _section("What it looks like", f'<div class="pictures">{"".join(shown)}</div>' if shown else "")


def _span(figure: Mapping[str, Any], show: Any) -> str:
    """A value with its interval."""
    if figure.get("low") is None or figure.get("high") is None:
        return str(show(figure["value"]))
    return f"{show(figure['value'])}<small>{show(figure['low'])} to {show(figure['high'])}</small>"


def _probes(probes: Sequence[Mapping[str, Any]]) -> str:
    """A section for each probe, and one for those that the data did not allow."""
    skipped = _list([probe["skipped"] for probe in probes if "skipped" in probe], "ul")
    sections = [_probe(probe) for probe in probes if "skipped" not in probe]
    return "\n".join([*sections, *([_section("Probes that the data did not allow", skipped)] if skipped else [])])


def _probe(probe: Mapping[str, Any]) -> str:
    metrics: Mapping[str, Mapping[str, str]] = {key: about for key, about in probe["metrics"].items() if "group" not in about}
    weight = {"encoder": ' class="main"', "control": ' class="minor"', "seed": ' class="minor"'}
    rows = "".join(
        f'<tr{weight.get(row["kind"], "")}><th scope="row">{escape(row["name"])}</th>'
        + "".join(f"<td>{_span(row['metrics'][key], _shower(metric))}</td>" for key, metric in metrics.items())
        + "</tr>"
        for row in probe["rows"]
    )
    differences = ""
    for difference in probe["differences"]:
        cells = []
        for key, metric in metrics.items():
            word = difference["metrics"][key]["verdict"]
            shade = {"better": "good", "worse": "bad"}.get(word, "")
            cells.append(
                f'<td>{_span(difference["metrics"][key], _shower(metric, "+"))}<span class="verdict {shade}">{escape(word)}</span></td>'
            )
        differences += f'<tr><th scope="row">{escape(difference["name"])}</th>{"".join(cells)}</tr>'
    first = next(iter(metrics))
    scale = 100 if metrics[first]["unit"] == "%" else 1
    dots = [(row["name"], *_ends(row["metrics"][first], scale), row["kind"] == "encoder") for row in probe["rows"]]
    chart = interval_chart(
        metrics[first]["label"], dots, f"{metrics[first]['unit']}, {metrics[first]['better']} is better".lstrip(", "), from_zero=False
    )
    meanings = "; ".join(f"{metric['label']}: {metric['means']}" for metric in metrics.values())
    counts = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in probe["counts"].items() if value)
    body = [
        f"<p>{escape(probe.get('finding', ''))}</p>",
        f'<div class="charts">{chart}</div>',
        _table("Figures, each with its interval", [_metric_header(m) for m in metrics.values()], rows),
        _table("Differences on the same resamples", [_metric_header(m, points=True) for m in metrics.values()], differences),
        _details(probe),
        f'<p class="note">{escape(meanings)}.</p><p class="note">{escape(probe["covers"])}</p>',
        f'<p class="note">{escape(counts)}. Protocol {escape(probe["probe"])} version {probe["protocol"]["version"]} '
        f"({escape(probe['protocol_hash'])}); {probe['seconds']:.0f} s.</p>",
    ]
    title = str(probe["title"])
    return _section(f"Probe: {title[:1].lower()}{title[1:]}", "\n".join(body))


def _details(probe: Mapping[str, Any]) -> str:
    """Figures of detail, such as the IoU of each class: a table for each group, turned, with one column for each row of the result."""
    groups: dict[str, list[str]] = {}
    for key, about in probe["metrics"].items():
        if "group" in about:
            groups.setdefault(about["group"], []).append(key)
    shown = [row for row in probe["rows"] if row["kind"] not in ("control", "seed")]
    tables = []
    for group, keys in groups.items():
        about = probe["metrics"]
        lines = "".join(
            f'<tr><th scope="row">{escape(about[key]["label"])}</th>'
            + "".join(f"<td>{_span(row['metrics'][key], _shower(about[key]))}</td>" for row in shown)
            + "</tr>"
            for key in keys
        )
        unit = about[keys[0]]["unit"]
        headers = [f'<th scope="col">{escape(row["name"])}</th>' for row in shown]
        tables.append(_table(f"{group}{f', {unit}' if unit else ''}", headers, lines))
    return "\n".join(tables)


def _shower(metric: Mapping[str, str], sign: str = "") -> Callable[[float], str]:
    if metric["unit"] == "%":
        return lambda value: f"{value * 100:{sign}.1f}"
    return lambda value: f"{value:{sign}.3f}"


def _metric_header(metric: Mapping[str, str], *, points: bool = False) -> str:
    unit = "points" if points and metric["unit"] == "%" else metric["unit"]
    arrow = "higher is better" if metric["better"] == "higher" else "lower is better"
    after = f", {escape(unit)}" if unit else ""
    return f'<th scope="col" title="{escape(metric["means"])}">{escape(metric["label"])}{after}<small>{arrow}</small></th>'


def _table(caption: str, headers: Sequence[str], rows: str) -> str:
    if not rows:
        return ""
    head = '<th scope="col"></th>' + "".join(headers)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _claims(claims: Mapping[str, Any] | None, meanings: Mapping[str, str]) -> str:
    if not claims:
        return ""
    groups: dict[str, list[str]] = {}
    for name in claims["figures"]:
        groups.setdefault(name.split("_")[0], []).append(name)
    charts, rows = [], ""
    for prefix, names in groups.items():
        unit = UNITS.get(prefix, "")
        dots = [(_rest(name), *_ends(claims["figures"][name]), index == 0) for index, name in enumerate(names)]
        title = prefix.upper() if prefix in UNITS else prefix[:1].upper() + prefix[1:]
        charts.append(interval_chart(title, dots, unit, from_zero=False))
        for name in names:
            rows += (
                f'<tr><th scope="row">{escape(_words(name))}</th><td>{_span(claims["figures"][name], lambda v: f"{v:.2f}")}</td>'
                f'<td class="text">{escape(meanings.get(name, ""))}</td></tr>'
            )
    differences = ""
    for difference in claims["differences"]:
        low, high = difference["low"], difference["high"]
        word = "no difference shown" if low is None or low <= 0 <= high else "the interval leaves out zero"
        one, other = (escape(text) for text in (_words(difference["of"][0]), _rest(difference["of"][1])))
        shown = _span(difference, lambda v: f"{v:+.2f}")
        differences += f'<tr><th scope="row">{one} minus {other}</th><td>{shown}</td><td class="text">{word}</td></tr>'
    plain = ['<th scope="col">value</th>', '<th scope="col"></th>']
    body = [
        f'<div class="charts">{"".join(charts)}</div>',
        _table("Figures, each with its interval", plain, rows),
        _table("Differences of the same samples", plain, differences),
        f'<p class="note">{escape(claims["covers"])} {number(claims["counts"]["samples"])} validation samples.</p>',
    ]
    return _section("The method's own claim", "\n".join(body))


def _ends(figure: Mapping[str, Any], scale: float = 1) -> tuple[float, float | None, float | None]:
    low, high = (None if figure[end] is None else figure[end] * scale for end in ("low", "high"))
    return figure["value"] * scale, low, high


def _words(name: str) -> str:
    """A figure's name as words: `psnr_true_view` -> `PSNR true view`."""
    first, *rest = name.split("_")
    return " ".join([first.upper() if first in UNITS else first, *rest])


def _rest(name: str) -> str:
    """The name without its first word: `psnr_true_view` -> `true view`."""
    return " ".join(name.split("_")[1:]) or name


def _commands(commands: Sequence[str]) -> str:
    return f"<pre><code>{escape(chr(10).join(str(line) for line in commands))}</code></pre>" if commands else ""


@dataclass(frozen=True)
class Link:
    """A cell of a `text_table`; without an address its text alone."""

    text: str
    address: str | None

    def __str__(self) -> str:
        return self.text


def _cell(cell: Any) -> str:
    text = escape(str(cell))
    return f'<a href="{escape(cell.address)}">{text}</a>' if isinstance(cell, Link) and cell.address else text


def text_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], main: int | None = None) -> str:
    """A table of texts, each escaped; row `main` is emphasised."""
    lines = "".join(
        f"<tr{' class=main' if index == main else ''}>"
        + f'<th scope="row">{escape(str(row[0]))}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for index, row in enumerate(rows)
    )
    return _table(caption, [f'<th scope="col">{escape(heading)}</th>' for heading in headings[1:]], lines)


def _settings(config: Mapping[str, Any]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>' for key, value in config.items())
    if not rows:
        return ""
    return (
        f'<section>\n<h2>Settings</h2>\n<details><summary>All {len(config)} settings</summary><div class="scroll"><table><tbody>{rows}'
        "</tbody></table></div></details>\n</section>"
    )
