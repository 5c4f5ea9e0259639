"""A registered encoder is usable by someone who has never heard of Sightline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import TOY_POINTS

from sightline.methods.errors import SightlineError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow, SQLAlchemy and torch.export warn of their own
SIZE = (48, 64)

STRANGER = """
import json, sys

class NoSightline:
    def find_spec(self, name, path=None, target=None):
        if name == "sightline" or name.startswith("sightline."):
            raise ImportError("Sightline is not installed here")

sys.meta_path.insert(0, NoSightline())
uri, model, given, answer = sys.argv[1:]
import mlflow, numpy as np, torch
mlflow.set_tracking_uri(uri)
encoder = mlflow.pytorch.load_model(model)
images = np.load(given)
tokens = {str(b): encoder(torch.from_numpy(images[:b])).detach().numpy() for b in (1, 3, 7)}
np.savez(answer, **tokens)
assert not any(name.split(".")[0] == "sightline" for name in sys.modules)
"""


class Encoder(torch.nn.Module):
    """A small transformer with the interface of `ImageEncoder`."""

    dim, patch_size, image_size = 32, 16, SIZE

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.nn.Conv2d(3, 32, 16, 16)
        self.block = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.norm = torch.nn.LayerNorm(32)
        self.place = torch.nn.Parameter(torch.zeros(1, 12, 32))
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images - 0.5).flatten(2).transpose(1, 2) + self.place
        return self.norm(self.block(tokens))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tokens(images)


class Fickle(Encoder):
    """Behaves differently when it is exported."""

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        return super().tokens(images) + (1.0 if torch.compiler.is_exporting() else 0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_store(tmp_path_factory.mktemp("registry"))


def make_store(folder: Path) -> dict[str, Any]:
    import mlflow

    folder.mkdir(exist_ok=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("test", artifact_location=(folder / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.log_param(run.info.run_id, "pretext.mask_ratio", 0.9)
    return {"folder": folder, "uri": uri, "client": client, "run": run.info.run_id}


@pytest.fixture(scope="module")
def filed(store: dict[str, Any]) -> Any:
    from sightline.platform.tracking.registry import register_encoder

    tags = {"method": "croco", "fingerprint": "abc"}
    encoder = Encoder().train()
    found = register_encoder(
        encoder, name="kitchen", run_id=store["run"], tracking_uri=store["uri"], tags=tags, usage="Trained on a kitchen."
    )
    assert encoder.training, "registering must not change the encoder"
    return found


def artifacts(store: dict[str, Any]) -> list[Path]:
    return [path for path in (store["folder"] / "artifacts").rglob("*") if path.is_file()]


def agrees_with_a_stranger(encoder: torch.nn.Module, given: torch.Tensor, uri: str, model: str, folder: Path) -> None:
    """`given`: seven inputs."""
    import numpy as np

    np.save(folder / "given.npy", given.numpy())
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STRANGER, uri, model, str(folder / "given.npy"), str(folder / "tokens.npz")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with torch.no_grad(), np.load(folder / "tokens.npz") as tokens:
        for batch in (1, 3, 7):
            assert np.abs(tokens[str(batch)] - encoder(given[:batch]).numpy()).max() <= 1e-5
    assert not (folder / "mlruns").exists() and not (folder / "mlflow.db").exists()


def test_it_loads_by_alias_without_sightline_and_without_pickle_for_any_batch(store: dict[str, Any], filed: Any, tmp_path: Path) -> None:
    images = torch.rand(7, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    agrees_with_a_stranger(Encoder().eval(), images, store["uri"], filed.uri, tmp_path)


def test_mlflow_is_left_as_it_was_found(store: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the environment named an address: what it names later must count."""
    import mlflow

    from sightline.platform.tracking.registry import _tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    with _tracking(store["uri"]):
        assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == store["uri"]
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:2")
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == "http://127.0.0.1:2" and "MLFLOW_REGISTRY_URI" not in os.environ


