"""How a registered model is used, in Markdown: plain MLflow, HTTP, PyTorch, timm, Sightline. The blocks run as they stand, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import torch

from sightline.methods.catalog import find_method
from sightline.methods.contract import MethodConfig, Predictor
from sightline.methods.errors import SightlineError
from sightline.platform.core.redaction import redact
from sightline.platform.data.encoder_input import EncoderInput, class_names, output_name, output_unit

LONGEST = 300
"""Characters of a list of class names that is written out."""


def has_timm_form(method: str, config: MethodConfig, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether timm computes what an encoder of these settings does. `state`: the encoder's."""
    form = find_method(method).timm
    try:
        return form is not None and form(config, state) is not None
    except SightlineError:
        return False


def use_of(
    uri: str, tracking_uri: str, encoder: torch.nn.Module, given: EncoderInput, shape: tuple[int, ...], *, serves: bool, timm: bool
) -> str:
    """The section "Use" of a card.

    `uri`: `models:/...`. `shape`: of what it gives of one sample. `serves`: whether `mlflow.pyfunc` takes it; versions of older Sightlines
    are for `mlflow.pytorch` alone. `timm`: whether it can be exported to timm.
    """
    output, name = output_name(encoder), given.name
    place = json.dumps(tracking_uri if redact(tracking_uri) == tracking_uri else "YOUR_TRACKING_URI", ensure_ascii=False)
    meaning = f", {given.tokens} x dim" if output == "tokens" else f", in {unit}" if (unit := output_unit(encoder)) else ""
    size, of_four = " x ".join(map(str, given.shape)), " x ".join(map(str, (4, *shape)))
    parts = [
        f"""## Use

It takes `{name}`, batch x {size}: {given.words}. It gives `{output}`, batch x {" x ".join(map(str, shape))}{meaning}.""",
        f"""Plain MLflow, without Sightline:

```python
import mlflow
import numpy as np

mlflow.set_tracking_uri({place})
{given.from_raw or f"{name} = np.zeros((4, {', '.join(map(str, given.shape))}), np.float32)  # yours"}"""
        + (
            f"""
model = mlflow.pyfunc.load_model("{uri}")
{output} = model.predict({name})  # {of_four}{_named(encoder, output, uri)}
```

Over HTTP, after `mlflow models serve --model-uri {uri} --env-manager local --port 5001` with `MLFLOW_TRACKING_URI` set as above
(`--env-manager uv` installs its requirements):

```python
import requests

answer = requests.post("http://127.0.0.1:5001/invocations", json={{"inputs": {name}.tolist()}})
{output} = np.array(answer.json()["predictions"], np.float32)
```"""
            if serves
            else "\n```"
        ),
        f"""As a PyTorch graph on the CPU. It is in evaluation mode: call it as it is; `.eval()` and `.train()` raise.

```python
import torch

graph = mlflow.pytorch.load_model("{uri}")
with torch.no_grad():
    {output} = graph(torch.from_numpy({name}))  # {of_four}{"" if serves else _named(encoder, output, uri)}
```""",
    ]
    if timm:
        folder = f"./{re.sub('[^A-Za-z0-9]+', '-', uri.removeprefix('models:/'))}-timm"
        parts.append(f"""timm, after `sightline export {uri} --format timm --out {folder}`:

```python
import timm

# Without pretrained=True its weights are random.
network = timm.create_model("local-dir:{folder}", pretrained=True)
```""")
    call = ".logits" if isinstance(encoder, Predictor) else ".pooled" if output == "tokens" else ""
    raw = "photos" if name == "images" else name
    parts.append(f"""Sightline, which takes PIL images and arrays of any size and moves to a GPU:

```python
from sightline import load_encoder

encoder = load_encoder("{uri}", {place})
encoder{call}({raw})
```""")
    return "\n\n".join(parts)


def _named(encoder: torch.nn.Module, output: str, uri: str) -> str:
    """Lines that give its classes their names."""
    if not isinstance(encoder, Predictor):
        return ""
    names = repr(list(class_names(encoder)))
    told = f"  # {names}" if len(names) <= LONGEST and "`" not in names else ""
    where, axis = {"segmentation": ("pixel", 1), "part_segmentation": ("point", 2)}.get(encoder.task, ("sample", 1))
    return f"""
class_names = mlflow.models.get_model_info("{uri}").metadata["class_names"]{told}
np.array(class_names)[{output}.argmax(axis={axis})]  # of each {where}"""
