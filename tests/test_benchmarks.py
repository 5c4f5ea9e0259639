"""The benchmarks compare like with like: the textbook CroCo computes what ours computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sightline.methods.contract import Batch, Live
from sightline.methods.croco import method
from sightline.methods.croco.config import CrocoConfig
from sightline.methods.croco.official import to_official
from sightline.methods.croco.pretext import CrocoPretext
from sightline.methods.errors import SightlineError
from sightline.methods.random import Noise

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import step as benchmark  # noqa: E402


def small(**model: object) -> tuple[CrocoPretext, Batch]:
    sizes = {"encoder_dim": 48, "encoder_depth": 2, "encoder_heads": 3, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2}
    sizes |= {"patch_size": 8, "image_size": [24, 40], "position": "rope"} | model
    settings = CrocoConfig.model_validate({"model": sizes, "pretext": {"mask_ratio": 0.75}})
    pretext = method.build(settings, Live(seed=0))
    with torch.no_grad():  # fresh weights have zero biases and unit norms: a mistake in these would not show
        for index, parameter in enumerate(pretext.parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    columns = benchmark.synthetic_columns(settings, samples=3)
    return pretext, pretext.to_device(benchmark.tensors(columns, torch.device("cpu")))


def test_the_textbook_gives_our_loss_and_gradients() -> None:
    pretext, batch = small()
    textbook = benchmark.textbook_of(pretext)
    ours, theirs = pretext(batch, Noise(0, 0, 0))["reconstruction"], textbook(batch["image1"], batch["image2"], batch["mask"])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    gradients = {name: p.grad for name, p in pretext.named_parameters()}
    expected = {name: p.grad for name, p in textbook.named_parameters()}
    renamed, _ = to_official({name: g for name, g in gradients.items() if g is not None}, pretext.config)
    assert renamed.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(renamed[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_nothing_is_timed_when_the_losses_differ() -> None:
    pretext, batch = small()
    textbook = benchmark.textbook_of(pretext)
    assert benchmark.equal_losses(pretext, textbook, batch)["ours"] > 0.5
    with torch.no_grad():
        textbook.enc_norm.bias += 0.1
    with pytest.raises(SightlineError, match="nothing was timed"):
        benchmark.equal_losses(pretext, textbook, batch)


def test_the_textbook_refuses_what_it_does_not_know() -> None:
    pretext, _ = small(position="cosine")
    with pytest.raises(SightlineError, match="rotary positions"):
        benchmark.textbook_of(pretext)


def test_operations_are_counted_as_by_hand() -> None:
    pretext, batch = small(encoder_depth=1, decoder_depth=1, norm_memory=True)
    b, n, v, e, d, patch = 3, 15, 4, 48, 32, 3 * 8 * 8
    encoder = (n + v) * 12 * e * e + 2 * (n * n + v * v) * e
    decoder = n * 12 * d * d + n * 2 * d * d + n * 2 * d * d + 2 * 2 * n * n * d
    outside = (n + v) * (e * d) + (n - v) * d * patch
    embed = (n + v) * patch * e  # its input needs no gradient: twice, not three times
    assert benchmark.count_flops(pretext, batch) == 2 * b * (3 * (encoder + decoder + outside) + 2 * embed)


@pytest.mark.slow
def test_the_step_benchmark_runs_and_says_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    command = [sys.executable, str(BENCHMARKS / "step.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "block 2/2" in done.stderr and "croco-tiny" in done.stdout and "matmul bf16" in done.stdout
    report = json.loads(out.read_text())
    assert [network["recipe"] for network in report["networks"]] == ["croco-tiny", "croco-v2-base-small"]
    for network in report["networks"]:
        assert abs(network["losses"]["ours"] - network["losses"]["textbook"]) <= benchmark.TOLERANCE
        seconds = network["seconds"]
        assert seconds.keys() == {"textbook fp32", "ours fp32", "ours bf16"} and all(len(s) == 2 for s in seconds.values())
        faster = [a / b for a, b in zip(seconds["textbook fp32"], seconds["ours fp32"], strict=True)]
        assert network["times_textbook"]["ours fp32"] == pytest.approx(faster)
