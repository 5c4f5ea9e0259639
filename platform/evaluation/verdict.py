"""The one plain sentence with which screens, pages and registry descriptions begin: has the encoder learned, and what shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .findings import label_of, show, show_difference
from .results import CATEGORY, TEST, Contrast, MethodResult, ProbeOutcomes, ProbeResult, RowKind, Verdict

NOTHING = "Trained; nothing was measured: that needs data.val, and control metrics or a probe that fits the data."


@dataclass
class _Said:
    """Sentence parts by what they show."""

    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)

    def of(self, verdict: Verdict) -> list[str]:
        return {Verdict.BETTER: self.better, Verdict.WORSE: self.worse, Verdict.NO_DIFFERENCE: self.same}[verdict]

    @property
    def rest(self) -> str:
        return "; ".join([*self.worse, *self.same])


def verdict_of_run(of_method: MethodResult | None, probes: ProbeOutcomes, longer: str = "", kept: str = "encoder") -> str:
    """Of one trained network, called `kept`. `longer`: a command that trains it longer, told where nothing can be measured yet."""
    if of_method is not None and of_method.name == TEST:
        return _of_predictor(of_method)
    said = _Said()
    if of_method is not None and of_method.contrasts:
        verdict, words = _claim(of_method)
        said.of(verdict).append(words)
        for verdict, words in _beside_others(of_method):
            said.of(verdict).append(words)
    _beside_random(said, _measured(probes), None)
    if said.better:
        return f"The {kept} has learned: {'; '.join(said.better)}{f'; but {said.rest}' if said.rest else ''}."
    if not said.rest:
        return NOTHING
    advice = f"Train longer, for example: {longer}" if longer else "Train longer, or measure on more data."
    return f"Nothing measurable yet: {said.rest}. {advice}"


def verdict_of_encoders(probes: ProbeOutcomes) -> str:
    """Of encoders that were evaluated: a sentence each."""
    done = _measured(probes)
    sentences = []
    for name in dict.fromkeys(row.name for outcome in done for row in outcome.rows_of(RowKind.ENCODER)):
        said = _Said()
        _beside_random(said, done, name)
        if said.better:
            sentences.append(f"{name} has learned: {'; '.join(said.better)}{f'; but {said.rest}' if said.rest else ''}.")
        elif said.rest:
            sentences.append(f"{name} shows nothing measurable yet: {said.rest}.")
        else:
            sentences.append(f"{name} was measured without networks of random weights beside it.")
    return " ".join(sentences) or "Nothing was measured: no probe fits the data."


def verdict_between(probes: ProbeOutcomes, names: Sequence[str]) -> str:
    """Of a comparison: in what those of `names` differ that were held against each other."""
    found: dict[tuple[Verdict, str, str], list[str]] = {}
    for outcome in _measured(probes):
        for one in outcome.differences:
            if one.first in names and one.second in names:
                found.setdefault((one.verdicts[outcome.first_metric], one.first, one.second), []).append(outcome.name)
    said = _Said()
    for (verdict, first, second), of in found.items():
        if verdict is Verdict.NO_DIFFERENCE:
            said.same.append(f"between {first} and {second} no difference is shown in {_listed(of)}")
        else:
            said.of(verdict).append(f"{first} is {verdict} than {second} in {_listed(of)}")
    parts = [*said.better, *said.worse, *said.same]
    if not parts:
        return "Nothing to tell apart: no probe measured two of them."
    text = "; ".join(parts)
    return f"{text[0].upper() + text[1:] if not said.better and not said.worse else text}."


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
    return f"Nothing measurable yet: {words}; {guessing}, and no difference is shown. Train longer, or give more data."


def _claim(result: MethodResult) -> tuple[Verdict, str]:
    """What the first contrast of the control metrics shows, in the method's own words where it has some (`MetricInfo.claim`)."""
    contrast = result.contrasts[0]
    info, other = result.metrics[contrast.first], result.metrics[contrast.second]
    lead = contrast.value.value if info.better == "higher" else -contrast.value.value
    verdict = _shown(contrast, result)
    size = show_difference(lead, info)
    words = f"no better, as far as is shown ({size})," if verdict is Verdict.NO_DIFFERENCE else f"{size.lstrip('+-')} {verdict}"
    claim = info.claim or f"{label_of(contrast.first, info)} is {{lead}} than {label_of(contrast.second, other)}"
    return verdict, claim.replace("{lead}", words)


def _beside_others(result: MethodResult) -> Iterable[tuple[Verdict, str]]:
    """Where the metric of the first contrast is not better than a further control, such as a constant."""
    for contrast in result.contrasts[1:]:
        if contrast.first == result.contrasts[0].first and (verdict := _shown(contrast, result)) is not Verdict.BETTER:
            first, second = (label_of(name, result.metrics[name]) for name in (contrast.first, contrast.second))
            yield verdict, f"{first} is {'worse' if verdict is Verdict.WORSE else 'no better, as far as is shown,'} than {second}"


def _shown(contrast: Contrast, result: MethodResult) -> Verdict:
    if not contrast.value.excludes_zero:
        return Verdict.NO_DIFFERENCE
    higher = result.metrics[contrast.first].better == "higher"
    return Verdict.BETTER if (contrast.value.value > 0) == higher else Verdict.WORSE


def _beside_random(said: _Said, outcomes: Iterable[ProbeResult], name: str | None) -> None:
    """Add what the first metric of each probe shows of an encoder (its first where none is named) against random weights and raw pixels."""
    found = _Said()
    pixels = []
    for outcome in outcomes:
        encoder = name or next(outcome.rows_of(RowKind.ENCODER)).name
        rows = {row.name: row for row in outcome.rows}
        for one in outcome.differences:
            if one.first != encoder:
                continue
            verdict, other = one.verdicts[outcome.first_metric], rows[one.second]
            if other.kind is RowKind.CONTROL_MEAN:
                found.of(verdict).append(outcome.name)
            elif other.baseline == "pixels" and verdict is Verdict.WORSE:
                pixels.append(outcome.name)
    if found.better:
        said.better.append(f"{_listed(found.better)} beat{'s' * (len(found.better) == 1)} random weights")
    if found.worse:
        said.worse.append(f"{_listed(found.worse)} {'is' if len(found.worse) == 1 else 'are'} worse than with random weights")
    if pixels:
        said.worse.append(f"raw pixels are better in {_listed(pixels)}")
    if found.same:
        said.same.append(f"in {_listed(found.same)} no difference to random weights is shown")


def _listed(names: Sequence[str]) -> str:
    words = [name.replace("_", " ") for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
