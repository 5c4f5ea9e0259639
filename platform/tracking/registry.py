"""Registers an encoder in the MLflow model registry, in two forms: an exported graph that serves without Sightline (`mlflow_model`),
and the folder from which Sightline builds the module again (`open_encoder`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import torch

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.paths import DATABASE, check_writable, home, home_text, local_tracking_uri
from sightline.platform.core.printable import markdown
from sightline.platform.core.redaction import redact
from sightline.platform.core.scratch import scratch_folder
from sightline.platform.data.encoder_input import output_name
from sightline.platform.data.kinds import input_of
from sightline.platform.weights.format import Weights, digest, write_folder

from .client import connect, default_uri, end_run, experiment_of, origin, run_of
from .database import forget_stray, moved_location, sqlite_path
from .mlflow_model import output_shape, save_model
from .model_use import has_timm_form, use_of
from .models import CHECKPOINT, LOGGED, STEP
from .problems import Kind, Place, find_problem
from .promotion import CANDIDATE, MISSING, find_version, give_alias, holder, known_of
from .quiet import quiet_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

ARTIFACT = "encoder"
FORM, SERVES = "sightline.form", "2"
"""Tag of a version and of its model: the form of the graph. Those without it are older, and `mlflow.pyfunc` does not take them."""
DESCRIPTION = 5000
"""Characters of a description that a registry's database keeps."""
NOTE, VERSIONS = "mlflow.note.content", "mlflow.modelVersions"
"""Tags that MLflow's interface shows as the description and the versions of a logged model."""


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    alias: str
    """That was asked for."""
    aliased: bool
    """Whether it points at this version, and not at a newer one."""
    model_id: str

    @property
    def uri(self) -> str:
        """By its alias, which may move to another version."""
        return f"models:/{self.name}@{self.alias}"

    @property
    def version_uri(self) -> str:
        """By its number: always this version."""
        return f"models:/{self.name}/{self.version}"

    @property
    def address(self) -> str:
        """By its alias where that points at this version, else by its number."""
        return self.uri if self.aliased else self.version_uri


def register_encoder(
    encoder: torch.nn.Module,
    *,
    name: str,
    run_id: str,
    tracking_uri: str,
    tags: Mapping[str, str],
    about: str = "",
    timm: bool = False,
    saved: Path | None = None,
    step: int = 0,
    alias: str = CANDIDATE,
) -> Registered:
    """Register an encoder under `name`, and point `alias` at the new version.

    If run `run_id` has registered the same weights before, the tags of that version are set again, and the alias unless it names a newer
    version. The exported graph
    takes float32 RGB in [0, 1], batch x 3 x `encoder.image_size`, and returns what the encoder's `forward` returns: patch tokens
    (batch x patches x dim), or what its attribute `output` names, such as the logits of a classifier. It is compared with `encoder` for
    three batch sizes first. `about`: Markdown about the encoder; with how it is used it becomes the version's description, the logged
    model's, and README.md. `timm`: whether `sightline export` can write it for timm.
    `saved`: the folder form of the same encoder (`weights.write_folder`), stored as `encoder/`. `step`: of its checkpoint. Raises
    `SightlineError` where the encoder cannot be exported, or the exported graph disagrees.
    """
    quiet_mlflow()  # the tracking thread may be importing MLflow
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.exceptions import MlflowException

    given, output = input_of(encoder), output_name(encoder)
    shape = output_shape(encoder, given)

    def card(uri: str, serves: bool = True) -> tuple[str, str]:
        return about.strip(), use_of(uri, tracking_uri, encoder, given, shape, serves=serves, timm=timm)

    sha256 = digest(encoder.state_dict())
    tags = {**{key: str(value) for key, value in tags.items()}, "sightline.sha256": sha256}
    with _tracking(tracking_uri), scratch_folder("register") as scratch:
        client = connect(tracking_uri)
        for filed in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            if filed.tags.get("sightline.sha256") == sha256:
                for key, value in tags.items():
                    client.set_model_version_tag(name, filed.version, key, value)
                serves = filed.tags.get(FORM) == SERVES
                client.update_model_version(name, filed.version, _described(*card(f"models:/{name}/{filed.version}", serves)))
                return _registered(client, name, filed, alias)
        run = client.get_run(run_id)
        tags[FORM] = SERVES
        logged = _begun(client, run, sha256) or client.create_logged_model(
            run.info.experiment_id,
            name=ARTIFACT,
            source_run_id=run_id,
            tags={**origin(), **tags},
            params=dict(run.data.params),
            model_type="encoder",
        )
        of_model = card(f"models:/{logged.model_id}")
        if logged.status != LoggedModelStatus.READY:
            try:
                folder = scratch / "model"
                save_model(encoder, given, output, folder, logged, run_id)
                (folder / "README.md").write_text("\n\n".join(of_model).strip() + "\n")
                if saved is not None:
                    shutil.copytree(saved, folder / ARTIFACT)
                client.log_model_artifacts(logged.model_id, str(folder))
            except BaseException:
                with suppress(Exception):  # of a server that went away; the next registration goes on with this model
                    client.finalize_logged_model(logged.model_id, "FAILED")
                raise
            client.finalize_logged_model(logged.model_id, "READY")
        client.set_logged_model_tags(logged.model_id, {NOTE: _described(*of_model)})
        if not run.outputs or logged.model_id not in {each.model_id for each in run.outputs.model_outputs}:
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
        if not client.search_registered_models(f"name = '{name}'"):
            with suppress(MlflowException):  # another run may have created it meanwhile
                client.create_registered_model(name, description=OF_MODEL.format(name=name))
        filed = client.create_model_version(name, f"models:/{logged.model_id}", run_id=run_id, tags=tags, model_id=logged.model_id)
        client.update_model_version(name, filed.version, _described(*card(f"models:/{name}/{filed.version}")))
        return _registered(client, name, filed, alias)


