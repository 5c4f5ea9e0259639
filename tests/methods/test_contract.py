"""The contract: optional abilities are asked for by protocol, a misspelt one is an error, and lazy references resolve."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import TOY, TOY_IMAGES, TOY_POINTS

from sightline.methods import check, protocols
from sightline.methods.catalog import find_method, method_ids
from sightline.methods.check import check_encoder, check_pretext, check_views
from sightline.methods.contract import BuildContext, HasPredictor, Lazy, Method, MetricInfo
from sightline.methods.croco import method as croco
from sightline.methods.croco.config import CrocoConfig, CrocoModel
from sightline.methods.croco.pretext import CrocoPretext
from sightline.methods.croco.views import CrocoViews
from sightline.methods.errors import SightlineError

SIZES = {"encoder_dim": 8, "encoder_depth": 1, "encoder_heads": 1, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 1}
SMALL = CrocoConfig(model=CrocoModel(image_size=32, **SIZES))
CONTEXT = BuildContext(seed=0)


def pretext(**members: Any) -> CrocoPretext:
    """A pretext of CroCo with further members of its class."""
    return type("Changed", (CrocoPretext,), members)(SMALL)


@pytest.mark.parametrize(
    ("misspelt", "member", "meant"),
    [
        ("targetz", lambda self, batches, rngs: batches, "targets"),
        ("target", lambda self, batches, rngs: batches, "targets"),
        ("encoder_fom", lambda self, encoder: encoder, "encoder_form"),
        ("encode_form", lambda self, encoder: encoder, "encoder_form"),
        ("predicter", torch.nn.Identity(), "predictor"),
    ],
)
def test_a_misspelt_ability_of_a_pretext_is_an_error_where_it_is_built(misspelt: str, member: Any, meant: str) -> None:
    changed = replace(croco, build=lambda config, context: pretext(**{misspelt: member}))
    with pytest.raises(SightlineError, match=f"'{misspelt}' is no member of the contract: did you mean '{meant}'"):
        changed.build(SMALL, CONTEXT)


def test_a_misspelt_submodule_is_found_as_well_as_a_misspelt_attribute() -> None:
    changed = pretext()
    changed.predicter = torch.nn.Identity()
    with pytest.raises(SightlineError, match="did you mean 'predictor'"):
        check_pretext(changed)


def test_a_misspelling_of_a_long_name_may_have_two_wrong_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(CrocoPretext, "visualisations")
    monkeypatch.delattr(CrocoPretext, "encoder_prefixes")
    with pytest.raises(SightlineError, match="did you mean 'visualisations'"):
        check_pretext(pretext(visualization=lambda self, batch, rng: []))
    with pytest.raises(SightlineError, match="did you mean 'encoder_prefixes'"):
        check_pretext(pretext(encoder_prefix=("backbone.",)))


@pytest.mark.parametrize("toy", [TOY, *TOY_IMAGES.values(), TOY_POINTS], ids=lambda toy: toy["method"])
def test_what_ships_passes_the_check(toy: dict[str, Any]) -> None:
    """Attributes that resemble a member by chance are no misspelling: the encoder of clouds has `depths`."""
    method = find_method(toy["method"])
    sections = {name: toy[name] for name in ("model", "pretext", "loss", "augment") if name in toy}
    method.check(method.Config.model_validate({"pretext": {}, "loss": {}, "augment": {}, **sections}), CONTEXT)


def test_names_that_are_merely_of_the_same_kind_are_not_taken_for_abilities() -> None:
    """A target network is no misspelt method, and `predict` no misspelt attribute."""
    changed = pretext(predict=lambda self, batch: batch, heading=lambda self: 0)
    changed.target = torch.nn.Identity()
    check_pretext(changed)


def test_a_required_member_that_is_missing_is_named() -> None:
    class Nothing(torch.nn.Module):
        def after_steps(self, step: int, steps: int) -> None: ...

    with pytest.raises(SightlineError, match=r"Nothing lacks after_step, encoder, .*to_device of a Pretext") as caught:
        check_pretext(Nothing())
    assert "'after_steps': did you mean 'after_step'" in caught.value.hint


def test_a_head_that_is_called_predictor_but_predicts_no_classes_is_an_error() -> None:
    changed = pretext()
    changed.predictor = torch.nn.Linear(2, 2)
    with pytest.raises(SightlineError, match="Linear lacks classes, logits, task of a `predictor`"):
        check_pretext(changed)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("columns_", "columns"), ("evaluations", "evaluation"), ("smalest", "smallest"), ("leasst", "least"), ("votng", "voting")],
)
def test_a_misspelt_ability_of_views_is_an_error_where_they_are_made(misspelt: str, meant: str) -> None:
    kind = type("Changed", (CrocoViews,), {misspelt: ("label",)})
    with pytest.raises(SightlineError, match=f"'{misspelt}' is no member of the contract: did you mean '{meant}'"):
        replace(croco, views=kind).views(SMALL)


def pool(self: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return images


@pytest.mark.parametrize(
    ("misspelt", "member", "meant"),
    [("outputs", "x", "output"), ("normalized", True, "normalised"), ("finetunning", pool, "finetuning"), ("poled", pool, "pooled")],
)
def test_a_misspelt_ability_of_an_encoder_is_found_by_the_check_of_a_method(misspelt: str, member: Any, meant: str) -> None:
    def build(config: CrocoConfig, context: BuildContext) -> CrocoPretext:
        made = CrocoPretext(config)
        made.backbone.__class__ = type("Changed", (type(made.backbone),), {misspelt: member})
        return made

    croco.check(SMALL, CONTEXT)
    with pytest.raises(SightlineError, match=f"'{misspelt}' is no member of the contract: did you mean '{meant}'"):
        replace(croco, build=build).check(SMALL, CONTEXT)


def test_an_encoder_without_saliency_is_named() -> None:
    class Blind(torch.nn.Module):
        dim, patch_size, image_size = 8, 8, (32, 32)

        def tokens(self, images: torch.Tensor) -> torch.Tensor:
            return images

    with pytest.raises(SightlineError, match="Blind lacks saliency of a ImageEncoder"):
        check_encoder(Blind())


def test_views_must_be_callable() -> None:
    with pytest.raises(SightlineError, match="object has no method '__call__'"):
        check_views(object())


def test_an_ability_that_is_a_submodule_is_seen() -> None:
    """Python's own check of protocols does not look there from 3.12 on."""
    module = torch.nn.Module()
    assert not isinstance(module, HasPredictor)
    module.predictor = torch.nn.Identity()
    assert isinstance(module, HasPredictor)


