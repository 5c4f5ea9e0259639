"""The examples of docs/serving.md as they stand there: MLflow's evaluation, and a Ray Serve application on a head of its own."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from heads import BIN, WAIT, free_port, head, short_folder, until
from made import made_run
from PIL import Image
from told import ROOT

from sightline import load_encoder
from sightline.platform.tracking.registry import register_encoder

PAGE = (ROOT / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)


def block(part: str) -> str:
    (found,) = [one for one in BLOCKS if part in one]
    return found


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_an_encoder_answers_photos_on_ray_serve(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="needs the extra `serve`")
    made_run("served", "conmim")
    (tmp_path / "serve_encoder.py").write_text(block("serve.deployment"))
    words = ["--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=4", "--disable-usage-stats"]
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "SIGHTLINE_HOME": str(home)}
    with short_folder() as scratch, head(scratch, port := free_port(), words, loopback) as person:
        environment = {**person, **loopback, "MODEL": "served", "RAY_AUTH_MODE": "token"}
        run = [str(BIN / "serve"), "run", "serve_encoder:app", "--address", f"127.0.0.1:{port}"]
        with (tmp_path / "serve.log").open("w") as log:
            process = subprocess.Popen(run, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            until(lambda: "ready at" in (tmp_path / "serve.log").read_text() or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "serve.log").read_text()[-3000:]
            photos = [Image.effect_noise((90, 70), 40 * number).convert("RGB") for number in (1, 2, 3)]
            answers = []
            for photo in photos:
                photo.save(file := io.BytesIO(), "PNG")
                answers.append(requests.post("http://127.0.0.1:8000/", data=file.getvalue(), timeout=WAIT).json())
            configured = list((scratch / "session_latest" / "metrics").rglob("prometheus.yml"))
        finally:
            process.terminate()
            process.wait(60)
    np.testing.assert_allclose(answers, load_encoder("served").pooled(photos).numpy(), atol=1e-5)
    assert configured, "docs/serving.md says that Ray writes it"


@pytest.mark.long
def test_mlflow_evaluates_a_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics are right, and stand on the logged model."""
    import mlflow

    class Shade(torch.nn.Module):
        """Of images of 8 x 8 pixels: bright where the mean is above one half."""

        task, output, classes, class_names, image_size = "classification", "logits", 2, ("dark", "bright"), (8, 8)

        def __init__(self) -> None:
            super().__init__()
            self.limit = torch.nn.Parameter(torch.tensor(0.5))

        def logits(self, images: torch.Tensor) -> torch.Tensor:
            over = images.mean(dim=(1, 2, 3)) - self.limit
            return torch.stack([-over, over], dim=1)

        forward = logits

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("test", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    filed = register_encoder(Shade(), name="shades", run_id=run, tracking_uri=uri, tags={})
    session: dict[str, Any] = {}
    exec(block("mlflow.models.evaluate"), session)
    images = np.stack([np.full((3, 8, 8), shade, np.float32) for shade in (0.1, 0.2, 0.8, 0.9)])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    found = session["evaluate"](filed.uri, images, ["dark", "bright", "bright", "bright"])
    assert found["accuracy_score"] == 0.75 and found["example_count"] == 4
    assert {one.key: one.value for one in client.get_logged_model(filed.model_id).metrics}["accuracy_score"] == 0.75
