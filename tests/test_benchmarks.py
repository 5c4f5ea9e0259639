"""The benchmarks compare like with like: each textbook computes what ours computes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from sightline.methods.catalog import find_method
from sightline.methods.contract import Batch, BuildContext
from sightline.methods.croco.official import to_official
from sightline.methods.errors import SightlineError
from sightline.methods.i2p_mae import official as i2p_layout
from sightline.methods.random import MicrobatchRng
from sightline.platform.training.step import tensors, total

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import growth  # noqa: E402
import prepare_growth  # noqa: E402
import real_sets  # noqa: E402
import step as benchmark  # noqa: E402
import yardsticks  # noqa: E402

NOISE = MicrobatchRng(seed=3, step=5, microbatch=1)
CROCO: dict[str, Any] = {
    "model": {
        "encoder_dim": 48,
        "encoder_depth": 2,
        "encoder_heads": 3,
        "decoder_dim": 32,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "patch_size": 8,
        "image_size": [24, 40],
        "position": "rope",
    },
    "pretext": {"mask_ratio": 0.75},
}
CONMIM: dict[str, Any] = {
    "model": {
        "dim": 48,
        "depth": 2,
        "heads": 3,
        "patch_size": 8,
        "image_size": [32, 48],
        "position_table": True,
        "relative_bias": "both",
        "projector_hidden": 40,
        "projector_dim": 24,
    },
    "pretext": {"mask_cell": 16},
}
LOCA: dict[str, Any] = {
    "model": {
        "encoder_dim": 48,
        "encoder_depth": 3,
        "encoder_heads": 3,
        "patch_size": 8,
        "image_size": [48, 64],
        "drop_path": 0.3,
    },
    "pretext": {"focal_queries": 3, "query_tokens": 20, "prototypes": 40, "head_hidden": 64, "head_bottleneck": 16},
    "augment": {"focal_size": [16, 24]},
}
I2P: dict[str, Any] = {
    "model": {
        "points": 200,
        "groups": [48, 24, 12],
        "neighbours": [6, 4, 3],
        "dims": [24, 36, 48],
        "depths": [1, 2, 1],
        "embed": [16, 20],
        "drop_path": 0.3,
        "teacher_dim": 10,
    },
    "pretext": {"mask_ratio": 0.6, "mask_temperature": 0.01},
}
SMALL = {"croco": CROCO, "conmim": CONMIM, "loca": LOCA, "i2p_mae": I2P}
TAUGHT = ("conmim", "loca")


def small(method_id: str, **model: object) -> tuple[Any, Batch]:
    """A pretext in whose weights nothing is 0, 1 or the same in student and teacher, and a batch after `to_device`."""
    method, settings = find_method(method_id), SMALL[method_id]
    config = method.Config.model_validate({**settings, "model": settings["model"] | model})
    pretext = method.build(config, BuildContext(seed=0)).train()
    with torch.no_grad():  # fresh weights have zero biases and unit norms: a mistake in these would not show
        for index, parameter in enumerate(pretext.parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    columns = yardsticks.synthetic_columns(method, config, samples=3)
    return pretext, pretext.to_device(tensors(columns, torch.device("cpu")))


def weights_of(pretext: Any) -> dict[str, float]:
    return dict(pretext.config.loss.model_dump())


def croco_names(pretext: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return to_official(state, pretext.config)[0]


def conmim_names(pretext: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {yardsticks.conmim_name(name): tensor for name, tensor in state.items()}


def loca_names(pretext: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return yardsticks.loca_names(state, pretext.config)


def i2p_names(pretext: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return i2p_layout.save(state, pretext.config)[0]


NAMES: dict[str, Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]] = {
    "croco": croco_names,
    "conmim": conmim_names,
    "loca": loca_names,
    "i2p_mae": i2p_names,
}
"""Our tensors under the textbook's names."""
IDLE = {"i2p_mae": {"h_encoder.encoder_norms.0.weight", "h_encoder.encoder_norms.0.bias"}}
"""What no loss reaches: ours has gradients of 0, the textbook none."""
UNFELT = (
    ".key.bias",
    "student.norm.bias",
    *(f"{part}.bias" for part in ("first_conv.0", "first_conv.3", "second_conv.0", "fuse.net.0", "net1.0", "net2.0")),
    "h_decoder.0.blocks.0.mlp.fc2.bias",
)
"""A softmax does not see a bias of all keys, nor a BatchNorm a shift of all tokens: of their gradients rounding noise is left."""


