"""Every number recorded from the official CroCo code is ours, too; and a vector that was tampered with does not pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import parity_harness as parity
import pytest
import torch
from parity_croco import KINDS, PENDING
from safetensors.torch import save_file
from torch import Tensor

METHOD = "croco"


def test_numbers_agree_with_the_official_code(parity_file: Path, parity_check: Callable[..., None]) -> None:
    parity_check(parity_file, KINDS)


def test_no_kind_is_pending() -> None:
    assert {k.name for k in KINDS if k.compute is None} == set(PENDING) == set()


def write(vector: parity.Vector, path: Path, **changed: Tensor | None) -> Path:
    """The vector with some tensors replaced, added or (None) removed, under a name that says nothing."""
    tensors = {n: t.clone() for n, t in {**vector.tensors, **changed}.items() if t is not None}
    save_file(tensors, path, {"config": json.dumps(vector.config), "tolerance": json.dumps(vector.tolerance)})
    return path


def first(vector: parity.Vector, prefix: str) -> str:
    return next(n for n in sorted(vector.tensors) if n.startswith(prefix))


def test_an_untouched_copy_passes_whatever_its_name(parity_file: Path, tmp_path: Path) -> None:
    vector = parity.read_vector(parity_file)
    assert parity.check_file(write(vector, tmp_path / "x"), KINDS).kind == parity.recognise(vector, KINDS).name


def test_one_wrong_element_in_any_tensor_is_found(parity_file: Path) -> None:
    """All results are computed once; then each recorded tensor in turn gets one element beyond its tolerance."""
    vector = parity.read_vector(parity_file)
    kind = parity.recognise(vector, KINDS)
    if kind.compute is None:
        assert kind.name in PENDING
        return
    ours = {n: t.detach() for n, t in kind.compute(vector).items()}
    recorded = [n for n in vector.tensors if n.startswith(("output.", "grad."))]
    assert set(recorded) == set(ours)
    for name in recorded:
        theirs = vector.tensors[name].double()
        atol, rtol = vector.limits(name)
        place = theirs.abs().flatten().argmin()
        for value, agrees in ((theirs.flatten()[place], True), (theirs.flatten()[place] + 3 * (atol + rtol * theirs.abs().max()), False)):
            altered = theirs.flatten().clone()
            altered[place] = value
            report = parity.Report(parity_file, kind.name)
            parity.compare(report, name, ours[name], altered.reshape(theirs.shape), atol, rtol)
            assert (not report.problems) == agrees, (name, value, report.problems)


@pytest.mark.slow
def test_tampered_files_fail(tmp_path: Path) -> None:
    for path in parity.smallest_of_each_kind(parity.parity_files(parity.parity_folder(METHOD)), KINDS):
        vector = parity.read_vector(path)
        kind = parity.recognise(vector, KINDS)
        output = first(vector, "output.")
        tampered: dict[str, dict[str, Tensor | None]] = {
            "an unknown output": {"output.surprise": torch.zeros(2)},
            "an unknown input": {"input.surprise": torch.zeros(2)},
            "an unknown state": {"state.surprise": torch.zeros(2)},
        }
        if kind.compute is not None:
            tampered["a wrong number"] = {output: vector.tensors[output] + 1}
            tampered["a wrong shape"] = {output: vector.tensors[output][None]}
            tampered["no input"] = {first(vector, "input."): None}
        if kind.name == "pretraining":
            weight = "state.prediction_head.weight"
            grad = first(vector, "grad.")
            tampered["a state tensor less"] = {weight: None}
            tampered["a wrong weight"] = {weight: -vector.tensors[weight]}
            tampered["an intermediate less"] = {"output.enc1": None}
            tampered["a block more"] = {"state.enc_blocks.99.norm1.weight": vector.tensors["state.enc_norm.weight"]}
            tampered["nine gradients"] = {f"grad.{n}": None for n in sorted(vector.part("grad"))[9:]}
            tampered["a wrong gradient"] = {grad: vector.tensors[grad] + 1}
            tampered["no gradient"] = {n: None for n in vector.tensors if n.startswith("grad.")}
        for what, change in tampered.items():
            with pytest.raises(parity.ParityError):
                parity.check_file(write(vector, tmp_path / f"{path.stem}-{what}".replace(" ", "-"), **change), KINDS)


def test_an_unreadable_file_fails(parity_file: Path, tmp_path: Path) -> None:
    whole = parity_file.read_bytes()
    for what, content in (("empty", b""), ("truncated", whole[: len(whole) // 2]), ("no-header", whole[100:]), ("json", b'{"a": 1}')):
        path = tmp_path / what
        path.write_bytes(content)
        with pytest.raises(parity.ParityError, match="cannot be read"):
            parity.check_file(path, KINDS)


def test_an_unknown_kind_fails_and_names_the_nearest(tmp_path: Path) -> None:
    save_file({"input.x": torch.zeros(1), "output.y": torch.zeros(1)}, tmp_path / "x.safetensors", {"config": "{}", "tolerance": "{}"})
    with pytest.raises(parity.ParityError, match="of no known kind"):
        parity.check_file(tmp_path / "x.safetensors", KINDS)


def test_no_file_at_all_fails(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("prose is no vector")
    with pytest.raises(parity.ParityError, match="no parity vector"):
        parity.parity_files(tmp_path)
    with pytest.raises(parity.ParityError):
        parity.parity_files(tmp_path / "absent")
