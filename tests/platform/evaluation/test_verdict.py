"""The sentence that comes first says what is shown, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from sightline.methods.catalog import find_method
from sightline.methods.contract import MetricInfo
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.results import Contrast, Difference, MethodResult, ProbeResult, Row, RowKind, SkippedProbe, Verdict
from sightline.platform.evaluation.verdict import NOTHING, verdict_between, verdict_of_encoders, verdict_of_run

SHARE = MetricInfo(label="accuracy", unit="%")
ONE = Interval(0.5, 0.4, 0.6, 9)


def probe(
    name: str,
    random: Verdict | None,
    pixels: Verdict | None = None,
    position: Verdict | None = None,
    calibrated: Verdict | None = None,
    others: Mapping[str, Verdict] | None = None,
) -> ProbeResult:
    """Of an encoder `net` beside random weights, raw pixels, position and other encoders."""
    rows = [Row("net", RowKind.ENCODER, {"accuracy": ONE})]
    rows += [Row(other, RowKind.ENCODER, {"accuracy": ONE}) for other in others or {}]
    against = dict(others or {})
    for other, kind, verdict in (("random mean", RowKind.CONTROL_MEAN, random), ("raw pixels", RowKind.BASELINE, pixels)):
        if verdict is not None:
            rows.append(Row(other, kind, {"accuracy": ONE}, baseline="pixels" if other == "raw pixels" else ""))
            against[other] = verdict
    if position is not None:
        rows.append(Row("position", RowKind.BASELINE, {"accuracy": ONE}, baseline="position"))
        against["position"] = position
    if calibrated is not None:
        rows.append(Row("random mean, calibrated", RowKind.CONTROL_MEAN, {"accuracy": ONE}))
        against["random mean, calibrated"] = calibrated
    apart = tuple(Difference("net", other, {"accuracy": ONE}, {"accuracy": verdict}) for other, verdict in against.items())
    return ProbeResult(name, name, {"accuracy": SHARE}, tuple(rows), "image", 9, "", {}, 1.0, differences=apart)


def control(method: str, first: str, second: str, value: float, low: float, high: float) -> MethodResult:
    metrics = find_method(method).metrics
    infos = {first: metrics[first], second: metrics[second]}
    contrast = Contrast(first, second, Interval(value, low, high, 9))
    row = Row("trained network", RowKind.ENCODER, dict.fromkeys(infos, ONE))
    return MethodResult("control", "", infos, (row,), "scene", 9, "", {}, 1.0, contrasts=(contrast,))


def croco(value: float, low: float, high: float) -> MethodResult:
    return control("croco", "psnr_true_view", "psnr_other_view", value, low, high)


BETTER, WORSE, SAME = Verdict.BETTER, Verdict.WORSE, Verdict.NO_DIFFERENCE


def test_an_encoder_has_learned_where_its_task_and_a_probe_show_it() -> None:
    of = {"depth": probe("depth", BETTER), "correspondence": probe("correspondence", BETTER)}
    assert verdict_of_run(croco(1.8, 1.5, 2.1), of) == (
        "The encoder has learned: hidden patches are 1.80 dB better with the true second view; "
        "depth and correspondence are above random weights."
    )


def test_what_is_as_good_without_a_network_is_named_in_the_same_sentence() -> None:
    of = {"few_shot": probe("few_shot", WORSE), "knn": probe("knn", BETTER, WORSE), "depth": probe("depth", BETTER, BETTER, SAME)}
    assert verdict_of_run(croco(1.8, 1.5, 2.1), of) == (
        "The encoder has learned: hidden patches are 1.80 dB better with the true second view; knn is above random weights, below raw "
        "pixels; depth is above random weights and raw pixels, level with position; few shot is below random weights."
    )


def test_probes_above_random_weights_are_not_enough() -> None:
    """As after twelve steps: features of point clouds are better then, and the pretext task is solved worse than by a constant."""
    of = {"knn": probe("knn", BETTER)}
    said = verdict_of_run(croco(0.05, -0.1, 0.2), of)
    assert said.startswith("Not shown to have learned: hidden patches are no better, as far as is shown (+0.05 dB),")
    assert "knn is above random weights" in said and "has learned" not in said
    flat = Contrast("psnr_true_view", "psnr_mean_patch", Interval(-0.7, -0.9, -0.5, 9))
    own = croco(0.05, 0.01, 0.09)
    worse = replace(
        own, metrics={**own.metrics, "psnr_mean_patch": find_method("croco").metrics["psnr_mean_patch"]}, contrasts=(*own.contrasts, flat)
    )
    said = verdict_of_run(worse, of)
    assert said.startswith("Not shown to have learned: ") and "PSNR with the true second view is worse than PSNR of the mean patch" in said


def test_a_solved_task_alone_is_not_enough_either() -> None:
    solved = croco(1.8, 1.5, 2.1)
    said = verdict_of_run(solved, {"knn": probe("knn", SAME)}, longer="sightline pretrain it")
    assert said.startswith("The pretext task is learned, but no probe is above random weights: ")
    assert said.endswith("knn is level with random weights. Train longer, for example: sightline pretrain it")
    assert verdict_of_run(solved, {}).startswith("The pretext task is learned: ")
    assert verdict_of_run(None, {"knn": probe("knn", BETTER)}) == "The encoder is better than random weights: knn is above random weights."


def test_of_random_weights_as_initialised_and_calibrated_the_better_ones_count() -> None:
    level = "net is not shown to be better than random weights: knn is level with random weights."
    assert verdict_of_encoders({"knn": probe("knn", BETTER, calibrated=SAME)}) == level
    assert verdict_of_encoders({"knn": probe("knn", SAME, calibrated=BETTER)}) == level
    assert "is above" in verdict_of_encoders({"knn": probe("knn", BETTER, calibrated=BETTER)})


def test_nothing_shown_says_how_to_go_on() -> None:
    none = verdict_of_run(croco(0.05, -0.1, 0.2), {"knn": probe("knn", SAME)}, longer="sightline pretrain it train.length='9 steps'")
    assert none.startswith("Not shown to have learned: hidden patches are no better")
    assert none.endswith("Train longer, for example: sightline pretrain it train.length='9 steps'")
    assert verdict_of_run(croco(-0.4, -0.5, -0.3), {}).startswith(
        "Not shown to have learned: hidden patches are 0.40 dB worse with the true"
    )
    assert verdict_of_run(None, {"depth": SkippedProbe("depth", "Depth", "why")}) == NOTHING


@pytest.mark.parametrize(
    ("method", "first", "second", "value", "words"),
    [
        ("loca", "accuracy_own_reference", "accuracy_other_reference", 0.123, "query patches are placed 12.3 points better with their own"),
        ("conmim", "loss_own_teacher", "loss_other_teacher", -0.5, "hidden patches find their place 0.500 nats better with the features"),
        ("finetune_depth", "absrel", "absrel_other_image", -0.1, "AbsRel is 0.100 better from the image itself than from another image"),
    ],
)
def test_a_lead_is_told_in_the_methods_own_words_whichever_way_is_better(
    method: str, first: str, second: str, value: float, words: str
) -> None:
    assert words in verdict_of_run(control(method, first, second, value, value - 0.01, value + 0.01), {})


def test_a_method_without_words_of_its_own_is_told_by_the_names_of_its_metrics() -> None:
    infos = {"near": MetricInfo(label="error near", unit="m", better="lower", family="e"), "far": MetricInfo(label="error far", unit="m")}
    row = Row("trained network", RowKind.ENCODER, dict.fromkeys(infos, ONE))
    of = MethodResult(
        "control", "", infos, (row,), "s", 9, "", {}, 1.0, contrasts=(Contrast("near", "far", Interval(-0.2, -0.3, -0.1, 9)),)
    )
    assert verdict_of_run(of, {}).startswith("The pretext task is learned: error near is 0.200 m better than error far;")
    assert verdict_of_run(of, {}, kept="model").startswith("The model has learned")


def test_a_model_that_a_constant_beats_is_said_to_be_beaten() -> None:
    """A network that gives the same everywhere is better with the true second image by a hair, and worse than no motion."""
    of = control("finetune_flow", "epe", "epe_other_image", -0.04, -0.05, -0.03)
    info = find_method("finetune_flow").metrics["epe_no_motion"]
    for value, head, words in (
        (1.2, "Not shown to have learned", "EPE is worse than EPE of no motion"),
        (-1.2, "The model has learned", "EPE is 0.04"),
    ):
        constant = Contrast("epe", "epe_no_motion", Interval(value, value - 0.1, value + 0.1, 9))
        said = verdict_of_run(
            replace(of, metrics={**of.metrics, "epe_no_motion": info}, contrasts=(*of.contrasts, constant)), {}, kept="model"
        )
        assert said.startswith(f"{head}: ") and words in said


def test_encoders_and_comparisons_get_a_sentence_each() -> None:
    of = {"knn": probe("knn", SAME, others={"b": BETTER, "c": SAME}), "linear": probe("linear", BETTER, others={"b": BETTER, "c": WORSE})}
    assert (
        verdict_of_encoders({"knn": probe("knn", SAME)})
        == "net is not shown to be better than random weights: knn is level with random weights."
    )
    assert verdict_of_encoders(of).startswith(
        "net is better than random weights: linear is above random weights; knn is level with random weights."
    )
    assert verdict_between(of, ["net", "b", "c"]) == (
        "net is better than b in knn and linear; net is worse than c in linear; between net and c no difference is shown in knn."
    )
    assert verdict_between({"knn": probe("knn", SAME)}, ["net", "b"]) == "Nothing to tell apart: no probe measured two of them."