OF_MODEL = """Networks trained by Sightline, one version for each run that was registered under this name. The description of a version is
its card: the verdict, what was measured, data and licences, and how to load it.

`models:/{name}@candidate` is the newest; `models:/{name}@champion` is the one that was chosen: `sightline promote {name} --to champion`
compares the two on the same data. The tags `sightline.promoted` and `sightline.replaced` of a version say when and why."""
"""The description of a registered model."""


def _described(about: str, use: str) -> str:
    """Both as a description. Where they are too long for one, whole paragraphs of `about` are left to README.md."""
    more = "The rest stands in README.md, beside the model's other artifacts."
    if len(about) + len(use) + 2 > DESCRIPTION:
        room = max(DESCRIPTION - len(use) - len(more) - 4, 0)
        about = about[: max(about.rfind("\n\n", 0, room), 0)] + f"\n\n{more}"
    return f"{about}\n\n{use}".strip()[:DESCRIPTION]


def _begun(client: MlflowClient, run: MlflowRun, sha256: str) -> LoggedModel | None:
    """The model of these weights that a registration left unfinished when it was killed or failed; None where there is none.

    One of other weights that was left pending is ended: nothing would end it later.
    """
    from mlflow.entities import LoggedModelStatus

    of_run = f"source_run_id = '{run.info.run_id}'"
    unfinished = None
    for model in client.search_logged_models([run.info.experiment_id], filter_string=of_run):
        if model.tags.get("sightline.sha256") == sha256 and model.tags.get(FORM) == SERVES:
            if not client.search_model_versions(f"source_path = 'models:/{model.model_id}'"):
                unfinished = unfinished or model
        elif model.status == LoggedModelStatus.PENDING:
            client.finalize_logged_model(model.model_id, "FAILED")
    return unfinished


def _registered(client: MlflowClient, name: str, filed: ModelVersion, alias: str) -> Registered:
    """The version, named on its logged model, with the alias pointed at it, unless that points at a newer one."""
    from mlflow.exceptions import MlflowException

    version, now = find_version(client, f"{name}/{filed.version}", alias), holder(client, name, alias)
    aliased = now is None or int(now.number) <= int(version.number)
    if aliased:
        give_alias(client, version, alias, f"registered by run {filed.tags.get('sightline.run', version.run_id)}")
    model_id = str(filed.source).removeprefix("models:/")  # the SQL registry leaves `filed.model_id` empty
    with suppress(MlflowException):  # of a logged model that somebody deleted
        versions = json.loads(client.get_logged_model(model_id).tags.get(VERSIONS, "[]"))
        if (this := {"name": name, "version": str(filed.version)}) not in versions:
            client.set_logged_model_tags(model_id, {VERSIONS: json.dumps([*versions, this])})
    return Registered(name, str(filed.version), alias, aliased, model_id)


def register_import(weights: Weights, name: str) -> Registered:
    """Register the encoder of imported weights, with an MLflow run of its own, in `$MLFLOW_TRACKING_URI` or locally."""
    uri = default_uri()
    if problem := find_problem(Place(uri, "sightline")):
        raise problem.error()
    check_writable(home())
    client = connect(uri)
    encoder = weights.encoder()
    tags = {"sightline.method": weights.method, "sightline.source": weights.source}
    key = f"import {name} {weights.sha256}"
    run_id = run_of(client, experiment_of(client, "sightline", uri), f"import-{name}", key, {**tags, **origin()})
    params = client.get_run(run_id).data.params
    sections = {section: values for section, values in weights.sections.items() if isinstance(values, dict)}
    for section, values in sections.items():
        for key, value in values.items():
            if f"{section}.{key}" not in params:
                client.log_param(run_id, f"{section}.{key}", value)
    with scratch_folder("import") as scratch:
        state = encoder.state_dict()
        saved = write_folder(Weights.of(weights.method, weights.sections, "encoder", state, weights.source, weights.place), scratch)
        about = markdown(f"The {weights.method} encoder of the published file {weights.source}.")
        filed = register_encoder(
            encoder,
            name=name,
            run_id=run_id,
            tracking_uri=uri,
            tags=tags,
            about=about,
            timm=has_timm_form(weights.method, weights.config, state),
            saved=saved,
        )
    end_run(client, run_id)
    return filed


