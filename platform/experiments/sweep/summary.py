"""What a sweep found, as sentences, rows and a page."""

from __future__ import annotations

import math
from typing import Any

from sightline.platform.config.location import Mixture, parse
from sightline.platform.reports.charts import (
    Axis,
    Chart,
    Course,
    Dot,
    Mark,
    front_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    number,
    parallel_chart,
)
from sightline.platform.reports.page import ReportPage
from sightline.platform.reports.sections import Cell, Section, Table, text_table
from sightline.platform.runs.record import Run

from .catalog import find_scheduler
from .objectives import front, shown, words
from .record import Sweep, Trial, TrialStatus
from .space import Choice, Domain, index_of

SHOWN = 8
"""Trials with a curve: as many as there are colours."""
SPREAD = 0.06
"""How far lines through the same value of a list lie apart, as a share of the axis, so that each is seen."""
LEAST = 8
"""Trials below which nothing is said about the importance of a setting."""


def verdict(sweep: Sweep) -> str:
    """What was found, in a sentence or two: whether a setting did better than the recipe's own, or which trials no other beats."""
    trials, best = sweep.trials(), sweep.best()
    own = next((trial for trial in trials if trial.number == 0), None)
    if best is None:
        return f"Nothing was found: no trial finished ({_counts(sweep)})."
    if sweep.plan.others:
        return _verdict_of_front(sweep, trials, best, own)
    if best.number == 0:
        return f"No better setting was found: the recipe's own settings did best of {len(trials)} trials."
    beside = f"; the recipe's own settings reach {_shown(sweep, own)}" if own is not None and own.last is not None else ""
    found = f"{_settings(best)} did best: {words(sweep.plan.objective)} {_shown(sweep, best)}{beside}"
    return f"{found}. {_luck(sweep, best, own)}"


def _luck(sweep: Sweep, best: Trial, own: Trial | None) -> str:
    """What may be said of a lead."""
    if sweep.plan.seeds == 1:
        return "One training seed each: a small lead may be luck."
    mine, theirs = (_of_seeds(sweep, trial) if trial else [] for trial in (best, own))
    if not theirs or own is None or sweep.plan.steps not in own.results:
        return f"Means over {sweep.plan.seeds} training seeds."
    sign = sweep.plan.objectives[0].sign
    apart = min(sign * value for value in mine) > max(sign * value for value in theirs)
    if apart:
        return f"All {len(mine)} training seeds of it did better than all of those; that it was chosen as the best still favours it."
    return f"The values of their {len(mine)} training seeds overlap: the lead may be luck."


def _verdict_of_front(sweep: Sweep, trials: list[Trial], best: Trial, own: Trial | None) -> str:
    plan, names = sweep.plan, [words(one.name) for one in sweep.plan.objectives]
    members = front(plan, trials)
    finished = sum(trial.scores(plan) is not None for trial in trials)
    are = "is" if len(members) == 1 else "are"
    said = f"{len(members)} of {finished} finished trials {are} on the Pareto front of {', '.join(names[:-1])} and {names[-1]}"
    ends = []
    for index, (one, name) in enumerate(zip(plan.objectives, names, strict=True)):
        top = max(members, key=lambda trial: (trial.scores(plan) or ())[index])
        settings = f" ({_settings(top) or 'the settings of the recipe'})" if not index else ""
        ends.append(f"in {name} trial {top.number:03d}{settings} with {shown((top.values(plan) or [])[index], one.name)}")
    place = ""
    if own is not None and own.number not in [member.number for member in members] and own.scores(plan) is not None:
        place = " The recipe's own settings are not on it."
    luck = " One training seed each: small differences may be luck." if plan.seeds == 1 else ""
    return f"{said}. Best {'; '.join(ends)}.{place}{luck}"


def numbers(sweep: Sweep) -> str:
    """What stands below the verdict."""
    own = next((trial for trial in sweep.trials() if trial.number == 0), None)
    best = sweep.best()
    at = ""
    if best is not None and best.number and own is not None and own.status == TrialStatus.PRUNED and own.results:
        at = f" The recipe's own settings were stopped at step {max(own.results)}."
    if sweep.plan.others:
        at += (
            f" Trial {best.number:03d} is the one that is registered: the best of the front in {words(sweep.plan.objective)}."
            if best
            else ""
        )
    return f"{len(sweep.trials())} trials: {_counts(sweep)}.{at}"


