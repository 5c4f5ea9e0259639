"""Decides whether a version of a registered model takes the place of another, by what both measured on the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.evaluation.findings import label_of, show, show_difference, show_number
from sightline.platform.evaluation.intervals import plural
from sightline.platform.evaluation.paired import FILE, Measured, Paired, compare, read_measured, unlike
from sightline.platform.evaluation.probes.catalog import check_probe, ranked
from sightline.platform.evaluation.probes.context import EvaluatedModel, Progress
from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair, find_dataset_pairs
from sightline.platform.evaluation.probes.run import choose_dataset_pair, make_contexts, run_probe
from sightline.platform.evaluation.results import TEST, SkippedProbe, Verdict
from sightline.platform.tracking.promotion import Version, files_of, give_alias, holder

if TYPE_CHECKING:
    from mlflow import MlflowClient

Say = Callable[[str], None]


class NotPromotedError(SightlineError):
    """The candidate is not better, as far as was measured."""

    def __init__(self, decision: Decision, hint: str) -> None:
        super().__init__(decision.sentence, hint)
        self.result = decision.as_dict(promoted=False)


@dataclass(frozen=True)
class Decision:
    """Whether the candidate gets the alias, and why."""

    alias: str
    candidate: Version
    incumbent: Version | None
    sentence: str
    better: bool
    paired: Paired | None = None
    recorded: bool = False
    """Whether the comparison rests on what both had measured before."""

    def as_dict(self, promoted: bool) -> dict[str, Any]:
        found = self.paired
        return {
            "model": self.candidate.name,
            "alias": self.alias,
            "candidate": self.candidate.number,
            "incumbent": self.incumbent.number if self.incumbent else None,
            "promoted": promoted,
            "sentence": self.sentence,
            "over": found.name if found else None,
            "metric": found.metric if found else None,
            "values": [found.first, found.second] if found else None,
            "difference": found.difference.as_dict() if found else None,
            "verdict": str(found.verdict) if found else None,
            "recorded": self.recorded if found else None,
        }


def decide(
    client: MlflowClient,
    candidate: Version,
    alias: str,
    over: str | None,
    pairs: Sequence[DatasetPair],
    *,
    measure: bool = True,
    progress: Progress | None = None,
) -> Decision:
    """Compare with the version that holds the alias: by what both have recorded where that is alike, else measured now.

    `pairs`: the data to measure on; where there are none, those that one of the two was measured on. Without `measure` nothing is
    measured, and only a recorded comparison is told. Raises `CallError` and `SightlineError` where the two cannot be compared.
    """
    incumbent = holder(client, candidate.name, alias)
    if incumbent is None:
        return Decision(alias, candidate, None, f"No version of {candidate.name} was {alias}.", True)
    if incumbent.number == candidate.number:
        return Decision(alias, candidate, incumbent, _sentence(f"{candidate} of {candidate.name} is {alias} already."), True)
    if candidate.sha256 and candidate.sha256 == incumbent.sha256:
        return Decision(alias, candidate, incumbent, _sentence(f"{candidate} and {incumbent}, the {alias}, hold the same weights."), False)
    records = [_records(client, version) for version in (candidate, incumbent)]
    paired, recorded = None if pairs else _of_records(records[0], records[1], over), True
    if paired is None:
        if not measure:
            return Decision(alias, candidate, incumbent, _sentence(f"{candidate} was not compared with {incumbent}."), False)
        if over == TEST:
            raise SightlineError(
                f"{candidate} and {incumbent} have no test metrics that were measured alike",
                "fine-tuned models have them: `sightline resume RUN` measures one again; or name a probe: --over PROBE",
            )
        paired, recorded = _measure(candidate, incumbent, over, pairs or _data_of(records, over), progress), False
    sentence = sentence_of(paired, candidate, incumbent, alias, recorded)
    return Decision(alias, candidate, incumbent, sentence, paired.verdict is Verdict.BETTER, paired, recorded)


def carry_out(client: MlflowClient, decision: Decision, forced: bool) -> None:
    """Give the candidate the alias. Raises `SightlineError` where another version got it meanwhile."""
    now = holder(client, decision.candidate.name, decision.alias)
    if now != decision.incumbent:
        raise SightlineError(f"{now or 'no version'} became {decision.alias} meanwhile", "compare with that: give the command once more")
    give_alias(client, decision.candidate, decision.alias, f"forced. {decision.sentence}" if forced else decision.sentence)


def sentence_of(paired: Paired, candidate: Version, incumbent: Version, alias: str, recorded: bool) -> str:
    """What the comparison shows, and whether its figures were `recorded` earlier or are measured now."""
    apart, info = paired.difference, paired.info
    words = {
        Verdict.BETTER: f"{candidate} is better than {incumbent}, the {alias},",
        Verdict.WORSE: f"{candidate} is worse than {incumbent}, the {alias},",
        Verdict.NO_DIFFERENCE: f"no difference is shown between {candidate} and {incumbent}, the {alias},",
    }[paired.verdict]
    ends = f", interval {show_number(apart.low, info, '+')} to {show_number(apart.high, info, '+')}" if apart.has_ends else ", no interval"
    values = f"{show(paired.first, info)} against {show(paired.second, info)}"
    metric = f"{paired.name.replace('_', ' ')} {label_of(paired.metric, info)}"
    when = "both figures recorded earlier" if recorded else "both figures measured now"
    on = f"the same {apart.units:,} {plural(paired.unit_kind)} for both; {when}"
    return _sentence(f"{words} in {metric}: {values} ({show_difference(apart.value, info)}{ends}; {on}).")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _records(client: MlflowClient, version: Version) -> list[Measured]:
    """What the encoder of a version has measured before, the newest first."""
    found: list[Measured] = []
    for path in files_of(client, version, FILE):
        sha256, measured = read_measured(path)
        if sha256 == version.sha256:
            found += measured.values()
    return found


def _of_records(candidate: Sequence[Measured], incumbent: Sequence[Measured], over: str | None) -> Paired | None:
    """The first probe by rank that both measured alike; None where there is none."""
    names = {one.name for one in candidate}
    for name in [over] if over else [*([TEST] if TEST in names else []), *(probe.name for probe in ranked(names - {TEST}))]:
        for one in candidate:
            for other in incumbent:
                if one.name == other.name == name and not unlike(one, other):
                    return compare(one, other)
    return None


def _data_of(records: Sequence[Sequence[Measured]], over: str | None) -> list[DatasetPair]:
    """The data that one of the two was measured on. Raises `CallError` where nothing says which."""
    for one in (one for some in records for one in some if one.name != TEST and over in (None, one.name)):
        train, test = one.data["train"], one.data["test"]
        return find_dataset_pairs([], [train] if train else [], [str(test)])
    raise CallError(
        "nothing that both versions have measured alike is recorded, and nothing says on which data to measure them",
        "name the data: --data DIR (with train/ and val/ in it), or --train DATA --test DATA",
    )


def _measure(candidate: Version, incumbent: Version, over: str | None, pairs: Sequence[DatasetPair], progress: Progress | None) -> Paired:
    """Probe both together."""
    from sightline.platform.models.encoders import open_encoder

    models = [EvaluatedModel(str(version), open_encoder(version.uri).encoder) for version in (candidate, incumbent)]
    contexts = make_contexts(models, progress=progress)
    if len(contexts) > 1:
        raise CallError(f"{candidate} and {incumbent} of {candidate.name} take other kinds of data", "only alike encoders can be compared")
    reasons = []
    for spec in ranked([over] if over else None):
        if not over and (spec.modality not in contexts or not _fits(spec, pairs)):
            continue
        result = run_probe(spec.name, contexts, pairs)
        if isinstance(result, SkippedProbe):
            reasons.append(result.sentence)
            continue
        measured = [Measured.of(result, model.name) for model in models]
        one, other = measured
        if one is None or other is None or unlike(one, other):
            reasons.append(f"probe {spec.name} is not the same for both: their patches differ")
            continue
        return compare(one, other)
    raise CallError("\n".join(reasons) or "no probe fits these data", "docs/probes.md says which columns each probe needs of the data")


def _fits(spec: Any, pairs: Sequence[DatasetPair]) -> bool:
    try:
        choose_dataset_pair(spec, pairs)
    except CallError:
        return False
    return True


def check_over(name: str | None) -> None:
    """Raises `CallError` for what is neither a probe nor the test metrics."""
    if name is not None and name != TEST:
        check_probe(name)