@pytest.mark.parametrize(
    ("one", "other", "letters"), [("ab", "ab", 0), ("abc", "acb", 1), ("abc", "abcd", 1), ("abc", "", 3), ("ab", "cd", 2)]
)
def test_distance_of_names(one: str, other: str, letters: int) -> None:
    assert check.distance(one, other) == check.distance(other, one) == letters


def lazies(method: Method) -> Iterator[Lazy[Any]]:
    for value in (method.build, method.official, method.timm, method.stage):
        found = inspect.getclosurevars(value).nonlocals.get("build") if inspect.isfunction(value) else value
        if isinstance(found, Lazy):
            yield found


@pytest.mark.parametrize("name", [name for name in method_ids() if name != "outside_mae"])
def test_every_lazy_reference_leads_somewhere(name: str) -> None:
    found = list(lazies(find_method(name)))
    assert found
    for reference in found:
        module, _, function = reference.place.partition(":")
        assert not function or callable(getattr(importlib.import_module(module), function)), reference.place


@pytest.mark.parametrize("name", ["croco", "conmim", "loca", "i2p_mae", "finetune", "finetune_points", "finetune_parts", "timm_encoder"])
def test_each_method_has_the_files_where_one_looks_for_them(name: str) -> None:
    folder = Path(protocols.__file__).parent / name
    files = {path.stem for path in folder.glob("*.py")}
    assert {"config", "network", "pretext"} <= files
    for wrong in ("encoder", "decoder", "pictures", "figures", "health", "timm_form", "timm_export"):
        assert wrong not in files
    assert ("diagnostics" in files) == (name in ("croco", "conmim", "loca", "i2p_mae", "finetune"))
    text = "".join(path.read_text() for path in folder.glob("diagnostics.py"))
    assert not re.search(r"import .*Pretext|\bpretext\b:", text)


def test_every_metric_of_the_methods_says_what_it_means() -> None:
    for name in method_ids():
        for key, info in find_method(name).metrics.items():
            assert isinstance(info, MetricInfo) and info.means, (name, key)
    assert croco.metrics["psnr_true_view"].unit == "dB" and croco.metrics["loss_true_view"].better == "lower"
    families = {key: info.family for key, info in croco.metrics.items() if info.family}
    assert {key: family.lower() for key, family in families.items()} == {key: key.split("_")[0] for key in families} and len(families) == 7
