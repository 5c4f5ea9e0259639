"""Registers an encoder in the MLflow model registry, in two forms: an exported graph that loads without Sightline and without unpickling,
and the folder from which Sightline builds the module again (`open_encoder`).

Loading with `MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false` needs torch 2.10 or newer (MLflow checks every record of the archive).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import torch

from sightline.methods.contract import Predictor
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import nearest
from sightline.platform.core.paths import DATABASE, check_writable, home, home_text, local_tracking_uri
from sightline.platform.core.printable import markdown
from sightline.platform.core.redaction import redact
from sightline.platform.core.scratch import scratch_folder
from sightline.platform.data.encoder_input import EncoderInput, class_names, output_name
from sightline.platform.data.kinds import input_of
from sightline.platform.weights.format import Weights, digest, write_folder

from .client import connect, default_uri, end_run, experiment_of, run_of
from .database import forget_stray, moved_location, sqlite_path
from .problems import Kind, Place, find_problem

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

TOLERANCE = 1e-5
"""Largest allowed difference between the features of the encoder and those of its exported graph."""
ARTIFACT = "encoder"
CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases of the winners of sweeps."""


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
    usage: str = "",
    saved: Path | None = None,
    alias: str = "candidate",
) -> Registered:
    """Register an encoder under `name`, and point `alias` at the new version.

    If run `run_id` has registered the same weights before, the tags of that version are set again, and the alias unless it names a newer
    version. The exported graph
    takes float32 RGB in [0, 1], batch x 3 x `encoder.image_size`, and returns what the encoder's `forward` returns: patch tokens
    (batch x patches x dim), or what its attribute `output` names, such as the logits of a classifier. It is compared with `encoder` for
    three batch sizes first. `usage`: a plain text about the encoder; with a loading example
    it becomes the version's description and README.md.
    `saved`: the folder form of the same encoder (`weights.write_folder`), stored as `encoder/`. Raises `SightlineError` where the encoder
    cannot be exported, or the exported graph disagrees.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.exceptions import MlflowException

    given = input_of(encoder)
    output = output_name(encoder)
    classes = _classes_example(encoder, output) if isinstance(encoder, Predictor) else ""
    text = f"{markdown(usage.strip())}\n\n{_example(name, alias, given, output, tracking_uri, classes)}".strip() + "\n"
    sha256 = digest(encoder.state_dict())
    tags = {**{key: str(value) for key, value in tags.items()}, "sightline.sha256": sha256}
    with _tracking(tracking_uri), scratch_folder("register") as scratch:
        client = connect(tracking_uri)
        for filed in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            if filed.tags.get("sightline.sha256") == sha256:
                for key, value in tags.items():
                    client.set_model_version_tag(name, filed.version, key, value)
                client.update_model_version(name, filed.version, text)
                return _registered(client, name, filed, alias)
        run = client.get_run(run_id)
        logged = _begun(client, run, sha256) or client.create_logged_model(
            run.info.experiment_id, name=ARTIFACT, source_run_id=run_id, tags=tags, params=dict(run.data.params), model_type="encoder"
        )
        if logged.status != LoggedModelStatus.READY:
            try:
                folder = scratch / "model"
                _save(encoder, given, output, folder, logged, run_id)
                (folder / "README.md").write_text(text)
                if saved is not None:
                    shutil.copytree(saved, folder / ARTIFACT)
                client.log_model_artifacts(logged.model_id, str(folder))
            except BaseException:
                with suppress(Exception):  # of a server that went away; the next registration goes on with this model
                    client.finalize_logged_model(logged.model_id, "FAILED")
                raise
            client.finalize_logged_model(logged.model_id, "READY")
        if not run.outputs or logged.model_id not in {each.model_id for each in run.outputs.model_outputs}:
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        if not client.search_registered_models(f"name = '{name}'"):
            with suppress(MlflowException):  # another run may have created it meanwhile
                client.create_registered_model(name)
        filed = client.create_model_version(
            name, f"models:/{logged.model_id}", run_id=run_id, tags=tags, description=text, model_id=logged.model_id
        )
        return _registered(client, name, filed, alias)


def _begun(client: MlflowClient, run: MlflowRun, sha256: str) -> LoggedModel | None:
    """The model of these weights that a registration left unfinished when it was killed or failed; None where there is none.

    One of other weights that was left pending is ended: nothing would end it later.
    """
    from mlflow.entities import LoggedModelStatus

    of_run = f"source_run_id = '{run.info.run_id}'"
    unfinished = None
    for model in client.search_logged_models([run.info.experiment_id], filter_string=of_run):
        if model.tags.get("sightline.sha256") == sha256:
            if not client.search_model_versions(f"source_path = 'models:/{model.model_id}'"):
                unfinished = unfinished or model
        elif model.status == LoggedModelStatus.PENDING:
            client.finalize_logged_model(model.model_id, "FAILED")
    return unfinished


def _registered(client: MlflowClient, name: str, filed: ModelVersion, alias: str) -> Registered:
    """The version, with the alias pointed at it, unless that points at a newer one."""
    now = alias_version(client, name, alias)
    aliased = now is None or now <= int(filed.version)
    if aliased and now != int(filed.version):
        client.set_registered_model_alias(name, alias, str(filed.version))
    model_id = str(filed.source).removeprefix("models:/")  # the SQL registry leaves `filed.model_id` empty
    return Registered(name, str(filed.version), alias, aliased, model_id)


def alias_version(client: MlflowClient, name: str, alias: str) -> int | None:
    """The version that an alias of a registered model points at; None where it is not set."""
    aliases = client.get_registered_model(name).aliases
    return int(aliases[alias]) if alias in aliases else None


def promote(version_uri: str, tracking_uri: str, tags: Mapping[str, str]) -> str:
    """Give the winner of a sweep its alias: `champion` where none is set, else `challenger`: who has `champion` was a person's choice.

    It is given once: the same `tags` on the version say that it was. Returns the address to tell. Raises what MLflow raises.
    """
    name, _, number = version_uri.removeprefix("models:/").rpartition("/")
    client = connect(tracking_uri)
    with _tracking(tracking_uri):
        there = client.get_model_version(name, number).tags
        if any(there.get(key) != value for key, value in tags.items()):
            champion = alias_version(client, name, CHAMPION)
            client.set_registered_model_alias(name, CHAMPION if champion in (None, int(number)) else CHALLENGER, number)
            for key, value in tags.items():
                client.set_model_version_tag(name, number, key, value)
        held = [alias for alias in (CHAMPION, CHALLENGER) if alias_version(client, name, alias) == int(number)]
    return f"models:/{name}@{held[0]}" if held else version_uri


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
    run_id = run_of(client, experiment_of(client, "sightline", uri), f"import-{name}", key, {**tags, "mlflow.source.name": "sightline"})
    params = client.get_run(run_id).data.params
    sections = {section: values for section, values in weights.sections.items() if isinstance(values, dict)}
    for section, values in sections.items():
        for key, value in values.items():
            if f"{section}.{key}" not in params:
                client.log_param(run_id, f"{section}.{key}", value)
    with scratch_folder("import") as scratch:
        state = encoder.state_dict()
        saved = write_folder(Weights.of(weights.method, weights.sections, "encoder", state, weights.source, weights.place), scratch)
        usage = f"The {weights.method} encoder of the published file {weights.source}."
        filed = register_encoder(
            encoder,
            name=name,
            run_id=run_id,
            tracking_uri=uri,
            tags=tags,
            usage=usage,
            saved=saved,
        )
    end_run(client, run_id)
    return filed


@contextmanager
def fetch_encoder(uri: str, tracking_uri: str | None = None) -> Iterator[tuple[Path, str]]:
    """(a temporary folder with the folder form of a registered encoder, the URI that always means this version).

    `uri`: `models:/NAME@alias`, `models:/NAME/3` or `models:/NAME` (the newest). Raises `CallError` where there is no such version, naming
    the nearest model, and `SightlineError` where Sightline did not register it.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]{1,9}))?", uri)
    if not match:
        raise CallError(f"{uri!r} is no registry address", "write models:/NAME@alias, models:/NAME/3 or models:/NAME")
    name, alias, number = match[1], match[2], match[3]
    place = tracking_uri or default_uri()
    if place == local_tracking_uri() and not (home() / DATABASE).is_file():
        raise CallError(f"no registry holds {uri}: there is none under {home_text()}", "set MLFLOW_TRACKING_URI, or $SIGHTLINE_HOME")
    if (path := sqlite_path(place)) is not None and not path.is_file():
        raise CallError(f"no registry holds {uri}: there is no {path}", "see the address of the database")
    problem = find_problem(Place(place, "sightline"), to_write=False)
    if problem is not None and problem.kind is not Kind.EXPERIMENT_DELETED:  # of that the models can be read
        raise SightlineError(f"the registry cannot be read: {problem.what}", problem.hint or "check its address and your access")
    client = connect(place)
    import mlflow
    from mlflow.exceptions import MlflowException

    with _tracking(place):
        try:
            if alias:
                number = client.get_model_version_by_alias(name, alias).version
            elif number is None:
                number = max((int(v.version) for v in client.search_model_versions(f"name = '{name}'")), default=None)
            location = client.get_model_version_download_uri(name, str(number)) if number is not None else None
            location = location and moved_location(location, path)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise SightlineError(
                    f"the registry {redact(place)} does not answer: {_line(error)}", "check its address and your access"
                ) from None
            location = None
        if location is None:
            raise CallError(
                f"no {uri} in the registry {redact(place)}: {_near(client, name)}", "see `mlflow ui` for its models, versions and aliases"
            )
        pinned = f"models:/{name}/{number}"
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