@pytest.mark.parametrize("method_id", list(SMALL))
def test_the_textbook_gives_our_loss_and_gradients(method_id: str) -> None:
    pretext, batch = small(method_id)
    if method_id == "i2p_mae":  # a chain of BatchNorms makes 1e-4 of float32's rounding
        pretext, batch = pretext.double(), {name: tensor.double() for name, tensor in batch.items()}
    yardstick = yardsticks.YARDSTICKS[method_id]
    textbook = yardstick.textbook(pretext).train().to(next(pretext.parameters()).dtype)
    ours, theirs = total(pretext(batch, NOISE), weights_of(pretext)), textbook(*yardstick.inputs(pretext, batch, NOISE))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, check_dtype=False)
    ours.backward()
    theirs.backward()
    gradients = {name: p.grad for name, p in pretext.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in textbook.named_parameters() if p.grad is not None}
    idle = IDLE.get(method_id, set())
    trained = {name for name, p in textbook.named_parameters() if p.requires_grad} - idle
    renamed = NAMES[method_id](pretext, gradients)
    assert not any(renamed.pop(name).any() for name in idle)
    assert renamed.keys() == expected.keys() == trained
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-6 * largest or name.endswith(UNFELT), name
        torch.testing.assert_close(renamed[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("method_id", TAUGHT)
def test_the_textbook_moves_the_teacher_as_ours_does(method_id: str) -> None:
    pretext, _ = small(method_id)
    textbook = yardsticks.YARDSTICKS[method_id].textbook(pretext)
    before = {name: p.clone() for name, p in textbook.named_parameters()}
    pretext.after_step(0, 100)
    textbook.move_teacher(pretext.config.pretext.teacher_momentum)
    ours = NAMES[method_id](pretext, {name: p.detach() for name, p in pretext.named_parameters()})
    for name, parameter in textbook.named_parameters():
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=1e-6, atol=1e-7)
        assert torch.equal(parameter, before[name]) == name.startswith("student."), name


@pytest.mark.parametrize("method_id", [name for name, yardstick in yardsticks.YARDSTICKS.items() if yardstick.lean])
def test_the_lean_textbook_gives_the_same_loss(method_id: str) -> None:
    pretext, batch = small(method_id)
    yardstick = yardsticks.YARDSTICKS[method_id]
    assert yardstick.lean is not None
    inputs = yardstick.inputs(pretext, batch, NOISE)
    plain, lean = (make(pretext).train()(*inputs) for make in (yardstick.textbook, yardstick.lean))
    torch.testing.assert_close(plain, lean, rtol=0, atol=1e-5)


def test_nothing_is_timed_when_the_losses_differ() -> None:
    pretext, batch = small("croco")
    yardstick = yardsticks.YARDSTICKS["croco"]
    textbook = yardstick.textbook(pretext)
    assert benchmark.equal_losses(pretext, textbook, yardstick, weights_of(pretext), batch)["ours"] > 0.5
    with torch.no_grad():
        textbook.enc_norm.bias += 0.1
    with pytest.raises(SightlineError, match="nothing was timed"):
        benchmark.equal_losses(pretext, textbook, yardstick, weights_of(pretext), batch)


@pytest.mark.parametrize(
    ("method_id", "model", "lacks"), [("croco", {"position": "cosine"}, "rotary"), ("conmim", {"drop_path": 0.1}, "drop path")]
)
def test_the_textbook_refuses_what_it_does_not_know(method_id: str, model: dict[str, object], lacks: str) -> None:
    pretext, _ = small(method_id, **model)
    with pytest.raises(SightlineError, match=lacks):
        yardsticks.YARDSTICKS[method_id].textbook(pretext)


def test_operations_are_counted_as_by_hand() -> None:
    pretext, batch = small("croco", encoder_depth=1, decoder_depth=1, norm_memory=True)
    b, n, v, e, d, patch = 3, 15, 4, 48, 32, 3 * 8 * 8
    encoder = (n + v) * 12 * e * e + 2 * (n * n + v * v) * e
    decoder = n * 12 * d * d + n * 2 * d * d + n * 2 * d * d + 2 * 2 * n * n * d
    outside = (n + v) * (e * d) + (n - v) * d * patch
    embed = (n + v) * patch * e  # its input needs no gradient: twice, not three times
    assert benchmark.count_flops(pretext, weights_of(pretext), batch) == 2 * b * (3 * (encoder + decoder + outside) + 2 * embed)


def test_a_teacher_counts_once_a_student_three_times() -> None:
    pretext, batch = small("conmim", relative_bias="none")
    b, n, e, patch, hidden, out, masked = 3, 24, 48, 3 * 8 * 8, 40, 24, 20
    blocks = 2 * ((n + 1) * 12 * e * e + 2 * (n + 1) ** 2 * e)
    projector = (n + 1) * (e * hidden + hidden * hidden + hidden * out)
    embed, contrast = n * patch * e, masked * n * out  # neither the images nor the teacher's features need a gradient
    assert pretext.config.masked == masked
    assert benchmark.count_flops(pretext, weights_of(pretext), batch) == 2 * b * (4 * (blocks + projector) + 3 * embed + 2 * contrast)


@pytest.mark.long
@pytest.mark.slow
def test_the_step_benchmark_runs_and_says_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    command = [sys.executable, str(BENCHMARKS / "step.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "block 2/2" in done.stderr and "croco-tiny" in done.stdout and "matmul bf16" in done.stdout
    report = json.loads(out.read_text())
    assert [network["recipe"] for network in report["networks"]] == list(benchmark.RECIPES)
    for network in report["networks"]:
        assert abs(network["losses"]["ours"] - network["losses"]["textbook"]) <= benchmark.TOLERANCE
        seconds = network["seconds"]
        lean = {"lean textbook fp32", "lean textbook bf16"} & seconds.keys()
        assert bool(lean) == network["recipe"].startswith("i2p")
        assert {"textbook fp32", "ours fp32"} <= seconds.keys() - lean <= {"textbook fp32", "textbook bf16", "ours fp32", "ours bf16"}
        assert all(len(s) == 2 for s in seconds.values())
        faster = [a / b for a, b in zip(seconds["textbook fp32"], seconds["ours fp32"], strict=True)]
        assert network["times_textbook"]["ours fp32"] == pytest.approx(faster)


@pytest.mark.long
@pytest.mark.slow
def test_the_ingest_benchmark_runs_and_says_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "ingest.json"
    command = [sys.executable, str(BENCHMARKS / "ingest.py"), "--quick", "--recipe", "conmim-tiny", "--out", str(out)]
    done = subprocess.run([*command, "--against", "DataLoader"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "a training thread takes" in " ".join(done.stdout.split()), done.stdout
    (measured,) = json.loads(out.read_text())["recipes"]
    assert measured["ratios"] == {"DataLoader": [pytest.approx(measured["rates"]["stream"][0] / measured["rates"]["DataLoader"][0])]}
    assert measured["feeds"] == pytest.approx(measured["rates"]["stream"][0] / measured["training_rate"])
    assert measured["views_ms"] > 0 and measured["decode_ms"] > 0


@pytest.mark.parametrize("name", ["points", "plan", "events", "proposals, random"])
def test_each_size_of_the_growth_benchmark_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", "")  # restored afterwards
    ((seconds, megabytes),) = growth.measured(name, growth.CASES[name].sizes[0] // 8)
    assert seconds > 0 and megabytes >= 0


def test_growth_is_the_exponent_of_the_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(stdout=json.dumps([[1e-6 * int(words[-1]) ** (2 - part), 1.0] for part in range(4)]))

    monkeypatch.setattr(growth.subprocess, "run", run)
    (found,) = growth.grown("plan", rounds=2)
    assert found.exponent == pytest.approx(2) and not found.linear and found.seconds[0] == pytest.approx(64e-6)
    start, *others, end = growth.grown("raylets", rounds=1)
    assert [one.linear for one in (start, *others)] == [False, True, True] and end.exponent == pytest.approx(-1)
    assert start.what.endswith("CPU of their start") and end.what.endswith("end")


def test_the_plain_programs_do_the_work_that_prepare_is_held_against(tmp_path: Path) -> None:
    rows = {}
    for name, case in prepare_growth.CASES.items():
        if case.plain:
            (tmp_path / name).mkdir()
            case.make(40, tmp_path / name)
            case.plain(tmp_path / name / "in", tmp_path / f"{name}.parquet")
            rows[name] = pq.read_metadata(tmp_path / f"{name}.parquet").num_rows
    assert 25 < rows.pop("mine") <= 40, "of equal scores another comes first"
    assert rows == {"folder": 40, "frames": 39, "clouds": 40, "arrays": 40, "merge": 40}


def test_growth_of_prepare_is_that_of_what_records_add() -> None:
    found = prepare_growth.Measured("folder", [1000, 10000, 100000], [1.1, 2.0, 11.0], [100.0, 110.0, 210.0], [0.6, 1.05])
    assert found.exponent() == pytest.approx(1)
    assert found.line().split("| ")[-3:] == ["0.10 ms, 1,165 B ", "1.00 ", "0.05 ms; 2.00 |"]


def test_the_page_of_real_sets_is_that_of_its_records() -> None:
    assert real_sets.PAGE.read_text() == real_sets.page(json.loads(real_sets.RECORD.read_text()))


def test_found_poses_are_held_against_known_ones_through_chains_of_pairs() -> None:
    step = np.eye(4)
    step[0, 3] = 2.0
    known = {(1, 2): step, (3, 2): np.linalg.inv(step)}
    one_to_three = real_sets.chained(known, 1, 3)
    assert one_to_three is not None and one_to_three[0, 3] == 4 and real_sets.chained(known, 1, 9) is None
    assert real_sets.frames_of("can-video/Beer.mp4/000310-000040", 10) == (31, 4)
    assert real_sets.bars([0, 1, 8]) == " ▁█"
