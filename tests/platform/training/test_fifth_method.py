"""A method that another package publishes is as good as ours: a small masked autoencoder, found by its entry point alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sightline.methods.catalog import method_ids
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.estimate import estimate_cost
from sightline.platform.experiments.preflight import check
from sightline.platform.runs.events import RunEvent, TrainingStarted, ValidationDone
from sightline.platform.runs.record import Run

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "tests" / "support" / "outside_mae"
RECIPE: dict[str, Any] = {
    "method": "outside_mae",
    "model": {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 1},
    "batch": {"size": 12, "microbatch": 6},
    "optim": {"lr": 3.0e-3, "warmup": "5 steps"},
    "train": {
        "length": "12 steps",
        "validate_every": "30 steps",
        "checkpoint_every": "4 steps",
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    },
    "log": {"every": 3},
}
Train = Callable[..., list[RunEvent]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as pip would fill it, on `sys.path`: the package, and the metadata that name its entry point."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PROJECT / "outside_mae", folder / "outside_mae", ignore=shutil.ignore_patterns("__pycache__"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    info = folder / "outside_mae-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["sightline.methods"].items()
    (info / "entry_points.txt").write_text("[sightline.methods]\n" + "".join(f"{name} = {place}\n" for name, place in points))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside_mae"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Smooth noise: what is hidden continues what is seen."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, rows in (("train", 60), ("val", 12)):
        with ShardWriter(root / part, "images") as writer:
            for index in range(rows):
                small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
                image = np.asarray(small.resize((48, 40), Image.Resampling.BICUBIC))
                writer.write({"id": f"{part}-{index:03d}", "scene": f"s{index % 4}", "image": encode_image(image)})
    return {"data.train": str(root / "train"), "data.val": str(root / "val")}


@pytest.fixture
def recipe(site: Path, tmp_path: Path) -> str:
    path = tmp_path / "mae-toy.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return str(path)


@pytest.fixture
def make(recipe: str, home: Path, data: dict[str, str]) -> Callable[..., Run]:
    def make(name: str, **overrides: Any) -> Run:
        experiment, dataset = check(config.load(recipe, {**data, **overrides}))
        return create_run(name, experiment, dataset.fingerprint, "test", "")

    return make


def result(run: Run) -> tuple[checkpoint.TrainState, str]:
    """The state of the newest checkpoint and a hash over the bits of its weights."""
    found = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None
    digest = hashlib.sha256()
    for name, value in sorted(found.tensors("model").items()):
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return found.state, digest.hexdigest()


def command(site: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`sightline WORDS` in a process of its own, which finds the method through PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(site), "SIGHTLINE_HOME": str(home), "MLFLOW_TRACKING_URI": ""}
    line = [sys.executable, "-m", "sightline.pipelines", *words]
    return subprocess.run(line, env=environment, cwd=home.parent, capture_output=True, text=True, timeout=400)


def test_a_method_from_outside_takes_about_150_lines() -> None:
    lines = [line for path in (PROJECT / "outside_mae").glob("*.py") for line in path.read_text().splitlines() if line.strip()]
    assert 100 < len(lines) <= 165


def test_its_recipe_is_a_recipe_like_any_other(recipe: str) -> None:
    experiment = config.load(recipe, {"pretext.mask_ratio": 0.5})
    assert (experiment.recipe, experiment.method) == ("mae-toy", "outside_mae")
    flat = experiment.flat()
    assert flat["pretext.mask_ratio"] == 0.5 and flat["augment.flip"] == 0.5 and flat["model.decoder_depth"] == 1
    assert config.load("mae-toy", settings=experiment.sections()) == experiment


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("pretext.mask_ration", 0.5, r"'pretext.mask_ration': did you mean '(pretext\.)?mask_ratio'"),
        ("augment.flop", 0.5, r"'augment.flop': did you mean '(augment\.)?flip'"),
        ("pretext.mask_ratio", 1.5, r"pretext.mask_ratio = 1.5"),
        ("model.patch_size", 7, r"model: image_size 32 is no multiple of patch_size 7"),
        ("loss.cluster", 1.0, r"'loss.cluster': known: .*reconstruction"),
    ],
)
def test_settings_errors_name_its_keys(recipe: str, key: str, value: float, expected: str) -> None:
    with pytest.raises(CallError, match=expected):
        config.load(recipe, {key: value})


def test_a_misspelt_key_of_it_is_a_wrong_call_from_the_shell(site: Path, recipe: str, home: Path) -> None:
    done = command(site, home, "pretrain", recipe, "pretext.mask_ration=0.5")
    assert done.returncode == 2 and "mask_ratio" in done.stderr and "Traceback" not in done.stderr


def test_data_of_another_kind_are_refused(make: Callable[..., Run], toy_data: dict[str, str]) -> None:
    with pytest.raises(CallError, match="holds pairs, but images are needed"):
        make("wrong-kind", **{"data.train": toy_data["data.train"]})


def test_images_that_are_too_small_are_refused_before_the_start(make: Callable[..., Run]) -> None:
    with pytest.raises(CallError, match=r"no image of data\.train can give a crop of 64 x 64"):
        make("too-small", **{"model.image_size": 64})


def test_its_loss_falls(make: Callable[..., Run], train_here: Train) -> None:
    run = make("long", **{"train.length": "60 steps", "train.checkpoint_every": "60 steps"})
    events = train_here(run)
    losses = [figures["loss"] for figures in run.history().values()]
    assert len(losses) == 60 and np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.1
    validation = [event.losses["reconstruction"] for event in events if isinstance(event, ValidationDone)]
    assert len(validation) == 3 and validation[-1] < validation[0] - 0.1


@pytest.mark.slow
def test_it_stops_and_goes_on_to_the_same_bits(make: Callable[..., Run], train_here: Train) -> None:
    whole, parts = make("whole"), make("parts")
    train_here(whole)
    for stop_after in (5, 2, None):
        events = train_here(parts, stop_after=stop_after)
    assert [event.first_step for event in events if isinstance(event, TrainingStarted)] == [7]
    assert result(parts) == result(whole)
    assert parts.history() == whole.history()


def test_the_bits_depend_on_the_seed(make: Callable[..., Run], train_here: Train) -> None:
    """Else the test above could not fail."""
    one, two = make("one", **{"train.length": "2 steps"}), make("two", **{"train.length": "2 steps", "train.seed": 1})
    train_here(one)
    train_here(two)
    assert result(one)[1] != result(two)[1] and result(one)[0].history != result(two)[0].history


def test_its_cost_is_estimated_before_the_start(recipe: str, data: dict[str, str], home: Path) -> None:
    from outside_mae.pretext import MaePretext  # type: ignore[import-not-found]

    experiment = config.load(recipe, data)
    small = estimate_cost(experiment)
    large = estimate_cost(config.load(recipe, {**data, "model.depth": 4}))
    assert small.parameters == sum(p.numel() for p in MaePretext(experiment.method_config).parameters())
    assert 0 < small.gflops_per_sample < large.gflops_per_sample
    assert (small.samples, small.steps) == (144, 12)


def test_it_has_no_control_metrics_and_need_not(recipe: str, data: dict[str, str]) -> None:
    """Everything else that the platform may ask of a pretext task it answers: an encoder of its own storage, and pictures."""
    from sightline.methods.catalog import find_method
    from sightline.methods.contract import BuildContext
    from sightline.methods.random import MicrobatchRng
    from sightline.platform.data.loader.fixed import fixed_microbatches
    from sightline.platform.training.step import tensors

    experiment, method = config.load(recipe), find_method("outside_mae")
    pretext = method.build(experiment.method_config, BuildContext(seed=0)).eval()
    assert not hasattr(pretext, "control_metrics")
    encoder = pretext.encoder()
    ours = {parameter.data_ptr() for parameter in pretext.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in encoder.parameters()}
    assert encoder.tokens(torch.rand(2, 3, 32, 32)).shape == (2, 16, 32)
    _, columns = next(fixed_microbatches(Dataset.open(data["data.val"]), method.views(experiment.method_config), microbatch=4, limit=4))
    with torch.no_grad():
        (picture,) = pretext.visualisations(pretext.to_device(tensors(columns, torch.device("cpu"))), MicrobatchRng(0, -3, 0))
    assert picture.image.dtype == np.uint8 and picture.image.shape == (32, 4 * 32, 3)


def test_no_code_of_the_platform_names_a_method() -> None:
    """Comments and docstrings may say where an idea comes from."""
    ids = [name for name in method_ids() if name != "outside_mae"]
    assert "croco" in ids
    words = re.compile(rf"(?<![a-z0-9])({'|'.join(ids)})(?![a-z0-9])")  # as words: "local" holds "loca"
    for path in sorted((ROOT / "platform").rglob("*.py")):
        with path.open("rb") as file:
            code = [t for t in tokenize.tokenize(file.readline) if t.type != tokenize.COMMENT and not t.string.startswith('"""')]
        named = [f"{path.relative_to(ROOT)}:{t.start[0]}: {t.string}" for t in code if words.search(t.string.lower())]
        if path.name in (
            "export.py",
            "finish.py",
            "model_card.py",
            "model_use.py",
            "packaged.py",
            "registry.py",
        ):  # timm is a library that weights go to
            named = [token for token in named if set(words.findall(token.lower())) != {"timm"}]
        assert named == []


@pytest.mark.slow
def test_it_is_trained_registered_and_reported_by_the_command(site: Path, recipe: str, home: Path, data: dict[str, str]) -> None:
    """Through Ray Train and Ray Data with two workers, whose processes find the method by themselves."""
    home.mkdir()
    settings = [f"{key}={value}" for key, value in data.items()]
    done = command(site, home, "pretrain", recipe, *settings, "train.workers=2", "--name", "outside", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    folder = home / "runs" / "outside"
    report = (folder / "report.html").read_text()
    assert "outside: outside_mae by recipe mae-toy" in report and "Reconstructions" in report
    assert "no data.val was given" not in report, "it was given"
    assert (folder / "encoder" / "encoder.safetensors").is_file()
    assert json.loads(done.stdout)
