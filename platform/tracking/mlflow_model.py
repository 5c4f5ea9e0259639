"""An encoder as an MLflow model: an exported graph that loads and serves without Sightline and without unpickling.

Loading with `MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false` needs torch 2.10 or newer (MLflow checks every record of the archive).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sightline.methods.contract import Predictor
from sightline.methods.errors import SightlineError
from sightline.platform.data.encoder_input import EncoderInput, class_names, output_unit

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

TOLERANCE = 1e-5
"""Largest allowed difference between the features of the encoder and those of its exported graph. What has a unit, metres or pixels, has no
natural size: float32 itself is off by 1.5e-5 at 200. There, values above 1 are compared relative to their size."""


def output_shape(encoder: torch.nn.Module, given: EncoderInput) -> tuple[int, ...]:
    """The shape of what its `forward` gives of one sample."""
    with _on_cpu(encoder), torch.no_grad():
        return tuple(encoder(given.example(2)).shape[1:])


def save_model(encoder: torch.nn.Module, given: EncoderInput, output: str, folder: Path, logged: LoggedModel, run_id: str) -> None:
    """Write graph, weights, signature, input example and requirements to `folder`, for `mlflow.pytorch` and `mlflow.pyfunc`.

    The graph refuses a batch that is not `given.plausible`: bytes in place of floats would give features like any others. Raises
    `SightlineError` where the encoder cannot be exported, or the graph disagrees with it.
    """
    import mlflow.pytorch
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    float32 = np.dtype(np.float32)
    names = {"class_names": list(class_names(encoder))} if isinstance(encoder, Predictor) else {}
    known = {**names, **({"unit": unit} if (unit := output_unit(encoder)) else {})} or None
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, *given.shape))]),  # by name MLflow would hand over a dict, which its PyTorch models refuse
        outputs=Schema([TensorSpec(float32, (-1, *output_shape(encoder, given)), output)]),
    )
    model = Model(
        artifact_path=logged.artifact_location, run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id, metadata=known
    )
    with _on_cpu(encoder):
        try:
            with _checked(encoder, given):
                mlflow.pytorch.save_model(
                    encoder,
                    str(folder),
                    mlflow_model=model,
                    signature=signature,
                    input_example=given.example(2).numpy(),  # with an example of one, the batch size would be fixed at one
                    pip_requirements=requirements(),
                    serialization_format="pt2",
                )
        except torch._dynamo.exc.UserError as error:
            raise SightlineError(f"the encoder cannot be exported as a graph: {error}", "its forward must not depend on values") from error
        model.flavors["python_function"]["config"] = {"device": "cpu"}  # where there is a GPU, MLflow would refuse a graph of the CPU
        model.save(str(folder / "MLmodel"))
        _check(encoder, folder / "data" / "model.pt2", given)


def requirements() -> list[str]:
    """What the graph needs, besides MLflow, which adds itself. Without local parts such as `+cpu`, which no package index has.

    By hand, because inferring them takes seconds.
    """
    return [f"{package}=={version(package).partition('+')[0]}" for package in ("torch", "numpy")]


@contextmanager
def _checked(encoder: torch.nn.Module, given: EncoderInput) -> Iterator[None]:
    """The encoder with a check of its input in front, which an export writes into the graph."""
    if (plausible := given.plausible) is None:
        yield
        return

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        torch._assert_async(plausible(inputs[0]), f"these are no {given.name} as this model takes them: {given.words}")

    hook = encoder.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _check(encoder: torch.nn.Module, path: Path, given: EncoderInput) -> None:
    """Compare the features of the exported graph with the encoder's."""
    exported = torch.export.load(path).module()
    for batch in (1, 3, 7):
        example = given.example(batch)
        with torch.no_grad():
            expected = encoder(example)
            size = expected.abs().clamp_min(1) if output_unit(encoder) else 1.0
            difference = float(((exported(example) - expected).abs() / size).max())
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
