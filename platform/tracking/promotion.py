"""Versions of a registered model and who holds which alias: found, moved, and noted in tags of the versions."""

from __future__ import annotations

import getpass
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.methods.errors import CallError
from sightline.methods.settings import nearest
from sightline.platform.core.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROMOTED, REPLACED = "sightline.promoted", "sightline.replaced"
"""Tags of a version: a line for each time that it got an alias, or lost it to another version; the newest first."""
EVALUATED = "sightline.evaluated"
"""Tag of an MLflow run of `sightline evaluate`: the SHA-256 of the encoder that it measured."""
LONGEST = 5000
"""Letters of a tag of a version."""


@dataclass(frozen=True)
class Version:
    """Of a registered model."""

    name: str
    number: str
    run_id: str | None
    """Of the MLflow run that made it."""
    sha256: str
    """Of its encoder; empty where Sightline did not register it."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"version {self.number}"


def find_version(client: MlflowClient, reference: str, alias: str) -> Version:
    """`NAME/3`, `NAME@alias`, or `NAME`: the version that `alias` names; `models:/` may stand before it. Raises `CallError`."""
    match = re.fullmatch(r"(?:models:/)?([^/@]+)(?:@([^/@]+)|/([0-9]{1,9}))?", reference)
    if not match:
        raise CallError(f"{reference!r} names no version of a registered model", "write NAME, NAME/3 or NAME@alias")
    name, number, alias = match[1], match[3], match[2] or alias
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        raise CallError(f"there is no registered model {name!r}: {nearest(name, list(models)) if models else 'the registry is empty'}")
    versions = {str(one.version): one for one in client.search_model_versions(f"name = '{name}'")}
    number = number or (str(models[name].aliases[alias]) if alias in models[name].aliases else None)
    if number not in versions:
        known = f"versions {', '.join(sorted(versions, key=int)) or 'none'}; aliases {', '.join(models[name].aliases) or 'none'}"
        raise CallError(f"{name} has no {f'version {number}' if number else f'alias {alias!r}'}: {known}", "name one: NAME/3 or NAME@alias")
    found = versions[number]
    return Version(name, number, found.run_id or None, found.tags.get("sightline.sha256", ""))


def holder(client: MlflowClient, name: str, alias: str) -> Version | None:
    """The version that holds an alias now."""
    number = client.get_registered_model(name).aliases.get(alias)
    return find_version(client, f"{name}/{number}", alias) if number is not None else None


def give_alias(client: MlflowClient, version: Version, alias: str, before: Version | None, why: str) -> None:
    """Point the alias at the version, and note it in tags of the version and of the one that had it `before`."""
    client.set_registered_model_alias(version.name, alias, version.number)
    when, who = datetime.now(UTC).isoformat(timespec="seconds"), _user()
    place = f" in the place of {before}" if before else ""
    _note(client, version, PROMOTED, f"{when} {alias} by {who}{place}: {why}")
    if before:
        _note(client, before, REPLACED, f"{when} {alias} by {who}, now {version}: {why}")


def _note(client: MlflowClient, version: Version, tag: str, line: str) -> None:
    earlier = client.get_model_version(version.name, version.number).tags.get(tag, "")
    client.set_model_version_tag(version.name, version.number, tag, redact(f"{line}\n{earlier}".strip())[:LONGEST])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container without users
        return "somebody"


def files_of(client: MlflowClient, version: Version, name: str) -> Iterator[Path]:
    """Copies of the artifact `name` of the MLflow run that made the version, and of those that evaluated it, the newest first."""
    runs = [version.run_id] if version.run_id else []
    if version.sha256:
        experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=1000)]
        evaluated = client.search_runs(experiments, f"tags.`{EVALUATED}` = '{version.sha256}'", max_results=20)
        runs = [*(run.info.run_id for run in evaluated), *runs]
    for run_id in runs:
        if any(item.path == name for item in client.list_artifacts(run_id)):
            with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
                yield Path(client.download_artifacts(run_id, name, folder))
