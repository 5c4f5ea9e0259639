"""Every number recorded from the official LOCA code is ours, too; and a vector that was tampered with does not pass."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import parity_harness as parity
import pytest
import torch
from parity_loca import KINDS, assemble
from safetensors.torch import load_file, save_file
from torch import Tensor

METHOD = "loca"
RANK = Path(__file__).parents[1] / "support" / "loca_rank.py"
TENSOR_KINDS = [k for k in KINDS if isinstance(k, parity.Kind)]


def documents(suffix: str) -> list[Path]:
    try:
        return [p for p in parity.parity_files(parity.parity_folder(METHOD)) if p.suffix == suffix]
    except parity.ParityError:
        return []  # told by the tests with `parity_file`


def name(path: Path) -> str:
    return path.name


TENSOR_FILES = documents(".safetensors")
SEVERAL_DEVICES = [p for p in TENSOR_FILES if "n_devices" in parity.read_vector(p).config]


def test_numbers_agree_with_the_official_code(parity_file: Path, parity_check: Callable[..., None]) -> None:
    parity_check(parity_file, KINDS)


def test_every_kind_is_built_and_has_a_file() -> None:
    found = {parity.recognise(parity.read_vector(path), TENSOR_KINDS).name for path in TENSOR_FILES}
    assert {k.name for k in TENSOR_KINDS} == found and all(k.compute for k in TENSOR_KINDS)
    assert SEVERAL_DEVICES and documents(".json") and documents(".msgpack")


@pytest.mark.slow
@pytest.mark.parametrize("path", SEVERAL_DEVICES, ids=name)
def test_each_device_may_be_a_process_of_its_own(path: Path, tmp_path: Path) -> None:
    vector = parity.read_vector(path)
    world = vector.config["n_devices"]
    words = [sys.executable, str(RANK), str(path)]
    ranks = [
        subprocess.Popen([*words, str(i), str(world), str(tmp_path / "store"), str(tmp_path / f"{i}.safetensors")], stderr=subprocess.PIPE)
        for i in range(world)
    ]
    errors = [process.communicate(timeout=120)[1].decode()[-2000:] for process in ranks]
    assert not any(process.returncode for process in ranks), errors
    files = [load_file(tmp_path / f"{i}.safetensors") for i in range(world)]
    parts = [{n.removeprefix("part."): t for n, t in file.items() if n.startswith("part.")} for file in files]
    for file in files:  # after the exchange every rank holds the gradient of the mean
        ours = assemble(vector, parts, {n.removeprefix("grad."): t for n, t in file.items() if n.startswith("grad.")})
        kind = parity.recognise(vector, TENSOR_KINDS)
        recorded = kind.recorded(vector)
        assert ours.keys() == recorded.keys()
        report = parity.Report(path, kind.name)
        for tensor, theirs in recorded.items():
            parity.compare(report, tensor, ours[tensor], theirs, *kind.limits(vector, tensor))
        assert not report.problems, report.problems


def write(vector: parity.Vector, path: Path, **changed: Tensor | None) -> Path:
    """The vector with some tensors replaced, added or (None) removed, under a name that says nothing."""
    tensors = {n: t.clone() for n, t in {**vector.tensors, **changed}.items() if t is not None}
    save_file(tensors, path, {"config": json.dumps(vector.config), "tolerance": json.dumps(vector.tolerance)})
    return path


def first(vector: parity.Vector, prefix: str) -> str:
    return next(n for n in sorted(vector.tensors) if n.startswith(prefix))


@pytest.mark.parametrize("path", TENSOR_FILES, ids=name)
def test_one_wrong_element_in_any_tensor_is_found(path: Path) -> None:
    """All results are computed once; then each recorded tensor in turn gets one element beyond its tolerance, and another shape."""
    vector = parity.read_vector(path)
    kind = parity.recognise(vector, TENSOR_KINDS)
    assert kind.compute is not None
    ours = {n: t.detach() for n, t in kind.compute(vector).items()}
    recorded = kind.recorded(vector)
    assert recorded.keys() == ours.keys()
    for what, tensor in recorded.items():
        theirs, (atol, rtol) = tensor.double(), kind.limits(vector, what)
        place = theirs.abs().flatten().argmin()
        beyond = 3 * (atol + rtol * theirs.abs().max()) or 1.0
        for change, agrees in ((0.0, True), (beyond, False)):
            altered = theirs.flatten().clone()
            altered[place] += change
            report = parity.Report(path, kind.name)
            parity.compare(report, what, ours[what], altered.reshape(theirs.shape), atol, rtol)
            assert (not report.problems) == agrees, (what, change, report.problems)
        report = parity.Report(path, kind.name)
        parity.compare(report, what, ours[what], tensor[None], atol, rtol)
        assert report.problems


@pytest.mark.slow
def test_tampered_files_fail(tmp_path: Path) -> None:
    for path in parity.smallest_of_each_kind(TENSOR_FILES, TENSOR_KINDS):
        vector = parity.read_vector(path)
        given = first(vector, "input.")
        tampered: dict[str, dict[str, Tensor | None]] = {
            "an unknown output": {"output.surprise!": torch.zeros(2)},
            "an unknown input": {"input.surprise!": torch.zeros(2)},
            "an unknown state": {"state.surprise!": torch.zeros(2)},
            "no input": {given: None},
        }
        if any(n.startswith("state.params/") for n in vector.tensors):
            scale = next(n for n in sorted(vector.tensors) if n.startswith("state.") and n.endswith("encoder_norm/scale"))
            tampered["a state tensor less"] = {scale: None}
            tampered["a state tensor more"] = {scale.replace("encoder_norm", "encoder_norm_2"): vector.tensors[scale]}
            tampered["a wrong weight"] = {
                first(vector, "state.params/encoderblock_0"): -vector.tensors[first(vector, "state.params/encoderblock_0")]
            }
        if grads := vector.part("grad"):
            tampered["no gradient"] = {f"grad.{n}": None for n in grads}
        for what, change in tampered.items():
            with pytest.raises(parity.ParityError):
                parity.check_file(write(vector, tmp_path / f"{path.stem}-{what}".replace(" ", "-"), **change), KINDS)


@pytest.mark.parametrize("setting", ["layer_norm_eps", "temperature", "sharpening", "reference_seqlen"])
def test_other_settings_give_other_numbers(setting: str, tmp_path: Path) -> None:
    """The tolerances tell these apart, so a vector cannot agree by chance."""
    vector = next(v for v in map(parity.read_vector, TENSOR_FILES) if "output.sinkhorn_targets" in v.tensors)
    value = vector.config[setting]
    changed = parity.Vector(
        vector.path, vector.tensors, {**vector.config, setting: value - 1 if value > 1 else value * 0.9}, vector.tolerance
    )
    with pytest.raises(parity.ParityError):
        parity.check_file(write(changed, tmp_path / "x"), KINDS)


@pytest.mark.parametrize("path", documents(".json"), ids=name)
def test_a_tampered_schedule_fails(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    law = next(name for name, value in content.items() if "momentum_base" in value)
    changes: dict[str, Callable[[dict], object]] = {
        "rate": lambda c: c[law]["table"][3].update(lr=c[law]["table"][3]["lr"] * 1.001),
        "momentum": lambda c: c[law]["table"][5].update(momentum=c[law]["table"][5]["momentum"] + 1e-5),
        "decay": lambda c: c[law]["table"][2].update(weight_decay=0.05),
        "more": lambda c: c[law]["table"][0].update(surprise=1),
        "end": lambda c: c[law].update(momentum_alpha=1.0),
    }
    for what, change in changes.items():
        copy = json.loads(path.read_text())
        change(copy)
        (tmp_path / what).write_text(json.dumps(copy))
        with pytest.raises(parity.ParityError):
            parity.check_file(tmp_path / what, KINDS)


@pytest.mark.parametrize("path", documents(".msgpack"), ids=name)
def test_a_tampered_checkpoint_fails(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for twin in path.parent.glob("*.safetensors"):
        (tmp_path / twin.name).write_bytes(twin.read_bytes())
    place = data.index(b"encoder_norm", data.index(b"ema_params"))
    moment = data.index(b"float32", data.index(b"posembed_input")) + 60
    changes = {
        "shorter": data[:-1],
        "longer": data + b"\0",
        "half": data[: len(data) // 2],
        "name": data[:place] + b"encoder_morn" + data[place + 12 :],
        "type": data.replace(b"float32", b"float64", 1),
        "moment": data[:moment] + b"\1" + data[moment + 1 :],
        "weight": data[: place + 60] + bytes([data[place + 60] ^ 1]) + data[place + 61 :],
        "step": data.replace(b"global_step\x03", b"global_step\x04"),
    }
    (tmp_path / "whole").write_bytes(data)
    assert parity.check_file(tmp_path / "whole", KINDS).tensors > 200
    for what, altered in changes.items():
        assert altered != data
        (tmp_path / what).write_bytes(altered)
        with pytest.raises(parity.ParityError):
            parity.check_file(tmp_path / what, KINDS)


def test_an_unreadable_file_fails(parity_file: Path, tmp_path: Path) -> None:
    whole = parity_file.read_bytes()
    for what, content in (("empty", b""), ("truncated", whole[: len(whole) // 2]), ("no-header", whole[100:]), ("json", b'{"a": 1}')):
        path = tmp_path / what
        path.write_bytes(content)
        with pytest.raises(parity.ParityError):
            parity.check_file(path, KINDS)
