"""Versions of a registered model and who holds which alias: found, moved, and noted in tags of the versions."""

from __future__ import annotations

import getpass
import re
import tempfile
from collections.abc import Iterator, Mapping
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
CANDIDATE, CHAMPION, CHALLENGER = "candidate", "champion", "challenger"
"""Aliases of the newest version, and of the winners of sweeps."""
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for a model, version or alias that is not there."""
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
    found = _get(client, name, int(number)) if number else holder(client, name, alias)
    if found is None:
        wanted = f"{name}/{number}" if number else f"{name}@{alias}"
        raise CallError(f"no {wanted} in the registry: {known_of(client, name)}", "name a version that is there: NAME/3 or NAME@alias")
    return found


def holder(client: MlflowClient, name: str, alias: str) -> Version | None:
    """The version that holds an alias now; None where it is not set."""
    return _get(client, name, alias)


def _get(client: MlflowClient, name: str, which: int | str) -> Version | None:
    """The version of this number or alias; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        ask = client.get_model_version if isinstance(which, int) else client.get_model_version_by_alias
        found = ask(name, str(which))
    except MlflowException as error:
        if error.error_code in MISSING:
            return None
        raise
    return Version(name, str(found.version), found.run_id or None, found.tags.get("sightline.sha256", ""))


def known_of(client: MlflowClient, name: str) -> str:
    """What the registry has under this name, or a similar one."""
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        names = [model.name for model in client.search_registered_models(max_results=1000)]
        return nearest(name, names) if names else "it is empty"
    versions = ", ".join(sorted((str(v.version) for v in client.search_model_versions(f"name = '{name}'")), key=int))
    return f"{f'versions {versions}' if versions else 'no versions'}; aliases {', '.join(aliases) or 'none'}"


def give_alias(client: MlflowClient, version: Version, alias: str, why: str) -> None:
    """Point the alias at the version, and note in tags of the version and of the one that had it before: when, who and why.

    The alias first, so that a kill leaves no note of what did not happen. Given once more, a missing note of the version is written.
    """
    before = holder(client, version.name, alias)
    if before != version:
        client.set_registered_model_alias(version.name, alias, version.number)
    elif _noted(client, version, PROMOTED, alias) > _noted(client, version, REPLACED, alias):
        return
    by = f"{datetime.now(UTC).isoformat(timespec='seconds')} {alias} by {_user()}"
    if before is None:
        _note(client, version, PROMOTED, f"{by}: {why}")
    elif before == version:
        _note(client, version, PROMOTED, f"{by}, who found it so: {why}")
    else:
        _note(client, before, REPLACED, f"{by}, now {version}: {why}")
        _note(client, version, PROMOTED, f"{by} in the place of {before}: {why}")


def give_winner_alias(client: MlflowClient, version: Version, tags: Mapping[str, str], why: str) -> str | None:
    """Give the winner of a sweep `champion` where nobody has it, else `challenger`: who has `champion` was a person's choice.

    It is given once: the same `tags` on the version say that it was. Returns the alias that it has now. Raises what MLflow raises.
    """
    there = client.get_model_version(version.name, version.number).tags
    if any(there.get(key) != value for key, value in tags.items()):
        champion = holder(client, version.name, CHAMPION)
        give_alias(client, version, CHAMPION if champion in (None, version) else CHALLENGER, why)
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.number, key, value)
    return next((alias for alias in (CHAMPION, CHALLENGER) if holder(client, version.name, alias) == version), None)


def _tag(client: MlflowClient, version: Version, tag: str) -> str:
    return str(client.get_model_version(version.name, version.number).tags.get(tag, ""))


def _noted(client: MlflowClient, version: Version, tag: str, alias: str) -> str:
    """When the newest line of this alias was written; empty where there is none."""
    found = re.search(rf"^(\S+) {re.escape(alias)} by ", _tag(client, version, tag), re.M)
    return found[1] if found else ""


def _note(client: MlflowClient, version: Version, tag: str, line: str) -> None:
    earlier = _tag(client, version, tag)
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