def _near(client: MlflowClient, name: str) -> str:
    """What there is under this name or a similar one."""
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        return nearest(name, list(models)) if models else "it is empty"
    versions = ", ".join(sorted((str(v.version) for v in client.search_model_versions(f"name = '{name}'")), key=int))
    return f"{f'versions {versions}' if versions else 'no versions'}; aliases {', '.join(models[name].aliases) or 'none'}"


def _line(error: Exception) -> str:
    return redact((str(error).splitlines() or [type(error).__name__])[0][:200])


def _save(encoder: torch.nn.Module, given: EncoderInput, output: str, folder: Path, logged: LoggedModel, run_id: str) -> None:
    """The MLflow model folder: exported graph, weights, signature, input example, requirements (without Sightline)."""
    import mlflow.pytorch
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    with _on_cpu(encoder), torch.no_grad():
        shape = tuple(encoder(given.example(2)).shape[1:])
    float32 = np.dtype(np.float32)
    known = {"class_names": list(class_names(encoder))} if isinstance(encoder, Predictor) else None
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, *given.shape), given.name)]), outputs=Schema([TensorSpec(float32, (-1, *shape), output)])
    )
    model = Model(
        artifact_path=logged.artifact_location, run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id, metadata=known
    )
    with _on_cpu(encoder):
        try:
            mlflow.pytorch.save_model(
                encoder,
                str(folder),
                mlflow_model=model,
                signature=signature,
                input_example=given.example(2).numpy(),  # with an example of one, the batch size would be fixed at one
                pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "numpy")],  # inferring them takes seconds
                serialization_format="pt2",
            )
        except torch._dynamo.exc.UserError as error:
            raise SightlineError(f"the encoder cannot be exported as a graph: {error}", "its forward must not depend on values") from error
        _check(encoder, folder / "data" / "model.pt2", given)