def test_an_encoder_of_clouds_is_filed_and_loaded_the_same_way(tmp_path: Path) -> None:
    from sightline.methods.catalog import find_method
    from sightline.methods.contract import BuildContext
    from sightline.platform.data.kinds import input_of
    from sightline.platform.tracking.registry import register_encoder

    store, method = make_store(tmp_path / "store"), find_method("i2p_mae")
    encoder = method.build(method.Config.model_validate({"model": TOY_POINTS["model"]}), BuildContext(seed=0)).encoder().eval()
    given = input_of(encoder)
    assert (given.name, given.shape) == ("points", (64, 3))
    filed = register_encoder(encoder, name="clouds", run_id=store["run"], tracking_uri=store["uri"], tags={})
    points = torch.randn(7, 64, 3, generator=torch.Generator().manual_seed(1)) / 3
    agrees_with_a_stranger(encoder, points, store["uri"], filed.uri, tmp_path)
    version = store["client"].get_model_version_by_alias("clouds", "candidate")
    assert "points = torch.rand(4, 64, 3)" in version.description and "# 4 x groups x dim" in version.description


def test_no_file_is_a_pickle_and_weights_lie_as_raw_numbers(store: dict[str, Any], filed: Any) -> None:
    files = artifacts(store)
    assert not [f for f in files if f.suffix in (".pkl", ".pickle", ".pth", ".pt", ".bin", ".joblib")]
    (graph,) = [f for f in files if f.suffix == ".pt2"]
    with zipfile.ZipFile(graph) as archive:
        suspects = [name for name in archive.namelist() if archive.read(name).startswith((b"PK", b"\x80\x02", b"\x80\x04"))]
    assert suspects == ["model/data/sample_inputs/model.pt"]  # a tensor archive that torch writes; loaded with weights_only


def test_it_says_what_it_is_where_it_came_from_and_how_to_use_it(store: dict[str, Any], filed: Any) -> None:
    version = store["client"].get_model_version_by_alias("kitchen", "candidate")
    assert str(version.version) == filed.version and version.run_id == store["run"] and version.tags["method"] == "croco"
    assert version.description.startswith("Trained on a kitchen.") and "models:/kitchen@candidate" in version.description
    logged = store["client"].get_logged_model(filed.model_id)
    assert logged.source_run_id == store["run"] and logged.params["pretext.mask_ratio"] == "0.9"
    assert [output.model_id for output in store["client"].get_run(store["run"]).outputs.model_outputs] == [filed.model_id]
    (model,) = [f for f in artifacts(store) if f.name == "MLmodel"]
    assert json.dumps([-1, 3, *SIZE]) in model.read_text().replace("\n", "").replace("      ", " ").replace("  ", " ")
    (needs,) = [f for f in artifacts(store) if f.name == "requirements.txt"]
    assert "torch==" in needs.read_text() and "sightline" not in needs.read_text()


def test_the_same_weights_of_the_same_run_are_filed_once(store: dict[str, Any], filed: Any) -> None:
    from sightline.platform.tracking.registry import register_encoder

    again = register_encoder(
        Encoder(), name="kitchen", run_id=store["run"], tracking_uri=store["uri"], tags={"new": "1"}, usage="Trained on a kitchen."
    )
    assert again == filed
    (version,) = store["client"].search_model_versions("name = 'kitchen'")
    assert version.tags["new"] == "1" and version.tags["fingerprint"] == "abc"


