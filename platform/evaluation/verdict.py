"""The one plain sentence with which screens, pages and registry descriptions begin: has the encoder learned, and what shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .findings import label_of, show, show_difference
from .results import CATEGORY, TEST, Contrast, MethodResult, ProbeOutcomes, ProbeResult, RowKind, Verdict

NOTHING = "Trained; nothing was measured: that needs data.val, and control metrics or a probe that fits the data."
RANDOM = "random weights"
_WORST_LAST = (Verdict.BETTER, Verdict.NO_DIFFERENCE, Verdict.WORSE)


@dataclass(frozen=True)
class _Standing:
    """What the first metric of a probe shows of an encoder beside random weights and features that no network has touched."""

    above: tuple[str, ...]
    level: tuple[str, ...]
    """No difference is shown."""
    below: tuple[str, ...]

    @property
    def above_random(self) -> bool:
        return RANDOM in self.above

    @property
    def words(self) -> str:
        parts = (("above", self.above), ("level with", self.level), ("below", self.below))
        return ", ".join(f"{word} {_listed(names)}" for word, names in parts if names)


def verdict_of_run(of_method: MethodResult | None, probes: ProbeOutcomes, longer: str = "", kept: str = "encoder") -> str:
    """Of one trained network, called `kept`. `longer`: a command that trains it longer, told where little is shown yet.

    An encoder has learned where it does its pretext task better than every control of it, and a probe is above random weights. The second
    alone is not enough: a few steps in any direction can make random weights more useful.
    """
    if of_method is not None and of_method.name == TEST:
        return _of_predictor(of_method)
    task = list(_of_task(of_method)) if of_method is not None and of_method.contrasts else []
    solved = bool(task) and all(verdict is Verdict.BETTER for verdict, _ in task)
    standings = _standings(_measured(probes), None)
    above = any(one.above_random for one in standings.values())
    told = "; ".join([*(words for verdict, words in task if words), *_told(standings)])
    if not told:
        return NOTHING
    if not task and above:
        return f"The {kept} is better than random weights: {told}."
    if solved and (above or kept == "model"):
        return f"The {kept} has learned: {told}."
    if solved and not standings:
        return f"The pretext task is learned: {told}; no probe measured the {kept}."
    advice = f"Train longer, for example: {longer}" if longer else "Train longer, or measure on more data."
    head = "The pretext task is learned, but no probe is above random weights" if solved else "Not shown to have learned"
    return f"{head}: {told}. {advice}"


def verdict_of_encoders(probes: ProbeOutcomes) -> str:
    """Of encoders that were evaluated: a sentence each."""
    done = _measured(probes)
    sentences = []
    for name in dict.fromkeys(row.name for outcome in done for row in outcome.rows_of(RowKind.ENCODER)):
        standings = _standings(done, name)
        told = "; ".join(_told(standings))
        if any(one.above_random for one in standings.values()):
            sentences.append(f"{name} is better than random weights: {told}.")
        elif any(RANDOM in (*one.level, *one.below) for one in standings.values()):
            sentences.append(f"{name} is not shown to be better than random weights: {told}.")
        else:
            sentences.append(f"{name} was measured without networks of random weights beside it{told and f': {told}'}.")
    return " ".join(sentences) or "Nothing was measured: no probe fits the data."


def verdict_between(probes: ProbeOutcomes, names: Sequence[str]) -> str:
    """Of a comparison: in what those of `names` differ that were held against each other."""
    found: dict[tuple[Verdict, str, str], list[str]] = {}
    for outcome in _measured(probes):
        for one in outcome.differences:
            if one.first in names and one.second in names:
                found.setdefault((one.verdicts[outcome.first_metric], one.first, one.second), []).append(outcome.name)
    better, worse, same = list[str](), list[str](), list[str]()
    for (verdict, first, second), of in found.items():
        match verdict:
            case Verdict.BETTER:
                better.append(f"{first} is better than {second} in {_listed(of)}")
            case Verdict.WORSE:
                worse.append(f"{first} is worse than {second} in {_listed(of)}")
            case Verdict.NO_DIFFERENCE:
                same.append(f"between {first} and {second} no difference is shown in {_listed(of)}")
    parts = [*better, *worse, *same]
    if not parts:
        return "Nothing to tell apart: no probe measured two of them."
    text = "; ".join(parts)
    return f"{text[0].upper() + text[1:] if not better and not worse else text}."


def _measured(probes: ProbeOutcomes) -> list[ProbeResult]:
    return [outcome for outcome in probes.values() if isinstance(outcome, ProbeResult)]


def _of_predictor(result: MethodResult) -> str:
    """Of a fine-tuned model: its first test metric beside what guessing gives."""
    metric, info = result.first_metric, result.metrics[result.first_metric]
    value, chance = result.values[metric], result.chance
    words = f"{label_of(metric, info)} is {show(value.value, info)} on {result.counts['samples']:,} test samples"
    if chance is None:
        return f"The model is trained: {words}."
    most = "part of each category" if any(one.group == CATEGORY for one in result.metrics.values()) else "class"
    guessing = f"always guessing the most frequent {most} gives {show(chance, info)}"
    if (place := result.values.get(f"{metric}_place")) is not None:
        guessing += f", the most frequent class of each place {show(place.value, info)}"
        chance = max(chance, place.value)
    if value.has_ends and value.low > chance:
        return f"The model has learned: {words}; {guessing}."
    return f"Not shown to have learned: {words}; {guessing}, and no difference is shown. Train longer, or give more data."


def _of_task(result: MethodResult) -> Iterable[tuple[Verdict, str]]:
    """What the contrasts of the first control metric show. The first one is told in the method's own words where it has some
    (`MetricInfo.claim`), further ones, such as that with a constant, where the metric is not better."""
    contrast, *others = result.contrasts
    info, other = result.metrics[contrast.first], result.metrics[contrast.second]
    lead = contrast.value.value if info.better == "higher" else -contrast.value.value
    verdict = _shown(contrast, result)
    size = show_difference(lead, info)
    words = f"no better, as far as is shown ({size})," if verdict is Verdict.NO_DIFFERENCE else f"{size.lstrip('+-')} {verdict}"
    claim = info.claim or f"{label_of(contrast.first, info)} is {{lead}} than {label_of(contrast.second, other)}"
    yield verdict, claim.replace("{lead}", words)
    for one in others:
        if one.first == contrast.first:
            verdict = _shown(one, result)
            how = "worse" if verdict is Verdict.WORSE else "no better, as far as is shown,"
            first, second = (label_of(name, result.metrics[name]) for name in (one.first, one.second))
            yield verdict, "" if verdict is Verdict.BETTER else f"{first} is {how} than {second}"


def _shown(contrast: Contrast, result: MethodResult) -> Verdict:
    if not contrast.value.excludes_zero:
        return Verdict.NO_DIFFERENCE
    higher = result.metrics[contrast.first].better == "higher"
    return Verdict.BETTER if (contrast.value.value > 0) == higher else Verdict.WORSE


def _standings(outcomes: Iterable[ProbeResult], name: str | None) -> dict[str, _Standing]:
    """Probe -> how the encoder `name` (its first where none is named) stands. Of several kinds of random weights (as initialised,
    calibrated) the one that it does worst against counts."""
    found = {}
    for outcome in outcomes:
        encoder = name or next(outcome.rows_of(RowKind.ENCODER)).name
        rows = {row.name: row for row in outcome.rows}
        verdicts: dict[str, Verdict] = {}
        for one in outcome.differences:
            other = rows[one.second]
            if one.first != encoder or other.kind not in (RowKind.CONTROL_MEAN, RowKind.BASELINE):
                continue
            what = RANDOM if other.kind is RowKind.CONTROL_MEAN else {"pixels": "raw pixels"}.get(other.baseline, other.name)
            verdict = one.verdicts[outcome.first_metric]
            verdicts[what] = max(verdict, verdicts.get(what, verdict), key=_WORST_LAST.index)
        if verdicts:
            found[outcome.name] = _Standing(*(tuple(what for what, one in verdicts.items() if one is verdict) for verdict in _WORST_LAST))
    return found


def _told(standings: Mapping[str, _Standing]) -> list[str]:
    """Probes that stand alike share a part; those above random weights come first."""
    alike: dict[_Standing, list[str]] = {}
    for probe, standing in sorted(standings.items(), key=lambda one: not one[1].above_random):
        alike.setdefault(standing, []).append(probe)
    return [f"{_listed(probes)} {'is' if len(probes) == 1 else 'are'} {standing.words}" for standing, probes in alike.items()]


def _listed(names: Sequence[str]) -> str:
    words = [name.replace("_", " ") for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
