"""What probes and control metrics showed while a run trained, as charts that end in the final values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sightline.methods.contract import MetricInfo
from sightline.platform.evaluation.findings import label_of
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.runs.events import ProbesMeasured, ProbesMissed, RunEvent

from .charts import Chart, line_chart
from .sections import Section

Curve = dict[int, tuple[float, float, float]]
"""Step -> (value, low, high); NaN for an end that is not known."""
NAN = float("nan")


def probe_curves(events: Sequence[RunEvent], step: int, final: Mapping[str, Interval], infos: Mapping[str, MetricInfo]) -> Section:
    """Empty for a run that was not probed while it trained. `final`: the metrics of the last `step`, by their names in MLflow; `infos`:
    what they mean, by the same names."""
    measured = [event for event in events if isinstance(event, ProbesMeasured)]
    curves: dict[str, Curve] = {}
    baselines: dict[str, float] = {}
    for event in measured:
        baselines = {**event.baselines, **baselines}
        for name, value in event.values.items():
            curves.setdefault(name, {})[event.step] = (value, event.low.get(name, NAN), event.high.get(name, NAN))
    for name, one in final.items():
        if name in curves:
            curves[name][step] = (one.value, one.low, one.high)
        elif curves:
            baselines[name] = one.value
    text = (
        "Checkpoints were measured beside the training, by the same protocols as at the end; bands are intervals. "
        "Dashed: the mean of networks with random weights, and features that no network has touched."
    )
    charts = [_chart(names, curves, baselines, infos) for names in _charts(curves, infos)]
    return Section("While it trained", text if curves else "", charts=charts, notes=_notes(events))


def _charts(curves: Mapping[str, Curve], infos: Mapping[str, MetricInfo]) -> list[list[str]]:
    """The metrics of each chart: those of a family share one."""
    charts: dict[str, list[str]] = {}
    for name in sorted(curves, key=lambda name: not name.startswith("probe/")):
        family = infos[name].family if name in infos else ""
        charts.setdefault(f"family {family}" if family else name, []).append(name)
    return list(charts.values())


def _chart(
    names: Sequence[str], curves: Mapping[str, Curve], baselines: Mapping[str, float], infos: Mapping[str, MetricInfo]
) -> Chart | None:
    first = names[0]
    info = infos.get(first, MetricInfo())
    group, *middle, key = first.split("/")
    scale = 100.0 if info.unit == "%" else 1.0
    of_probe = group == "probe"
    labels = {name: "trained encoder" if of_probe else label_of(name.split("/")[-1], infos.get(name, MetricInfo())) for name in names}
    points = {name: sorted(curves[name].items()) for name in names}
    levels = {}
    if of_probe:
        for prefix, label in (("random", "random weights"), ("pixels", "raw pixels"), ("position", "position alone")):
            if (baseline := "/".join([group, *middle, f"{prefix}_{key}"])) in baselines:
                levels[label] = scale * baselines[baseline]
    title = f"{' '.join(middle).replace('_', ' ')} {label_of(key, info)}".strip() if of_probe else info.family or label_of(key, info)
    return line_chart(
        f"{title[:1].upper()}{title[1:]}",
        {labels[name]: [(step, scale * value) for step, (value, _, _) in points[name]] for name in names},
        "step",
        info.unit,
        bands={labels[name]: [(step, scale * low, scale * high) for step, (_, low, high) in points[name]] for name in names},
        levels=levels,
    )


def _notes(events: Sequence[RunEvent]) -> list[str]:
    missed = {event.step: event for event in events if isinstance(event, ProbesMissed)}
    measured = {event.step for event in events if isinstance(event, ProbesMeasured)}
    late = [step for step, event in missed.items() if event.late and step not in measured]
    failed = [event for step, event in missed.items() if not event.late and step not in measured]
    notes = []
    if late:
        notes.append(f"{_checkpoints(late)} passed over, because the probes before were still running.")
    if failed:
        notes.append(f"{_checkpoints([one.step for one in failed])} not measured: {failed[-1].reason}.")
    return notes


def _checkpoints(steps: Sequence[int]) -> str:
    some = ", ".join(map(str, sorted(steps)[:5])) + (", ..." if len(steps) > 5 else "")
    return f"The checkpoint of step {some} was" if len(steps) == 1 else f"{len(steps)} checkpoints (steps {some}) were"
