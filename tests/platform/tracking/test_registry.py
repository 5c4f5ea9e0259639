"""A registered encoder is usable by someone who has never heard of Sightline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cards import run_blocks
from toy import TOY_IMAGES, TOY_POINTS

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
uri, folder, *models = sys.argv[1:]
import mlflow, numpy as np, torch
from mlflow.models import convert_input_example_to_serving_input, validate_serving_input

mlflow.set_tracking_uri(uri)
torch.cuda.is_available = lambda: True  # on a machine with a GPU a graph of the CPU serves, too
for number, model in enumerate(models):
    given = np.load(f"{folder}/given-{number}.npy")
    graph, served = mlflow.pytorch.load_model(model), mlflow.pyfunc.load_model(model)
    answers = {f"graph {b}": graph(torch.from_numpy(given[:b])).detach().numpy() for b in (1, 3, 7)}
    answers |= {f"served {b}": served.predict(given[:b]) for b in (1, 3, 7)}
    example = served.input_example
    again = validate_serving_input(model, convert_input_example_to_serving_input(example))
    np.savez(f"{folder}/answers-{number}.npz", example=example, again=np.asarray(again, np.float32), **answers)
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
        encoder, name="kitchen", run_id=store["run"], tracking_uri=store["uri"], tags=tags, about="Trained on a kitchen."
    )
    assert encoder.training, "registering must not change the encoder"
    return found


@pytest.fixture(scope="module")
def kinds(store: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Name -> (a network as Sightline trains it, its version): an encoder of photos, one of clouds, a model of regions."""
    from sightline.methods.catalog import find_method
    from sightline.methods.contract import BuildContext
    from sightline.platform.tracking.registry import register_encoder
    from sightline.platform.weights.format import Weights, write_folder

    conmim = {key: TOY_IMAGES["conmim"][key] for key in ("model", "pretext")}
    regions = {"encoder": {"method": "conmim", **conmim}, "classes": 3, "class_names": ["sky", "grass", "a|b"], "image_size": 32}
    settings = {
        "photos": ("conmim", conmim),
        "regions": ("finetune_segmentation", {"model": regions}),
        "clouds": ("i2p_mae", {"model": TOY_POINTS["model"] | {"points": 32, "groups": [8, 4, 2], "neighbours": [4, 2, 2]}}),
    }
    client, made = store["client"], {}
    run = client.create_run(client.get_run(store["run"]).info.experiment_id).info.run_id
    for name, (id, sections) in settings.items():
        method = find_method(id)
        config = method.Config.model_validate(sections)
        encoder = method.build(config, BuildContext(seed=0)).encoder().eval()
        weights = Weights.of(id, config.model_dump(mode="json"), "encoder", encoder.state_dict(), "a test", name)
        saved = write_folder(weights, tmp_path_factory.mktemp(name))
        filing = {"name": name, "run_id": run, "tracking_uri": store["uri"], "tags": {}, "saved": saved}
        made[name] = (encoder, register_encoder(encoder, **filing, about=f"Of {name}.", timm=name == "photos"))
    return made


def artifacts(store: dict[str, Any], filed: Any) -> list[Path]:
    """Of one version."""
    return [path for path in (store["folder"] / "artifacts").rglob("*") if path.is_file() and filed.model_id in path.parts]


def test_every_kind_loads_and_serves_without_sightline_and_without_pickle_for_any_batch(
    store: dict[str, Any], filed: Any, kinds: dict[str, tuple[Any, Any]], tmp_path: Path
) -> None:
    import numpy as np

    encoders = {filed.uri: Encoder().eval(), **{f"models:/{name}@candidate": encoder for name, (encoder, _) in kinds.items()}}
    given = []
    for number, encoder in enumerate(encoders.values()):
        draws = torch.Generator().manual_seed(1)
        images = hasattr(encoder, "image_size")
        given.append(torch.rand(7, 3, *encoder.image_size, generator=draws) if images else torch.randn(7, 32, 3, generator=draws) / 3)
        np.save(tmp_path / f"given-{number}.npy", given[-1].numpy())
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STRANGER, store["uri"], str(tmp_path), *encoders]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for number, encoder in enumerate(encoders.values()):
        with torch.no_grad(), np.load(tmp_path / f"answers-{number}.npz") as answers:
            for batch in (1, 3, 7):
                expected = encoder(given[number][:batch]).numpy()
                assert np.abs(answers[f"graph {batch}"] - expected).max() <= 1e-5
                assert np.abs(answers[f"served {batch}"] - expected).max() <= 1e-5
            assert np.abs(answers["again"] - encoder(torch.from_numpy(answers["example"])).numpy()).max() <= 1e-5
    assert not (tmp_path / "mlruns").exists() and not (tmp_path / "mlflow.db").exists()