def _check(encoder: torch.nn.Module, path: Path, given: EncoderInput) -> None:
    """Compare the features of the exported graph with the encoder's."""
    exported = torch.export.load(path).module()
    for batch in (1, 3, 7):
        example = given.example(batch)
        with torch.no_grad():
            difference = float((exported(example) - encoder(example)).abs().max())
        if not difference <= TOLERANCE:
            raise SightlineError(
                f"the exported encoder differs from the encoder by {difference:.1e} for a batch of {batch}; {TOLERANCE:g} is allowed",
                "this is a fault of Sightline or of the method's encoder; the run and its checkpoints are whole",
            )


@contextmanager
def _on_cpu(encoder: torch.nn.Module) -> Iterator[None]:
    """The encoder on the CPU in evaluation mode: an exported graph stays on the device on which it is traced."""
    training, device = encoder.training, next(encoder.parameters()).device
    try:
        encoder.cpu().eval()
        yield
    finally:
        encoder.to(device).train(training)


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


def _classes_example(predictor: Predictor, output: str) -> str:
    """Lines that give its classes their names."""
    names = f"\nclass_names = {list(class_names(predictor))!r}  # in the order of the {output}"
    if predictor.task != "classification":
        return names
    return f"{names}\n[class_names[index] for index in {output}.argmax(dim=1)]"


def _example(name: str, alias: str, given: EncoderInput, output: str, tracking_uri: str, more: str) -> str:
    place = tracking_uri if redact(tracking_uri) == tracking_uri else "YOUR_TRACKING_URI"  # an address may carry a password
    return f"""## Use

```python
import mlflow, torch

mlflow.set_tracking_uri({json.dumps(place, ensure_ascii=False)})
encoder = mlflow.pytorch.load_model("models:/{name}@{alias}")  # Sightline is not needed
{given.name} = torch.rand(4, {", ".join(map(str, given.shape))})  # {given.words}
{output} = encoder({given.name}){f"  # 4 x {given.tokens} x dim" if output == "tokens" else ""}{more}
```

Do not call `.eval()` on it: it is a fixed graph, in evaluation mode already."""
