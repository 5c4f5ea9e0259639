"""The contract's old names work for one version, with a warning: the outside method, written against them, is built and asked."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.methods import contract
from sightline.methods.contract import Alarm, BuildContext, Method, MetricInfo

OUTSIDE = Path(__file__).parents[1] / "support" / "outside_mae" / "outside_mae"
OLD_WORDS = {
    r"\bLazy, Method, MethodConfig, MetricInfo\b": "Lazy, Live, Method, MethodConfig",
    r"\bBuildContext\b": "Live",
    r"\bcontext\b": "live",
    r"\bVisualisation\b": "Picture",
    r"\bvisualisations\b": "pictures",
    r"\bMicrobatchRng\b": "Noise",
    r"\brng: Noise\b": "noise: Noise",
    r"\bmetrics=\{": "loss_figures={",
    r'MetricInfo\(("[^"]*"), better="lower"\)': r"\1",
    r"\boutside_mae\b": "outside_mae_old",
    r"\b, Sample\b": ", Sample",
}
OLD_PARTS = """
    def claims(self, batch: Batch, other: Batch, noise: Noise) -> dict[str, Tensor]:
        assert noise.group == noise.microbatch
        return {"psnr_own": batch["patches"].mean(dim=(1, 2)), "psnr_other": other["patches"].mean(dim=(1, 2))}
"""
OLD_ARGUMENTS = """    frozen=lambda config: {"model.dim": "a place"},
    fit=lambda config, frozen: config,
    alarms=(Alarm(figure="rank", cause="x", below=0.1),),
)
"""


@pytest.fixture(scope="module")
def old_method(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Method]:
    """The outside method as it was written against the names of the contract before they changed."""
    folder = tmp_path_factory.mktemp("old")
    shutil.copytree(OUTSIDE, folder / "outside_mae_old", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "outside_mae_old").glob("*.py"):
        text = path.read_text()
        for new, old in OLD_WORDS.items():
            text = re.sub(new, old, text)
        text = text.replace("\n    def param_groups", f"{OLD_PARTS}\n    def param_groups")
        text = re.sub(r"(loss_figures=.*\n)\)\n", rf"\1{OLD_ARGUMENTS}", text).replace("import Lazy, Live", "import Alarm, Lazy, Live")
        path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        with pytest.warns(DeprecationWarning) as told:
            yield importlib.import_module("outside_mae_old").method
    words = {str(warning.message).partition(" is an old name")[0] for warning in told}
    assert {"Live", "Noise", "Picture", "Method(loss_figures=...)", "Method(frozen=...)", "Method(fit=...)", "Alarm(figure=...)"} <= words
    assert {"MaePretext.pictures", "MaePretext.claims", "MicrobatchRng.group"} <= words
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside_mae_old"]:
        del sys.modules[name]


def test_a_method_of_the_old_names_works(old_method: Method) -> None:
    config = old_method.Config()
    assert {"claims", "pictures"} <= vars(importlib.import_module("outside_mae_old.pretext").MaePretext).keys()
    meaning = "mean squared error on hidden patches, against normalised pixels"
    assert old_method.metrics == {"reconstruction": MetricInfo(meaning, family="reconstruction")}
    assert old_method.teachers(config) == {"model.dim": "a place"} and old_method.adapt(config, {}) is config
    assert old_method.alarms == (Alarm("rank", "x", below=0.1),)
    built = old_method.build(config, BuildContext(seed=0))
    assert isinstance(built, contract.HasVisualisations) and isinstance(built, contract.HasControlMetrics)
    batch = {name: torch.from_numpy(np.stack([value] * 2)) for name, value in sample(old_method).items()}
    batch = built.to_device(batch)
    rng = contract.MicrobatchRng(0, 0, 0)
    assert built(batch, rng)["reconstruction"].isfinite()
    with torch.no_grad():
        assert built.visualisations(batch, rng)[0].title == "Reconstructions"
    assert built.control_metrics(batch, batch, rng).keys() == {"psnr_own", "psnr_other"}
    old_method.check(config, BuildContext(seed=0))


def sample(method: Method) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return method.views(method.Config())({"image": rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)}, rng)


def test_live_takes_frozen_and_gives_it_back() -> None:
    with pytest.warns(DeprecationWarning, match=r"Live is an old name of BuildContext"):
        kind = contract.Live
    with pytest.warns(DeprecationWarning, match=r"BuildContext\(frozen=...\) is an old name of teachers"):
        live = kind(seed=1, frozen={"a": 1})
    assert live == BuildContext(seed=1, teachers={"a": 1})
    with pytest.warns(DeprecationWarning, match="BuildContext.frozen"):
        assert live.frozen == {"a": 1}


def test_old_types_are_the_new_ones() -> None:
    with pytest.warns(DeprecationWarning):
        assert (contract.Noise, contract.Match, contract.Picture) == (contract.MicrobatchRng, contract.LoadReport, contract.Visualisation)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = contract.Nothing