def test_what_is_no_input_is_refused_and_not_answered(store: dict[str, Any], filed: Any, kinds: dict[str, Any]) -> None:
    """Bytes, other sizes, clouds in millimetres or beside the origin: each would give features like any others."""
    import mlflow
    import numpy as np

    from sightline.platform.tracking.registry import _tracking

    with _tracking(store["uri"]):
        images, points = (mlflow.pyfunc.load_model(uri) for uri in (filed.uri, "models:/clouds@candidate"))
    picture, cloud = images.input_example, points.input_example
    wrong = [
        (images, (picture * 255).astype(np.uint8), "dtype of input uint8 does not match expected dtype float32"),
        (images, picture.astype(np.float64), "dtype of input float64"),
        (images, picture[..., :-1], "does not match expected shape"),
        (images, picture * 255, r"no images as this model takes them: float32 RGB in \[0, 1\]"),
        (images, (picture - 0.45) / 0.22, "normalisation is inside"),
        (images, picture * np.float32("nan"), "no images as"),
        (points, cloud * 1000, "no points as this model takes them: float32 coordinates, centred on the mean, the farthest at distance 1"),
        (points, cloud + 3, "no points as"),
        (points, cloud / 10, "no points as"),
    ]
    for model, given, said in wrong:
        with pytest.raises(Exception, match=said):
            model.predict(given)
    assert images.predict(picture * 1.005).shape == (2, 12, 32), "what a resize overshoots is no mistake"


