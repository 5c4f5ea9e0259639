"""Every number recorded from the official ConMIM code is ours, too; and a vector that was tampered with does not pass."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import parity_harness as parity
import pytest
import torch
from parity_conmim import KINDS
from safetensors.torch import save_file
from torch import Tensor

METHOD = "conmim"
VECTORS = [k for k in KINDS if isinstance(k, parity.Kind)]
DOCUMENTS = [k for k in KINDS if isinstance(k, parity.JsonKind)]
Change = Callable[[Any], None]


def test_numbers_agree_with_the_official_code(parity_file: Path, parity_check: Callable[..., None]) -> None:
    parity_check(parity_file, KINDS)


def files(kind: str) -> list[Path]:
    """Of the kind, by content, the smallest first."""
    found = []
    for path in sorted(parity.parity_files(parity.parity_folder(METHOD)), key=lambda p: p.stat().st_size):
        if (content := parity.read_json(path)) is not None:
            known = parity.recognise_json(path, content, DOCUMENTS).name
        else:
            known = parity.recognise(parity.read_vector(path), VECTORS).name
        found += [path] if known == kind else []
    return found


def document(kind: str) -> Any:
    return parity.read_json(files(kind)[0])


def write(vector: parity.Vector, path: Path, config: dict[str, Any] | None = None, **changed: Tensor | None) -> Path:
    """The vector with some tensors replaced, added or (None) removed, under a name that says nothing."""
    tensors = {n: t.clone() for n, t in {**vector.tensors, **changed}.items() if t is not None}
    save_file(tensors, path, {"config": json.dumps({**vector.config, **(config or {})}), "tolerance": json.dumps(vector.tolerance)})
    return path


def first(vector: parity.Vector, prefix: str) -> str:
    return next(n for n in sorted(vector.tensors) if n.startswith(prefix))


@pytest.mark.slow
def test_one_wrong_element_in_any_tensor_is_found(parity_file: Path) -> None:
    """All results are computed once; then each recorded tensor in turn gets one element beyond its tolerance."""
    if parity.read_json(parity_file) is not None:
        return
    vector = parity.read_vector(parity_file)
    kind = parity.recognise(vector, VECTORS)
    assert kind.compute is not None
    ours = {n: t.detach() for n, t in kind.compute(vector).items()}
    assert set(kind.recorded(vector)) == set(ours)
    for name, theirs in kind.recorded(vector).items():
        limits = (*kind.limits(vector, name), 0.0)[:3]
        flat = theirs.double().flatten()
        place = flat.abs().argmin()
        beyond = 3 * (limits[0] + (limits[1] + limits[2]) * flat.abs().max()) + 1e-9
        for value, agrees in ((flat[place], True), (flat[place] + beyond, False)):
            altered = flat.clone()
            altered[place] = value
            report = parity.Report(parity_file, kind.name)
            parity.compare(report, name, ours[name], altered.reshape(theirs.shape), *limits)
            assert (not report.problems) == agrees, (name, value, report.problems)


def tampered_pretraining(vector: parity.Vector) -> Iterator[tuple[dict[str, Any], dict[str, Tensor | None]]]:
    t, config = vector.tensors, vector.config
    output, gradient = "output.student_tokens", first(vector, "grad.")
    yield {}, {"output.surprise": torch.zeros(2)}
    yield {}, {"state.surprise": torch.zeros(2)}
    yield {}, {"input.surprise": torch.zeros(2)}
    yield {}, {output: t[output] + 1}
    yield {}, {output: t[output][None]}
    yield {}, {output: None}
    yield {}, {"input.mask": None}
    yield {}, {"input.mask": t["input.mask"].flip(1)}
    yield {}, {"input.student_image": t["input.teacher_image"]}
    yield {}, {"state.mask_token": None}
    yield {}, {"teacher.norm.weight": -t["teacher.norm.weight"]}
    yield {}, {"state.blocks.99.norm1.weight": t["state.norm.weight"]}
    yield {}, {"state.lm_head.weight": t["state.lm_head.weight"] + 1}
    yield {}, {gradient: t[gradient] + 1}
    yield {}, {n: None for n in t if n.startswith("grad.")}
    yield {}, {first(vector, "output.teacher_ema."): None}
    yield {"temperature": 2 * config["temperature"]}, {}
    yield {"ema_momentum": config["ema_momentum"] / 2}, {}
    yield {"teacher_ema_l2": {**config["teacher_ema_l2"], "norm.weight": 1.0}}, {}
    yield {"train_step": {**config["train_step"], "weight_decay": 0.1}}, {}
    yield {"model": {**config["model"], "attn_drop_rate": 0.1}}, {}
    yield {"model": {**config["model"], "surprise": 1}}, {}
    yield {"mask_counts": [1] * config["batch_size"]}, {}
    yield {"bn_eps": 1e-3}, {}


def tampered_finetuning(vector: parity.Vector) -> Iterator[tuple[dict[str, Any], dict[str, Tensor | None]]]:
    t, config = vector.tensors, vector.config
    table = "finetune_state.blocks.0.attn.relative_position_bias_table"
    name = next(iter(config["param_groups"]))
    yield {}, {table: t[table] + 1e-3}
    yield {}, {"finetune_state.cls_token": t["finetune_state.cls_token"] + 1e-6}
    yield {}, {"finetune_state.surprise": torch.zeros(2)}
    yield {}, {"state.rel_pos_bias.relative_position_bias_table": t["state.rel_pos_bias.relative_position_bias_table"] + 1e-2}
    yield {}, {"output.pooled": t["output.pooled"] + 1}
    yield {}, {first(vector, "grad."): None, **{n: None for n in t if n.startswith("grad.")}}
    yield {"layer_decay": 0.5}, {}
    yield {"param_groups": {**config["param_groups"], name: {**config["param_groups"][name], "layer_id": 1}}}, {}
    yield {"checkpoint_keys_unused": config["checkpoint_keys_unused"][1:]}, {}
    yield {"keys_taken_from_checkpoint": config["keys_taken_from_checkpoint"][1:]}, {}
    yield {"finetune_model": {**config["finetune_model"], "use_mean_pooling": not config["finetune_model"]["use_mean_pooling"]}}, {}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes"), [("pretraining", tampered_pretraining), ("fine-tuning", tampered_finetuning)])
@pytest.mark.slow
def test_tampered_files_fail(kind: str, changes: Callable[..., Any], tmp_path: Path) -> None:
    vector = parity.read_vector(files(kind)[0])
    assert parity.check_file(write(vector, tmp_path / "untouched"), KINDS).kind == kind
    for config, tensors in changes(vector):
        with pytest.raises(parity.ParityError):
            parity.check_file(write(vector, tmp_path / "tampered", config, **tensors), KINDS)
            pytest.fail(f"{config or {n: None if t is None else tuple(t.shape) for n, t in tensors.items()}} was not noticed")


def numbers(node: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all numbers in a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from numbers(value, (*inside, key))
    if isinstance(node, int | float) and not isinstance(node, bool):
        yield inside


def put(path: tuple[Any, ...], value: Any) -> Change:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value(content[path[-1]]) if callable(value) else value

    return change


def take(*path: Any) -> Change:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


def schedule_changes(content: Any) -> Iterator[Change]:
    results = [p for p in numbers(content) if p[0] == "layer_decay" or p[-2:-1] == ("values",) or p[-1] == "length"]
    assert len(results) > 100
    yield from (put(path, lambda v: v * (1 + 1e-6) + 1e-9) for path in results)
    yield put(("error_case", "warmup_epochs"), 1)
    yield put(("error_case", "result"), "works")
    yield put(("cases", 0, "values", "7"), 0.5)


def group_changes(content: Any) -> Iterator[Change]:
    yield from (take("groups", g, "names", i) for g in (0, 1) for i in range(len(content["groups"][g]["names"])))
    yield put(("groups", 0, "names", 0), "surprise")
    yield put(("groups", 0, "weight_decay"), 0.1)
    yield put(("groups", 1, "lr_scale"), 0.5)
    yield put(("model", "depth"), 2)


def preset_changes(content: Any) -> Iterator[Change]:
    name = next(iter(content["presets"]))
    state = ("presets", name, "state")
    yield put((*state, "cls_token", "shape", 2), 7)
    yield put((*state, "norm.weight", "dtype"), "float16")
    yield take(*state, "norm.weight")
    yield take(*state, "projectors.6.weight")
    yield put(("presets", name, "num_parameters"), lambda n: n + 1)
    yield put(("presets", name, "num_parameters_backbone"), lambda n: n - 1)
    yield put(("presets", name, "num_state_entries"), lambda n: n + 1)
    yield put(("flags", "use_shared_rel_pos_bias"), False)


def statistic_changes(content: Any) -> Iterator[Change]:
    name = ("tensors", "blocks.0.attn.qkv.weight")
    yield put((*name, "std"), lambda v: v * 1.2)
    yield put((*name, "min"), lambda v: v * 1.2)
    yield put((*name, "max"), lambda v: v * 0.8)
    yield put((*name, "mean"), lambda v: v + 0.01)
    yield put((*name, "shape", 0), 5)
    yield put(("tensors", "blocks.0.gamma_1", "mean"), 0.2)
    yield put(("tensors", "norm.weight", "min"), 0.9)
    yield take("tensors", "mask_token")
    yield put(("tensors", "lm_head.weight", "std"), 0.02)


def mask_changes(content: Any) -> Iterator[Change]:
    laws = ("generators",)
    yield put((*laws, "random", 0, "num_masked"), lambda n: n + 1)
    yield put((*laws, "random_mps", 0, "num_masked"), lambda n: n - 1)
    yield put((*laws, "random_mps", 0, "coarse_grid", 0), 8)
    yield put((*laws, "random_mps", 0, "fraction"), 0.75)
    yield put((*laws, "block", 0, "observed", "count_mean"), lambda n: n - 1)
    yield put((*laws, "block", 0, "observed", "mean_coverage_max"), lambda n: n - 0.2)
    yield put((*laws, "block", 0, "observed", "count_max"), lambda n: n + 1)
    yield put(("random_mps_errors", 0, "mask_patch_size"), 32)
    yield put(("random_mps_errors", 0, "error"), "none")
    yield put(("random_mps_numpy_legacy_seed_examples", "examples", 0, "masked_indices", 0), lambda n: n + 1)
    yield put(("hard_coded_in_reference_training", "labels_length"), 49)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("schedules", schedule_changes),
        ("parameter groups", group_changes),
        ("presets", preset_changes),
        ("fresh weights", statistic_changes),
        ("mask generators", mask_changes),
    ],
)
def test_tampered_documents_fail(kind: str, changes: Callable[..., Any], tmp_path: Path) -> None:
    whole = document(kind)
    path = tmp_path / "document"
    path.write_text(json.dumps(whole))
    assert parity.check_file(path, KINDS).kind == kind
    for number, change in enumerate(changes(whole)):
        altered = copy.deepcopy(whole)
        change(altered)
        assert altered != whole
        path.write_text(json.dumps(altered))
        with pytest.raises(parity.ParityError):
            parity.check_file(path, KINDS)
            pytest.fail(f"change {number} was not noticed")


def test_what_is_no_vector_fails(tmp_path: Path) -> None:
    for what, content in (
        ("unknown", '{"a": 1}'),
        ("list", "[1, 2]"),
        ("cut", json.dumps({"cases": [], "layer_decay": 1})[:-3]),
        ("empty", ""),
    ):
        path = tmp_path / what
        path.write_text(content)
        with pytest.raises(parity.ParityError):
            parity.check_file(path, KINDS)