@dataclass(frozen=True)
class LoggedCheckpoint:
    """A checkpoint of a run, for which a LoggedModel without files stands."""

    mlflow_run_id: str
    step: int
    run_folder: Path
    """Where the run lay when it was logged."""


def checkpoint_of(uri: str, tracking_uri: str | None = None) -> LoggedCheckpoint | None:
    """The checkpoint for which `models:/m-...` stands; None of any other address. Raises as `fetch_encoder` does."""
    model_id = uri.removeprefix("models:/")
    if not LOGGED.fullmatch(model_id):
        return None
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # `fetch_encoder` says what is wrong
        model = _to_read(uri, tracking_uri)[0].get_logged_model(model_id)
        if CHECKPOINT in model.tags and model.source_run_id:
            return LoggedCheckpoint(model.source_run_id, int(model.tags[STEP]), Path(model.tags[CHECKPOINT]).parents[1])
    return None


def _to_read(uri: str, tracking_uri: str | None) -> tuple[MlflowClient, str]:
    """(a client of the registry that may hold `uri`, its address). Raises `CallError` where there is none."""
    place = tracking_uri or default_uri()
    if place == local_tracking_uri() and not (home() / DATABASE).is_file():
        raise CallError(f"no registry holds {uri}: there is none under {home_text()}", "set MLFLOW_TRACKING_URI, or $SIGHTLINE_HOME")
    if (path := sqlite_path(place)) is not None and not path.is_file():
        raise CallError(f"no registry holds {uri}: there is no {path}", "see the address of the database")
    problem = find_problem(Place(place, "sightline"), to_write=False)
    if problem is not None and problem.kind is not Kind.EXPERIMENT_DELETED:  # of that the models can be read
        raise SightlineError(f"the registry cannot be read: {problem.what}", problem.hint or "check its address and your access")
    return connect(place), place


@contextmanager
def fetch_encoder(uri: str, tracking_uri: str | None = None) -> Iterator[tuple[Path, str]]:
    """(a temporary folder with the folder form of a registered encoder, the URI that always means this version).

    `uri`: `models:/NAME@alias`, `models:/NAME/3`, `models:/NAME` (the newest), or `models:/m-...`, the id of a logged model. Raises
    `CallError` where there is no such version, naming the nearest model, and `SightlineError` where Sightline did not register it.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]{1,9}))?", uri)
    if not match:
        raise CallError(f"{uri!r} is no registry address", "write models:/NAME@alias, models:/NAME/3 or models:/NAME")
    name, alias, number = match[1], match[2], match[3]
    client, place = _to_read(uri, tracking_uri)
    path = sqlite_path(place)
    import mlflow
    from mlflow.exceptions import MlflowException

    with _tracking(place):
        try:
            location, pinned = _location(client, name, alias, number)
            location = location and moved_location(location, path)
        except MlflowException as error:
            if error.error_code not in MISSING:
                raise SightlineError(
                    f"the registry {redact(place)} does not answer: {_line(error)}", "check its address and your access"
                ) from None
            location, pinned = None, uri
        if location is None:
            raise CallError(
                f"no {uri} in the registry {redact(place)}: {known_of(client, name)}",
                "see `mlflow ui` for its models, versions and aliases",
            )
        if location.startswith("file:") and not Path(unquote(urlsplit(location).path)).exists():
            raise SightlineError(
                f"{pinned} lies no more where the registry says: no {unquote(urlsplit(location).path)}",
                "put the folder back there; a home moves with its mlflow.db and mlflow-artifacts together (docs/tracking.md)",
            )
        if ARTIFACT not in {Path(file.path).name for file in mlflow.artifacts.list_artifacts(artifact_uri=location) if file.is_dir}:
            raise SightlineError(
                f"{pinned} was not filed by Sightline: it holds no {ARTIFACT}/ with settings and weights",
                "name a model that a Sightline run registered, or import its weights: sightline import FILE --method METHOD --out FILE",
            )
    with scratch_folder("registered") as scratch:
        with _tracking(place):
            folder = mlflow.artifacts.download_artifacts(artifact_uri=f"{location}/{ARTIFACT}", dst_path=str(scratch))
        yield Path(folder), pinned


def _location(client: MlflowClient, name: str, alias: str | None, number: str | None) -> tuple[str | None, str]:
    """(where a version or a logged model lies, its URI by number or id); None where no version has this name. Raises what MLflow raises."""
    if LOGGED.fullmatch(name) and not alias and not number:
        return str(client.get_logged_model(name).artifact_location), f"models:/{name}"
    if alias:
        number = str(client.get_model_version_by_alias(name, alias).version)
    elif number is None:
        number = max((str(v.version) for v in client.search_model_versions(f"name = '{name}'")), key=int, default=None)
    return (str(client.get_model_version_download_uri(name, number)) if number else None), f"models:/{name}/{number}"


def _line(error: Exception) -> str:
    return redact((str(error).splitlines() or [type(error).__name__])[0][:200])


@contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """Set MLflow's global tracking URI, through which its SQL registry looks up `models:/` sources, and restore it afterwards."""
    import mlflow

    # MLflow copies its URIs into the environment, and reads them from there where they are unset.
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        forget_stray(uri)
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # None unsets it
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