def test_the_card_says_how_to_use_it_and_each_block_runs(
    store: dict[str, Any], kinds: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a version, and of its logged model, which is named by its id."""
    from sightline.pipelines.__main__ import main

    client = store["client"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store["uri"])
    for name, (encoder, filed) in kinds.items():
        card = client.get_model_version(name, filed.version).description
        assert f'load_model("models:/{name}/{filed.version}")' in card and "`.eval()` and `.train()` raise" in card
        if name == "photos":
            assert main(["export", f"models:/{name}/1", "--format", "timm", "--out", f"./{name}-1-timm"]) == 0
        session = run_blocks(card)
        assert ("network" in session) == (name == "photos") == ("timm" in card)
        output = session["logits" if name == "regions" else "tokens"]
        assert tuple(output.shape) == tuple(encoder(torch.as_tensor(session["points" if name == "clouds" else "images"])).shape)
        if name == "regions":
            assert session["class_names"] == ["sky", "grass", "a|b"] and "['sky', 'grass', 'a|b']" in card
        note = client.get_logged_model(filed.model_id).tags["mlflow.note.content"]
        assert note == card.replace(f"models:/{name}/{filed.version}", f"models:/{filed.model_id}").replace(
            f"./{name}-1-timm", f"./{filed.model_id}-timm"
        )
        (readme,) = [path for path in artifacts(store, filed) if path.name == "README.md"]
        assert readme.read_text() == note + "\n"
    from sightline import load_encoder

    assert load_encoder(f"models:/{filed.model_id}", store["uri"]).source == "a test"


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


def test_no_file_is_a_pickle_and_weights_lie_as_raw_numbers(store: dict[str, Any], filed: Any) -> None:
    files = artifacts(store, filed)
    assert not [f for f in files if f.suffix in (".pkl", ".pickle", ".pth", ".pt", ".bin", ".joblib")]
    (graph,) = [f for f in files if f.suffix == ".pt2"]
    with zipfile.ZipFile(graph) as archive:
        suspects = [name for name in archive.namelist() if archive.read(name).startswith((b"PK", b"\x80\x02", b"\x80\x04"))]
    assert suspects == ["model/data/sample_inputs/model.pt"]  # a tensor archive that torch writes; loaded with weights_only


def test_it_says_what_it_is_where_it_came_from_and_how_to_use_it(store: dict[str, Any], filed: Any) -> None:
    version = store["client"].get_model_version_by_alias("kitchen", "candidate")
    assert str(version.version) == filed.version and version.run_id == store["run"] and version.tags["method"] == "croco"
    assert version.description.startswith("Trained on a kitchen.") and "models:/kitchen/1" in version.description
    logged = store["client"].get_logged_model(filed.model_id)
    assert logged.source_run_id == store["run"] and logged.params["pretext.mask_ratio"] == "0.9"
    assert [output.model_id for output in store["client"].get_run(store["run"]).outputs.model_outputs] == [filed.model_id]
    assert logged.tags["mlflow.source.name"] == "sightline"
    assert "sightline promote kitchen --to champion" in store["client"].get_registered_model("kitchen").description
    from mlflow.models import Model

    (model,) = [f for f in artifacts(store, filed) if f.name == "MLmodel"]
    signature = Model.load(model).signature
    (given,), (output,) = signature.inputs.inputs, signature.outputs.inputs
    assert (given.name, given.shape, given.type.name) == (None, (-1, 3, *SIZE), "float32")
    assert (output.name, output.shape, output.type.name) == ("tokens", (-1, 12, 32), "float32")


def test_its_requirements_install_anywhere(store: dict[str, Any], filed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No local part of a version, which no package index has; no path; nothing of Sightline."""
    from packaging.requirements import Requirement

    from sightline.platform.tracking import mlflow_model

    files = [f for f in artifacts(store, filed) if f.name in ("requirements.txt", "conda.yaml", "python_env.yaml")]
    assert len(files) == 3 and not any("sightline" in f.read_text().lower() or "file:" in f.read_text() for f in files)
    (needs,) = [f for f in files if f.name == "requirements.txt"]
    pins = [Requirement(line) for line in needs.read_text().splitlines()]
    assert [pin.name for pin in pins] == ["mlflow", "torch", "numpy"]
    assert all(len(pin.specifier) == 1 and not pin.url and "+" not in str(pin) for pin in pins)
    monkeypatch.setattr(mlflow_model, "version", lambda package: "2.15.0+cpu")
    assert mlflow_model.requirements()[0] == "torch==2.15.0"


def test_a_version_of_an_older_sightline_is_left_as_it_is_and_its_card_promises_no_more(
    store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is deleted, the next registration files the weights as they are filed now."""
    from sightline.platform.tracking import registry

    monkeypatch.setattr(registry, "save_model", lambda encoder, given, output, folder, logged, run_id: folder.mkdir())
    client = store["client"]
    run = client.create_run(client.get_run(store["run"]).info.experiment_id).info.run_id
    filing: dict[str, Any] = {"name": "older", "run_id": run, "tracking_uri": store["uri"], "tags": {}, "about": "An encoder."}
    first = registry.register_encoder(Encoder(), **filing)
    client.delete_model_version_tag("older", "1", registry.FORM)
    client.delete_logged_model_tag(first.model_id, registry.FORM)
    assert registry.register_encoder(Encoder(), **filing) == first
    card = client.get_model_version("older", "1").description
    assert "pyfunc" not in card and "models serve" not in card and 'mlflow.pytorch.load_model("models:/older/1")' in card
    client.delete_model_version("older", "1")
    second = registry.register_encoder(Encoder(), **filing)
    assert second.model_id != first.model_id and "pyfunc" in client.get_model_version("older", second.version).description


def test_a_description_holds_what_a_database_keeps() -> None:
    from sightline.platform.tracking.registry import DESCRIPTION, _described

    about, use = "Sentence.\n\n" + "\n\n".join(f"Paragraph {number}. " + "x" * 400 for number in range(20)), "## Use\n\nLike this."
    text = _described(about, use)
    assert 4000 < len(text) <= DESCRIPTION and text.startswith("Sentence.\n\nParagraph 0.") and text.endswith(use)
    assert "README.md" in text and _described("Short.", use) == f"Short.\n\n{use}"
    assert len(_described(about, "x" * 6000)) <= DESCRIPTION and len(_described("x" * 6000, use)) < 200


def test_the_same_weights_of_the_same_run_are_filed_once(store: dict[str, Any], filed: Any) -> None:
    from sightline.platform.tracking.registry import register_encoder

    again = register_encoder(
        Encoder(), name="kitchen", run_id=store["run"], tracking_uri=store["uri"], tags={"new": "1"}, about="Trained on a kitchen."
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
    monkeypatch.setattr(registry, "save_model", lambda encoder, given, output, folder, logged, run_id: folder.mkdir())
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
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": f"cut-{stage}", "version": "1"}]
    assert [output.model_id for output in client.get_run(run).outputs.model_outputs] == [model.model_id]
    assert not list(tmp_path.glob("sightline-*"))


def test_a_pending_model_of_other_weights_does_not_stay_pending(store: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.platform.tracking import registry

    client = store["client"]
    experiment = client.get_run(store["run"]).info.experiment_id
    run = client.create_run(experiment).info.run_id
    left = client.create_logged_model(experiment, name="encoder", source_run_id=run, tags={"sightline.sha256": "of other weights"})
    monkeypatch.setattr(registry, "save_model", lambda encoder, given, output, folder, logged, run_id: folder.mkdir())
    registry.register_encoder(Encoder(), name="two", run_id=run, tracking_uri=store["uri"], tags={})
    assert client.get_logged_model(left.model_id).status == "FAILED"


def test_an_export_that_disagrees_is_not_registered(store: dict[str, Any]) -> None:
    from sightline.platform.tracking.registry import register_encoder

    with pytest.raises(SightlineError, match="differs from the encoder"):
        register_encoder(Fickle(), name="fickle", run_id=store["run"], tracking_uri=store["uri"], tags={})
    assert not store["client"].search_registered_models("name = 'fickle'")


def test_aliases_never_go_back_and_nobodys_champion_is_taken(store: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And each change of an alias is noted: when, by whom, why."""
    from sightline.platform.tracking import registry
    from sightline.platform.tracking.promotion import PROMOTED, REPLACED, find_version, give_winner_alias, holder
    from sightline.platform.tracking.registry import register_encoder

    monkeypatch.setattr(registry, "save_model", lambda encoder, given, output, folder, logged, run_id: folder.mkdir())
    client, filed = store["client"], []
    for seed in range(3):
        run = client.create_run(client.get_run(store["run"]).info.experiment_id).info.run_id
        encoder = Encoder()
        torch.nn.init.constant_(encoder.place, float(seed))
        tags = {"sightline.run": f"run-{seed}"}
        filing: dict[str, Any] = {"name": "crowned", "run_id": run, "tracking_uri": store["uri"], "tags": tags, "step": 10 + seed}
        filed.append((register_encoder(encoder, **filing), encoder, filing))
    assert [output.step for output in client.get_run(filed[2][2]["run_id"]).outputs.model_outputs] == [12]

    def give(number: int, sweep: str) -> str | None:
        return give_winner_alias(client, find_version(client, f"crowned/{number}", ""), {"sightline.sweep": sweep}, f"best of {sweep}")

    def held(alias: str) -> str:
        return str(client.get_model_version_by_alias("crowned", alias).version)

    def lines(number: int, tag: str) -> list[str]:
        found = client.get_model_version("crowned", str(number)).tags.get(tag, "").splitlines()
        return [re.sub(r"^\S+T\S+ (\S+) by [^\s:,]+", r"\1", line) for line in found]

    again = register_encoder(filed[0][1], **filed[0][2])
    assert again.version == "1" and again.address == "models:/crowned/1" and held("candidate") == "3"
    assert lines(1, PROMOTED) == ["candidate: registered by run run-0"], "a resume notes nothing"
    assert lines(1, REPLACED) == ["candidate, now version 2: registered by run run-1"]
    assert lines(3, PROMOTED) == ["candidate in the place of version 2: registered by run run-2"]
    assert give(1, "first") == "champion" and give(2, "second") == "challenger"
    assert lines(2, PROMOTED)[0] == "challenger: best of second" and lines(1, PROMOTED)[0] == "champion: best of first"
    client.set_registered_model_alias("crowned", "champion", "3")
    assert give(1, "first") is None, "a resume of the first sweep"
    assert [held(alias) for alias in ("champion", "challenger")] == ["3", "2"]
    assert holder(client, "crowned", "nobody") is None


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_kill_in_the_middle_of_a_promotion_leaves_no_false_note(
    killed: int, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the alias is set nothing is noted; given once more, what is missing is."""
    import mlflow

    from sightline.platform.tracking.promotion import PROMOTED, REPLACED, Version, give_alias, holder

    client, name = store["client"], f"killed-{killed}"
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, "file:///nowhere", None)
    first, second = Version(name, "1", None, ""), Version(name, "2", None, "")
    give_alias(client, first, "champion", "It was the first.")
    writes = [0]

    def dies(call: Any) -> Any:
        def write(*words: Any, **named: Any) -> Any:
            writes[0] += 1
            if writes[0] > killed:
                raise KeyboardInterrupt
            return call(*words, **named)

        return write

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for one in ("set_registered_model_alias", "set_model_version_tag"):
            patch.setattr(mlflow.MlflowClient, one, dies(getattr(mlflow.MlflowClient, one)))
        give_alias(client, second, "champion", "It is better.")
    now = holder(client, name, "champion")
    notes = [client.get_model_version(name, number).tags for number in "12"]
    assert now == (first if killed == 0 else second)
    assert PROMOTED not in notes[1] and (REPLACED in notes[0]) == (killed == 2)
    for _ in range(2):
        give_alias(client, second, "champion", "It is better.")
    notes = [client.get_model_version(name, number).tags for number in "12"]
    (line,) = notes[1][PROMOTED].splitlines()
    assert " champion by " in line and line.endswith(": It is better.") and ("found it so" in line) == (killed > 0)
    assert (REPLACED in notes[0]) == (killed != 1)
