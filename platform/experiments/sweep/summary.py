"""What a sweep found, as sentences, rows and a page."""

from __future__ import annotations

import math
from typing import Any

from sightline.platform.evaluation.findings import show
from sightline.platform.evaluation.probes.catalog import find_probe
from sightline.platform.reports.charts import Axis, Chart, Course, Dot, interval_chart, line_chart, number, parallel_chart
from sightline.platform.reports.page import ReportPage
from sightline.platform.reports.sections import Section, Table, text_table
from sightline.platform.runs.record import Run

from .record import Sweep, Trial, TrialStatus
from .space import Choice, Domain, Range, identity

SHOWN = 16
"""Trials with a curve."""
LEAST = 8
"""Trials below which nothing is said about the importance of a setting."""


def verdict(sweep: Sweep) -> str:
    """One plain sentence: whether a setting was found that did better than the recipe's own."""
    best, own = sweep.best(), next((trial for trial in sweep.trials() if trial.number == 0), None)
    if best is None:
        return f"Nothing was found: no trial finished ({_counts(sweep)})."
    if best.number == 0:
        return f"No better setting was found: the recipe's own settings did best of {len(sweep.trials())} trials."
    beside = f"; the recipe's own settings reach {_shown(sweep, own)}" if own is not None and own.last is not None else ""
    found = f"{_settings(best)} did best: {_objective(sweep)} {_shown(sweep, best)}{beside}"
    return f"{found}. One training seed each: a small lead may be luck."


def numbers(sweep: Sweep) -> str:
    """What stands below the verdict."""
    own = next((trial for trial in sweep.trials() if trial.number == 0), None)
    best = sweep.best()
    at = ""
    if best is not None and best.number and own is not None and own.status == TrialStatus.PRUNED and own.results:
        at = f" The recipe's own settings were stopped at step {max(own.results)}."
    return f"{len(sweep.trials())} trials: {_counts(sweep)}.{at}"


def _counts(sweep: Sweep) -> str:
    counts = [(word, sum(t.status == word for t in sweep.trials())) for word in ("finished", "pruned", "failed", "cancelled")]
    return ", ".join(f"{count} {word}" for word, count in counts if count)


def _objective(sweep: Sweep) -> str:
    return sweep.plan.objective.replace(".", " ").replace("_", " ")


