"""Before a run starts, its data must have the columns and the sizes that the method's views use."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from toy import TOY

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.experiments import preflight
from sightline.platform.experiments.preflight import check


class _Views:
    """Of a method that the toy data (72 x 80 px) may or may not suit."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__ |= attributes

    def __call__(self, sample: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        raise NotImplementedError


def _check(toy_data: dict[str, str], monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    method = dataclasses.replace(find_method("croco"), views=lambda settings: _Views(**attributes), image_shape=lambda settings: (96, 96))
    monkeypatch.setattr(preflight, "find_method", lambda name: method)
    check(config.load("toy", toy_data, settings=TOY))


@pytest.mark.usefixtures("home")
def test_images_may_be_smaller_than_the_model_where_the_views_enlarge(toy_data: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match=r"no image of data\.train can give a crop of 96 x 96"):
        _check(toy_data, monkeypatch)
    _check(toy_data, monkeypatch, smallest=(32, 32))
    with pytest.raises(CallError, match="a crop of 80 x 80"):
        _check(toy_data, monkeypatch, smallest=(80, 80))


@pytest.mark.usefixtures("home")
def test_a_column_that_the_method_needs_must_be_there(toy_data: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match=r"data\.train has no column 'label', which croco needs; it has id, scene, image1"):
        _check(toy_data, monkeypatch, smallest=(32, 32), columns=("label",))
