"""Names that MLflow takes, checked before training: MLflow itself refuses the others after it."""

from __future__ import annotations

import re
from posixpath import normpath

from sightline.methods.errors import CallError
from sightline.platform.config.schema import LogConfig

LONGEST_EXPERIMENT, LONGEST_KEY, LONGEST_MODEL = 500, 250, 256
"""Letters that MLflow's databases hold."""
MODEL = re.compile(r"[\w.-]+( +[\w.-]+)*")
"""Of a registered model. MLflow refuses `/` and `:`; `@`, quotes and others cannot stand in `models:/NAME@alias` or in a search."""
ALIAS = re.compile(r"[\w-]+", re.ASCII)
TAG = re.compile(r"[/\w.\- :]+")


def check_names(log: LogConfig) -> None:
    """Raise `CallError` where MLflow would refuse the name of the experiment or of the model, or a tag."""
    if not log.experiment.strip() or len(log.experiment) > LONGEST_EXPERIMENT:
        raise CallError(f"log.experiment = {log.experiment[:40]!r} is no name", f"use 1 to {LONGEST_EXPERIMENT} letters")
    if log.register_as is not None:
        check_model_name(log.register_as, "log.register")
    for key in log.tags:
        if not TAG.fullmatch(key) or len(key) > LONGEST_KEY or normpath(key) != key or key.startswith(("..", "/")):
            raise CallError(f"log.tags: MLflow takes no tag named {key[:40]!r}", "use letters, digits, spaces, '_', '-', '.', ':' and '/'")


def check_alias(alias: str, where: str) -> None:
    """Raise `CallError` where MLflow would refuse the alias of a version. `where`: the option that names it."""
    if not ALIAS.fullmatch(alias) or len(alias) > LONGEST_MODEL - 1 or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        hint = "use letters, digits, '_' and '-', for example champion; MLflow keeps 'latest' and 'v1' for itself"
        raise CallError(f"{where} = {alias[:40]!r} is no alias", hint)


def check_model_name(name: str, where: str) -> None:
    """`where`: the setting or option that names it."""
    if not MODEL.fullmatch(name) or len(name) > LONGEST_MODEL or set(name) == {"."}:
        hint = f"use 1 to {LONGEST_MODEL} letters, digits, '_', '-', '.', and spaces between them"
        raise CallError(f"{where} = {name[:40]!r} is no name of a registered model", hint)