def _shown(sweep: Sweep, trial: Trial) -> str:
    """The newest objective of a trial that has one, in its metric's unit."""
    assert trial.last is not None
    probe, _, metric = sweep.plan.objective.partition(".")
    info = find_probe(probe).metrics.get(metric) if metric and not probe.startswith("val/") else None
    return show(trial.last, info) if info else f"{trial.last:.4g}"


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Plain values of each trial."""
    return [
        {
            "trial": trial.number,
            "run": sweep.run_name(trial.number),
            "status": trial.status,
            "settings": trial.settings,
            "results": trial.results,
            "seconds": trial.seconds,
            "error": trial.error,
        }
        for trial in sweep.trials()
    ]


def page(sweep: Sweep, registered: str | None) -> ReportPage:
    plan, trials, best = sweep.plan, sweep.trials(), sweep.best()
    charts = [_parallel(sweep, trials, best), _curves(trials), _losses(sweep, trials)]
    return ReportPage(
        title=f"{sweep.name}: a sweep of {sweep.recipe}",
        kind="sweep",
        headline=verdict(sweep),
        detail=numbers(sweep),
        warnings=[f"trial {trial.number:03d} failed: {trial.error}" for trial in trials if trial.status == "failed"],
        facts=[
            ("trials", f"{len(trials)}, {plan.search}"),
            ("objective", f"{plan.objective}, {plan.better} is better"),
            ("measured at", f"steps {', '.join(map(str, plan.rungs))} of {plan.steps}"),
            ("stopped early", f"one of {plan.reduction} goes on (ASHA)" if plan.scheduler == "asha" else "no trial"),
            ("champion", registered or "not registered"),
            ("overhead of a trial", _overhead(trials)),
        ],
        sections=[
            Section("What was searched", charts=charts),
            *_importance(sweep, trials),
            Section("Trials", tables=[_table(sweep, trials, best)]),
        ],
        commands=[sweep.command, f"sightline resume {sweep.name}"],
        settings={f"{section}.{key}": v for section, keys in sweep.settings.items() if isinstance(keys, dict) for key, v in keys.items()},
    )


def _settings(trial: Trial) -> str:
    return ", ".join(f"{key}={value}" for key, value in trial.settings.items())


def _overhead(trials: list[Trial]) -> str:
    spent = sorted(t.seconds["whole"] - t.seconds["training"] - t.seconds["measuring"] for t in trials if "whole" in t.seconds)
    return f"{spent[len(spent) // 2]:.1f} s (median), besides its training and the measuring at its rungs" if spent else "not measured"


def _place(domain: Domain, value: Any) -> float:
    """Where a value lies on its axis, in [0, 1]."""
    if isinstance(domain, Choice):
        listed = [identity(option) for option in domain.options]
        return listed.index(identity(value)) / max(1, len(listed) - 1)
    low, high = (math.log(domain.low), math.log(domain.high)) if domain.log else (domain.low, domain.high)
    return ((math.log(value) if domain.log else value) - low) / (high - low)


def _ends(domain: Domain) -> tuple[str, str]:
    if isinstance(domain, Range):
        return number(domain.low), number(domain.high)
    return str(domain.options[0]), str(domain.options[-1])


def _searched_values(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """The trial's value of each searched setting, or the recipe's own where the trial sets none."""
    parts = [key.partition(".") for key in sweep.plan.space]
    return {f"{s}.{k}": trial.settings.get(f"{s}.{k}", (sweep.settings.get(s) or {}).get(k)) for s, _, k in parts}


def _parallel(sweep: Sweep, trials: list[Trial], best: Trial | None) -> Chart | None:
    domains = sweep.plan.domains
    scored = [(trial, trial.last) for trial in trials if trial.last is not None and math.isfinite(trial.last)]
    if not scored:
        return None
    low, high = min(last for _, last in scored), max(last for _, last in scored)
    courses = []
    for trial, last in scored:
        settings = _searched_values(sweep, trial)
        if not all(settings[key] in domain for key, domain in domains.items()):
            continue
        share = (last - low) / (high - low or 1.0)
        shade = share if sweep.plan.better == "higher" else 1 - share
        places = [_place(domain, settings[key]) for key, domain in domains.items()]
        courses.append(Course(f"trial {trial.number:03d} {number(last)}", (*places, share), shade, emphasised=trial == best))
    axes = [Axis(key.partition(".")[2], *_ends(domain)) for key, domain in domains.items()]
    objective = Axis(sweep.plan.objective, number(low), number(high))
    return parallel_chart("Settings and objective, where each was last measured", [*axes, objective], courses)


def _furthest(trials: list[Trial]) -> list[Trial]:
    return sorted((trial for trial in trials if trial.results), key=lambda trial: -len(trial.results))[:SHOWN]


def _curves(trials: list[Trial]) -> Chart | None:
    return line_chart("Objective", {f"{trial.number:03d}": sorted(trial.results.items()) for trial in _furthest(trials)}, "step")


def _losses(sweep: Sweep, trials: list[Trial]) -> Chart | None:
    """The training loss, averaged over each fiftieth of the steps."""
    width, curves = max(1, sweep.plan.steps // 50), {}
    for trial in _furthest(trials):
        parts: dict[int, list[float]] = {}
        for step, metrics in Run.open(sweep.run_name(trial.number)).history().items():
            parts.setdefault(step // width, []).append(metrics["loss"])
        curves[f"{trial.number:03d}"] = [((part + 0.5) * width, sum(losses) / len(losses)) for part, losses in parts.items()]
    return line_chart("Training loss, which compares only where the task is the same", curves, "step")


def importance(sweep: Sweep, trials: list[Trial]) -> tuple[dict[str, float], float] | None:
    """(share of the permutation importance by setting, out-of-bag R² of the forest) at the first rung; None for too few trials."""
    first = sweep.plan.rungs[0]
    domains = sweep.plan.domains
    known = [
        (_searched_values(sweep, trial), trial.results[first]) for trial in trials if math.isfinite(trial.results.get(first, math.nan))
    ]
    known = [(settings, value) for settings, value in known if all(settings[key] in domain for key, domain in domains.items())]
    if len(known) < LEAST:
        return None
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    x = np.array([[_place(domain, settings[key]) for key, domain in domains.items()] for settings, _ in known])
    y = np.array([value for _, value in known])
    forest = RandomForestRegressor(200, oob_score=True, random_state=0).fit(x, y)
    found = permutation_importance(forest, x, y, n_repeats=30, random_state=0).importances_mean.clip(0)
    return dict(zip(domains, (found / (found.sum() or 1.0)).tolist(), strict=True)), float(forest.oob_score_)


def _importance(sweep: Sweep, trials: list[Trial]) -> list[Section]:
    """Nothing where there are too few trials to say."""
    found = importance(sweep, trials)
    if found is None:
        return []
    shares, r_squared = found
    note = f"Permutation importance in a random forest of all trials at step {sweep.plan.rungs[0]}, whose out-of-bag R² is {r_squared:.2f}"
    note += "." if r_squared > 0.2 else ": too low to trust these shares."
    dots = [Dot(key, 100 * share) for key, share in shares.items()]
    return [
        Section("Importance of each setting", charts=[interval_chart("Share of the importance", dots, "%", from_zero=True)], notes=[note])
    ]


def _table(sweep: Sweep, trials: list[Trial], best: Trial | None) -> Table:
    keys = list(sweep.plan.space)
    sign = -1 if sweep.plan.better == "higher" else 1
    order = sorted(trials, key=lambda t: (-max(t.results, default=0), sign * t.last if t.last is not None else math.inf))
    rows = []
    for trial in order:
        full = _searched_values(sweep, trial)
        steps = [number(trial.results[step]) if step in trial.results else "" for step in sweep.plan.rungs]
        name = f"{sweep.run_name(trial.number)}{' (own settings)' * (trial.number == 0)}"
        rows.append(
            [name, trial.status, *(str(full[key]) for key in keys), *steps, f"{trial.seconds['whole']:.0f}" if trial.seconds else ""]
        )
    columns = ["status", *keys, *(f"step {step}" for step in sweep.plan.rungs), "seconds"]
    return text_table(f"{sweep.plan.objective}, those that came furthest first", columns, rows, 0 if best else None)