def _counts(sweep: Sweep) -> str:
    counts = [(word, sum(t.status == word for t in sweep.trials())) for word in ("finished", "pruned", "failed", "cancelled")]
    return ", ".join(f"{count} {word}" for word, count in counts if count)


def _of_seeds(sweep: Sweep, trial: Trial, objective: str = "") -> list[float]:
    """Its newest objective with each training seed; empty where it has one seed or no result."""
    return trial.seeds.get(max(trial.results, default=-1), {}).get(objective or sweep.plan.objective, [])


def _shown(sweep: Sweep, trial: Trial) -> str:
    """The newest objective of a trial that has one, in its metric's unit, with the range of its training seeds."""
    assert trial.last is not None
    name, each = sweep.plan.objective, _of_seeds(sweep, trial)
    spread = f" ({shown(min(each), name)} to {shown(max(each), name)} with {len(each)} training seeds)" if each else ""
    return f"{shown(trial.last, name)}{spread}"


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Plain values of each trial."""
    return [
        {
            "trial": trial.number,
            "run": sweep.run_name(trial.number),
            "status": trial.status,
            "settings": trial.settings,
            "results": trial.results,
            **({"others": trial.others} if sweep.plan.others else {}),
            **({"runs": sweep.run_names(trial.number), "seeds": trial.seeds} if sweep.plan.seeds > 1 else {}),
            "seconds": trial.seconds,
            "error": trial.error,
        }
        for trial in sweep.trials()
    ]


def page(sweep: Sweep, registered: str | None) -> ReportPage:
    plan, trials, best = sweep.plan, sweep.trials(), sweep.best()
    charts = [_parallel(sweep, trials, best), *_fronts(sweep, trials), _curves(sweep, trials), _losses(sweep, trials)]
    note = "Each line of the first picture is a trial; orange is the best, and the stronger the blue, the better."
    failed = " Dashed lines are trials that failed, which have no objective." if any(t.status == "failed" for t in trials) else ""
    return ReportPage(
        title=f"{sweep.name}: a sweep of {sweep.recipe}",
        kind="sweep",
        headline=verdict(sweep),
        detail=numbers(sweep),
        warnings=[f"trial {trial.number:03d} failed: {trial.error}" for trial in trials if trial.status == "failed"],
        facts=[
            ("trials", f"{len(trials)}, {plan.search}{f', {plan.seeds} training seeds each' if plan.seeds > 1 else ''}"),
            *(("objective", f"{one.name}, {one.better} is better") for one in plan.objectives),
            ("measured at", f"steps {', '.join(map(str, plan.rungs))} of {plan.steps}"),
            ("stopped early", find_scheduler(plan.scheduler).sentence.format(reduction=plan.reduction)),
            ("registered", registered or "not registered"),
            ("overhead of a trial", _overhead(trials)),
        ],
        sections=[
            Section("What was searched", charts=charts, notes=[note + failed] if charts[0] else []),
            *_importance(sweep, trials),
            Section("Trials", tables=[_table(sweep, trials, best)]),
        ],
        commands=[sweep.command, f"sightline resume {sweep.name}"],
        settings={f"{section}.{key}": v for section, keys in sweep.settings.items() if isinstance(keys, dict) for key, v in keys.items()},
    )


def _settings(trial: Trial) -> str:
    return ", ".join(f"{key}={_text(value)}" for key, value in trial.settings.items())


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else _named(value)


def _named(value: Any) -> str:
    """Of a mixture its weights and the names of its data sets, of a place the last part."""
    if not isinstance(value, str) or "/" not in value:
        return str(value)
    place = parse(value)
    return place.told if isinstance(place, Mixture) else value.rstrip("/").rpartition("/")[2]


def _overhead(trials: list[Trial]) -> str:
    spent = sorted(t.seconds["whole"] - t.seconds["training"] - t.seconds["measuring"] for t in trials if "whole" in t.seconds)
    return f"{spent[len(spent) // 2]:.1f} s (median), besides its training and the measuring at its rungs" if spent else "not measured"


def _place(domain: Domain, value: Any) -> float:
    """Where a value lies on its axis, in [0, 1]."""
    if isinstance(domain, Choice):
        options = domain.options
        if all(isinstance(option, (int, float)) and not isinstance(option, bool) for option in options):
            options = tuple(sorted(options))
        return index_of(Choice(options), value) / max(1, len(options) - 1)
    low, high = (math.log(domain.low), math.log(domain.high)) if domain.log else (domain.low, domain.high)
    return ((math.log(value) if domain.log else value) - low) / (high - low)


def _ticks(domain: Domain) -> list[tuple[float, str]]:
    """The values of a list; of a range its ends, and round numbers between them."""
    if isinstance(domain, Choice):
        return [(_place(domain, option), _short(option)) for option in domain.options]
    low, high = domain.edges()
    if domain.log:
        between = [float(10**power) for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    else:
        between = nice_ticks(low, high)
    between = [value for value in between if 0.1 < _place(domain, value) < 0.9 and (not domain.whole or float(value).is_integer())]
    return [(_place(domain, value), number(value)) for value in (low, *between, high)]


def _short(option: Any) -> str:
    text = number(option) if isinstance(option, (int, float)) and not isinstance(option, bool) else _named(option)
    return text if len(text) <= 14 else f"{text[:13]}…"


def _searched_values(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """The trial's value of each searched setting, or the recipe's own where the trial sets none."""
    parts = [key.partition(".") for key in sweep.plan.space]
    return {f"{s}.{k}": trial.settings.get(f"{s}.{k}", (sweep.settings.get(s) or {}).get(k)) for s, _, k in parts}


def _parallel(sweep: Sweep, trials: list[Trial], best: Trial | None) -> Chart | None:
    plan, domains, courses = sweep.plan, sweep.plan.domains, []
    found = [(trial, _searched_values(sweep, trial), trial.values(plan)) for trial in trials]
    inside = [(trial, settings, values) for trial, settings, values in found if all(settings[key] in domains[key] for key in domains)]
    scored = [values for _, _, values in inside if values and all(map(math.isfinite, values))]
    if not scored:
        return None
    ends = [(min(values), max(values)) for values in zip(*scored, strict=True)]
    for trial, settings, values in inside:
        places = [_place(domain, settings[key]) for key, domain in domains.items()]
        if values not in scored:
            if trial.status is TrialStatus.FAILED:
                courses.append(Course(f"trial {trial.number:03d} failed", (*places,), failed=True))
            continue
        shares = [(value - low) / (high - low) if high > low else 0.5 for value, (low, high) in zip(values or (), ends, strict=True)]
        shades = [share if one.sign > 0 else 1 - share for one, share in zip(plan.objectives, shares, strict=True)]
        told = ", ".join(number(value) for value in values or ())
        lists = [isinstance(domain, Choice) for domain in domains.values()]
        apart = [place + SPREAD * (shades[0] - 0.5) * listed for place, listed in zip(places, lists, strict=True)]
        courses.append(Course(f"trial {trial.number:03d}: {told}", (*apart, *shares), shades[0], emphasised=trial == best))
    axes = [Axis(key.partition(".")[2], _ticks(domain)) for key, domain in domains.items()]
    for one, (low, high) in zip(plan.objectives, ends, strict=True):
        axes.append(Axis(words(one.name), [(0.0, number(low)), (1.0, number(high))] if high > low else [(0.5, number(low))]))
    return parallel_chart("Settings and objective, where each trial was last measured", axes, courses)


def _fronts(sweep: Sweep, trials: list[Trial]) -> list[Chart | None]:
    """The first objective against each of the others."""
    plan = sweep.plan
    members = {trial.number for trial in front(plan, trials)}
    whole = [(trial, trial.values(plan) or []) for trial in trials if trial.scores(plan) is not None]
    first = words(plan.objective)
    charts: list[Chart | None] = []
    for index, one in enumerate(plan.others, 1):
        marks = [Mark(f"{trial.number:03d}", values[index], values[0], trial.number in members) for trial, values in whole]
        x_label = f"{words(one.name)}, {one.better} is better"
        charts.append(front_chart(f"{first}, {plan.better} is better, and {words(one.name)}", marks, x_label, joined=len(plan.others) == 1))
    return charts


def _furthest(trials: list[Trial]) -> list[Trial]:
    return sorted((trial for trial in trials if trial.results), key=lambda trial: -len(trial.results))[:SHOWN]


def _curves(sweep: Sweep, trials: list[Trial]) -> Chart | None:
    if len(sweep.plan.rungs) == 1:
        return None
    return line_chart(
        "Objective of the trials that came furthest",
        {f"{trial.number:03d}": sorted(trial.results.items()) for trial in _furthest(trials)},
        "step",
    )


def _losses(sweep: Sweep, trials: list[Trial]) -> Chart | None:
    """The training loss, averaged over each fiftieth of the steps."""
    width, curves = max(1, sweep.plan.steps // 50), {}
    for trial in _furthest(trials):
        parts: dict[int, list[float]] = {}
        for step, metrics in Run.open(sweep.run_name(trial.number)).history().items():
            parts.setdefault(step // width, []).append(metrics["loss"])
        curves[f"{trial.number:03d}"] = [((part + 0.5) * width, sum(losses) / len(losses)) for part, losses in parts.items()]
    return line_chart("Training loss, which compares only where the task is the same", curves, "step")


def importance(sweep: Sweep, trials: list[Trial], index: int = 0) -> tuple[dict[str, float], float] | None:
    """(share of each setting by fANOVA, out-of-bag R² of a forest) for an objective at the first rung.

    None for too few trials, and where all have the same value.
    """
    plan, first = sweep.plan, sweep.plan.rungs[0]
    found = [(_searched_values(sweep, trial), (trial.values(plan, first) or [math.nan])) for trial in trials]
    known = [(settings, values[index]) for settings, values in found if all(map(math.isfinite, values)) and plan.holds(settings)]
    if len(known) < LEAST or len({value for _, value in known}) == 1:
        return None
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    from .optuna_study import fanova

    x = np.array([[_place(domain, settings[key]) for key, domain in plan.domains.items()] for settings, _ in known])
    y = np.array([value for _, value in known])
    forest = RandomForestRegressor(200, oob_score=True, random_state=0).fit(x, y)
    return fanova(plan, known), float(forest.oob_score_)


def _importance(sweep: Sweep, trials: list[Trial]) -> list[Section]:
    """Nothing where there are too few trials to say."""
    charts, notes = [], []
    for index, one in enumerate(sweep.plan.objectives):
        found = importance(sweep, trials, index)
        if found is None:
            continue
        shares, r_squared = found
        name = f" for {words(one.name)}" if sweep.plan.others else ""
        note = f"Share{name} of the variance that each setting explains alone, by functional ANOVA (Hutter et al., 2014; Optuna's) of all "
        note += f"trials at step {sweep.plan.rungs[0]}. A random forest of them has an out-of-bag R² of {r_squared:.2f}"
        notes.append(note + ("." if r_squared > 0.2 else ": too low to trust these shares."))
        dots = [Dot(key, 100 * share) for key, share in sorted(shares.items(), key=lambda pair: -pair[1])]
        charts.append(interval_chart(f"Share of the importance{name}", dots, "%", from_zero=True))
    return [Section("Importance of each setting", charts=charts, notes=notes)] if charts else []


def _table(sweep: Sweep, trials: list[Trial], best: Trial | None) -> Table:
    plan, keys = sweep.plan, list(sweep.plan.space)
    members = {trial.number for trial in front(plan, trials)} if plan.others else set()
    sign = -plan.objectives[0].sign
    order = sorted(
        trials,
        key=lambda t: (t.number not in members, -max(t.results, default=0), sign * t.last if t.last is not None else math.inf),
    )
    rows: list[list[str | Cell]] = []
    for trial in order:
        full = _searched_values(sweep, trial)
        steps = [_value(trial, step, plan.objective) for step in plan.rungs]
        others = [_value(trial, max(trial.results, default=-1), one.name) for one in plan.others]
        name = f"{sweep.run_name(trial.number)}{' (own settings)' * (trial.number == 0)}"
        state = f"{trial.status}{', front' * (trial.number in members)}"
        seconds = f"{trial.seconds['whole']:.0f}" if trial.seconds else ""
        rows.append([name, state, *(_text(full[key]) for key in keys), *steps, *others, seconds])
    columns = ["status", *keys, *(f"step {step}" for step in plan.rungs), *(one.name for one in plan.others), "seconds"]
    first = "those of the front first" if plan.others else "those that came furthest first"
    main = next((index for index, trial in enumerate(order) if best and trial.number == best.number), None)
    return text_table(f"{plan.objective}, {first}", columns, rows, main)


def _value(trial: Trial, step: int, objective: str) -> Cell:
    """A trial's objective at a step, with the range of its training seeds."""
    if step not in trial.results:
        return Cell("")
    each = trial.seeds.get(step, {}).get(objective, [])
    value = trial.others.get(step, {}).get(objective, trial.results[step])
    return Cell(number(value), f"{number(min(each))} to {number(max(each))}" if each else "")
