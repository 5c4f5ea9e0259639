"""Every number recorded from the official I2P-MAE code is ours, too; and a vector that was tampered with does not pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import parity_harness as parity
import pytest
import torch
from parity_i2p_mae import KINDS
from safetensors.torch import save_file
from torch import Tensor

METHOD = "i2p_mae"


def documents() -> list[Path]:
    try:
        return parity.parity_files(parity.parity_folder(METHOD))
    except parity.ParityError:
        return []  # told by the tests with `parity_file`


def name(path: Path) -> str:
    return path.name


def test_numbers_agree_with_the_official_code(parity_file: Path, parity_check: Callable[..., None]) -> None:
    parity_check(parity_file, KINDS)


def test_every_kind_is_built_and_has_a_file() -> None:
    found = {parity.recognise(parity.read_vector(path), KINDS).name for path in documents()}
    assert {k.name for k in KINDS} == found and all(k.compute for k in KINDS)


def write(vector: parity.Vector, path: Path, **changed: Tensor | None) -> Path:
    """The vector with some tensors replaced, added or (None) removed, under a name that says nothing."""
    tensors = {n: t.clone() for n, t in {**vector.tensors, **changed}.items() if t is not None}
    save_file(tensors, path, {"config": json.dumps(vector.config), "tolerance": json.dumps(vector.tolerance)})
    return path


@pytest.mark.parametrize("path", documents(), ids=name)
def test_one_wrong_element_in_any_tensor_is_found(path: Path) -> None:
    """All results are computed once; then each recorded tensor in turn gets one element beyond its tolerance, and another shape."""
    vector = parity.read_vector(path)
    kind = parity.recognise(vector, KINDS)
    assert kind.compute is not None
    ours = {n: t.detach() for n, t in kind.compute(vector).items()}
    recorded = kind.recorded(vector)
    assert recorded.keys() == ours.keys()
    for what, tensor in recorded.items():
        theirs, (atol, rtol, *rest) = tensor.double(), kind.limits(vector, what)
        largest = theirs.abs().max()
        place = theirs.abs().flatten().argmin()
        beyond = 3 * (atol + rtol * largest + sum(rest) * largest) or 1.0
        for change, agrees in ((0.0, True), (beyond, False)):
            altered = theirs.flatten().clone()
            altered[place] += change
            report = parity.Report(path, kind.name)
            parity.compare(report, what, ours[what], altered.reshape(theirs.shape), atol, rtol, *rest)
            assert (not report.problems) == agrees, (what, change, report.problems)
        report = parity.Report(path, kind.name)
        parity.compare(report, what, ours[what], tensor[None], atol, rtol)
        assert report.problems


@pytest.mark.slow
def test_tampered_files_fail(tmp_path: Path) -> None:
    for path in parity.smallest_of_each_kind(documents(), KINDS):
        vector = parity.read_vector(path)
        tampered: dict[str, dict[str, Tensor | None]] = {"an unknown output": {"output.surprise!": torch.zeros(2)}}
        if inputs := [n for n in vector.tensors if n.startswith("input.")]:
            tampered["an unknown input"] = {"input.surprise!": torch.zeros(2)}
            tampered["no input"] = {inputs[0]: None}
            tampered["another input"] = {inputs[-1]: vector.tensors[inputs[-1]].flip(0) * 2}
        if states := sorted(n for n in vector.tensors if n.startswith("state.") and n.endswith("weight")):
            tampered["a state tensor less"] = {states[0]: None}
            tampered["a state tensor more"] = {"state.surprise!": torch.zeros(2)}
            tampered["a wrong weight"] = {states[0]: -vector.tensors[states[0]] + 0.1}
        results = sorted(parity.recognise(vector, KINDS).recorded(vector))
        tampered |= {f"no {name}": {name: None} for name in (results[0], results[-1])}
        for what, change in tampered.items():
            with pytest.raises(parity.ParityError):
                parity.check_file(write(vector, tmp_path / f"{path.stem}-{what}".replace(" ", "-"), **change), KINDS)


@pytest.mark.parametrize("path", [p for p in documents() if "optim" in p.name or "full" in p.name], ids=name)
def test_other_settings_give_other_numbers(path: Path, tmp_path: Path) -> None:
    """The tolerances tell these apart, so a vector cannot agree by chance."""
    vector = parity.read_vector(path)
    model = vector.config["model"]
    changes = [{**model, "local_radius": [1, 1, 1]}, {**model, "surprise": 1}, {**model, "mask_ratio": 0.5}]
    for change in changes[: 3 if "full" in path.name else 2]:
        changed = parity.Vector(vector.path, vector.tensors, {**vector.config, "model": change}, vector.tolerance)
        with pytest.raises(parity.ParityError):
            parity.check_file(write(changed, tmp_path / "x"), KINDS)


def test_an_unreadable_file_fails(parity_file: Path, tmp_path: Path) -> None:
    whole = parity_file.read_bytes()
    for what, content in (("empty", b""), ("truncated", whole[: len(whole) // 2]), ("no-header", whole[100:]), ("json", b'{"a": 1}')):
        path = tmp_path / what
        path.write_bytes(content)
        with pytest.raises(parity.ParityError):
            parity.check_file(path, KINDS)