@pytest.mark.parametrize("stage", ["log_model_artifacts", "finalize_logged_model", "log_outputs", "create_model_version"])
def test_a_registration_that_was_killed_is_taken_up_where_it_was(
    store: dict[str, Any], stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model, READY, one version, and no temporary folder."""
    import mlflow

    from sightline.platform.core import scratch
    from sightline.platform.tracking import registry

    client = store["client"]
    experiment = client.get_run(store["run"]).info.experiment_id
    run = client.create_run(experiment).info.run_id
    filing: dict[str, Any] = {"name": f"cut-{stage}", "run_id": run, "tracking_uri": store["uri"], "tags": {}}
    monkeypatch.setattr(registry, "_save", lambda encoder, given, output, folder, logged, run_id: folder.mkdir())
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))

    class Killed(BaseException):
        """As SIGKILL: nothing that follows is done."""

    def killed(*words: Any, **named: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, stage, killed)
        if stage == "log_model_artifacts":
            patch.setattr(mlflow.MlflowClient, "finalize_logged_model", killed)
        patch.setattr(scratch.shutil, "rmtree", lambda *words, **named: None)
        with pytest.raises(Killed if stage != "log_model_artifacts" else BaseException):
            registry.register_encoder(Encoder(), **filing)
    of_run = f"source_run_id = '{run}'"
    (left,) = client.search_logged_models([experiment], filter_string=of_run)
    assert (left.status == "PENDING") == (stage in ("log_model_artifacts", "finalize_logged_model"))
    assert list(tmp_path.glob("sightline-*"))
    filed = registry.register_encoder(Encoder(), **filing)
    (model,) = client.search_logged_models([experiment], filter_string=of_run)
    (version,) = client.search_model_versions(f"name = 'cut-{stage}'")
    assert model.status == "READY" and filed.model_id == model.model_id == left.model_id and filed.version == str(version.version)
    assert [output.model_id for output in client.get_run(run).outputs.model_outputs] == [model.model_id]
    assert not list(tmp_path.glob("sightline-*"))


def test_a_pending_model_of_other_weights_does_not_stay_pending(store: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.platform.tracking import registry

    client = store["client"]
    experiment = client.get_run(store["run"]).info.experiment_id
    run = client.create_run(experiment).info.run_id
    left = client.create_logged_model(experiment, name="encoder", source_run_id=run, tags={"sightline.sha256": "of other weights"})
    monkeypatch.setattr(registry, "_save", lambda encoder, given, output, folder, logged, run_id: folder.mkdir())
    registry.register_encoder(Encoder(), name="two", run_id=run, tracking_uri=store["uri"], tags={})
    assert client.get_logged_model(left.model_id).status == "FAILED"


def test_an_export_that_disagrees_is_not_registered(store: dict[str, Any]) -> None:
    from sightline.platform.tracking.registry import register_encoder

    with pytest.raises(SightlineError, match="differs from the encoder"):
        register_encoder(Fickle(), name="fickle", run_id=store["run"], tracking_uri=store["uri"], tags={})
    assert not store["client"].search_registered_models("name = 'fickle'")


def test_aliases_never_go_back_and_nobodys_champion_is_taken(store: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.platform.tracking import registry
    from sightline.platform.tracking.registry import alias_version, promote, register_encoder

    monkeypatch.setattr(registry, "_save", lambda encoder, given, output, folder, logged, run_id: folder.mkdir())
    client, filed = store["client"], []
    for seed in range(3):
        run = client.create_run(client.get_run(store["run"]).info.experiment_id).info.run_id
        encoder = Encoder()
        torch.nn.init.constant_(encoder.place, float(seed))
        filing = {"name": "crowned", "run_id": run, "tracking_uri": store["uri"], "tags": {}}
        filed.append((register_encoder(encoder, **filing), encoder, filing))
    again = register_encoder(filed[0][1], **filed[0][2])
    assert again.version == "1" and again.address == "models:/crowned/1" and alias_version(client, "crowned", "candidate") == 3
    assert promote("models:/crowned/1", store["uri"], {"sightline.sweep": "first"}) == "models:/crowned@champion"
    assert promote("models:/crowned/2", store["uri"], {"sightline.sweep": "second"}) == "models:/crowned@challenger"
    client.set_registered_model_alias("crowned", "champion", "3")
    assert promote("models:/crowned/1", store["uri"], {"sightline.sweep": "first"}) == "models:/crowned/1", "a resume of the first sweep"
    assert [alias_version(client, "crowned", alias) for alias in ("champion", "challenger")] == [3, 2]
