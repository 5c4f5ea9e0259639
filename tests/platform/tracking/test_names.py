"""Names that MLflow would refuse after the training are refused before it, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from sightline.methods.errors import CallError
from sightline.platform.config.schema import LogConfig
from sightline.platform.tracking.names import check_model_name, check_names


@pytest.mark.parametrize(
    ("log", "told"),
    [
        *(({"register": name}, "log.register") for name in ("a/b", "a:b", "a@b", "it's", 'a"b', "", " a", "a\n", "..", "x" * 257)),
        *(({"experiment": name}, "log.experiment") for name in ("", " ", "x" * 501)),
        *(({"tags": {key: "x"}}, "log.tags") for key in ("", "a,b", "a=b", "../a", "/a", "a//b", "x" * 251)),
    ],
)
def test_a_name_that_mlflow_refuses(log: dict[str, Any], told: str) -> None:
    with pytest.raises(CallError, match=told):
        check_names(LogConfig(**log))


def test_a_name_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_experiment_name, _validate_model_name, _validate_tag_name

    models, experiments = ["croco-encoder", "Ünï 2", "a.b_c", "x" * 256], ["sightline", "/Users/ann/a: b", "x" * 500]
    tags = {"owner": "ann", "a b": "x", "team/x": "", "mlflow.note.content": "*x*", "a:b": "", ".a": ""}
    for name in models:
        check_model_name(name, "--register")
        _validate_model_name(name)
    for name in experiments:
        check_names(LogConfig(experiment=name, tags=tags))
        _validate_experiment_name(name)
    for key in tags:
        _validate_tag_name(key)
