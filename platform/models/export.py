"""Writes an encoder for others: as a timm folder, in our single-file form, in its authors' layout, or as ONNX; checked after writing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.methods.catalog import find_method
from sightline.methods.contract import TimmForm
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.random import MicrobatchRng
from sightline.platform.data.encoder_input import output_name
from sightline.platform.data.kinds import find_kind, input_of
from sightline.platform.weights.format import SINGLE, Weights, write_file

from .encoders import OpenedEncoder
from .published import to_published

TOLERANCE = 1e-5
"""Largest difference between exported and own tokens, as a share of the largest token value (of 1, where that is smaller)."""
FORMATS = ("timm", "safetensors", "official", "onnx")


def export(opened: OpenedEncoder, format: str, out: Path) -> dict[str, Any]:
    """Write `opened` in one of `FORMATS` to the folder `out` (safetensors: a folder or a file). Returns what was written and how to use it.

    Raises `SightlineError` where the format has no place for the encoder, or what was written does not give the same tokens.
    """
    return {"timm": _timm, "safetensors": _safetensors, "official": _official, "onnx": _onnx}[format](opened, out)


def _safetensors(opened: OpenedEncoder, out: Path) -> dict[str, Any]:
    path = out if out.suffix == ".safetensors" else out / SINGLE
    weights = opened.weights
    state = opened.encoder.state_dict()
    write_file(Weights.of(weights.method, weights.sections, "encoder", state, weights.source, weights.place), path)
    use = f'from sightline import load_encoder; encoder = load_encoder("{path}")'
    return {"files": [str(path)], "sha256": opened.sha256, "use": use}


def _official(opened: OpenedEncoder, out: Path) -> dict[str, Any]:
    from safetensors.torch import save_file

    tensors, settings = to_published(opened.weights)
    with _folder(out) as scratch:
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, scratch / "model.safetensors")
        (scratch / "model.json").write_text(json.dumps(settings, indent=1))
    use = f"sightline import {out / 'model.safetensors'} --method {opened.method} --out FILE.safetensors"
    return {"files": [str(out / name) for name in ("model.safetensors", "model.json")], "tensors": len(tensors), "use": use}


def _timm(opened: OpenedEncoder, out: Path) -> dict[str, Any]:
    import timm

    method = find_method(opened.method)
    if method.timm is None:
        why = ": timm has encoders of images alone" if find_kind(method.kind).modality != "images" else ""
        raise SightlineError(f"timm has no form of {opened.method}'s encoder{why}", "use --format safetensors, official or onnx")
    form = method.timm(opened.config, opened.encoder.state_dict())
    with _folder(out) as scratch:
        try:
            model = timm.create_model(form.architecture, num_classes=0, **form.arguments)
            model.load_state_dict(dict(form.state))
        except (RuntimeError, TypeError) as error:
            said = " ".join(str(error).split())[:300]
            raise SightlineError(f"timm {timm.__version__} does not take this encoder: {said}", "install another version of timm") from None
        _write_timm(model, form, opened, scratch)
        loaded: Any = timm.create_model(f"local-dir:{scratch}", pretrained=True).eval()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (form.mean, form.std))

        def tokens(images: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = loaded.forward_features((images - mean) / std)
            return features[:, form.prefix_tokens :]

        difference = _compare(opened.encoder, tokens, "timm")
    use = f'timm.create_model("local-dir:{out}", pretrained=True)'
    notes = [
        "without pretrained=True timm gives random weights and says nothing",
        f"images are normalised with mean {form.mean}, std {form.std}",
    ]
    return {
        "files": [str(out / name) for name in ("config.json", "model.safetensors")],
        "difference": difference,
        "use": use,
        "notes": notes,
    }


def _write_timm(model: Any, form: TimmForm, opened: OpenedEncoder, folder: Path) -> None:
    from safetensors.torch import save_file

    height, width = opened.encoder.image_size
    pretrained = {
        "tag": "sightline",
        "input_size": [3, height, width],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(form.mean),
        "std": list(form.std),
        "num_classes": 0,
    }
    config = {
        "architecture": form.architecture,
        "num_classes": 0,
        "num_features": model.num_features,
        "global_pool": form.arguments.get("global_pool", "avg"),
        "model_args": dict(form.arguments),
        "pretrained_cfg": pretrained,
        "sightline": {"method": opened.method, "source": opened.source, "sha256": opened.sha256},
    }
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _onnx(opened: OpenedEncoder, out: Path) -> dict[str, Any]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise CallError(f"the ONNX packages are not installed ({error.name})", "pip install 'sightline-pretext[onnx]'") from None
    given = input_of(opened.encoder)
    output = output_name(opened.encoder)
    with _folder(out) as scratch:
        path = scratch / "encoder.onnx"
        example = given.example(2)  # two: an example of one would fix the batch at one
        # Traced as plain products: ONNX has no fused attention, and taking one apart afterwards trips over its strides.
        with sdpa_kernel(SDPBackend.MATH):
            torch.onnx.export(
                opened.encoder,
                (example,),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[given.name],
                output_names=[output],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        difference = _compare(opened.encoder, lambda samples: torch.from_numpy(session.run(None, {given.name: samples.numpy()})[0]), "ONNX")
    use = f'onnxruntime.InferenceSession("{out / "encoder.onnx"}").run(None, {{"{given.name}": {given.name}}})'
    notes = [f"{given.name}: any batch x {' x '.join(map(str, given.shape))}; {given.words}"]
    return {"files": [str(out / "encoder.onnx")], "difference": difference, "use": use, "notes": notes}


def _stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """For torch's exporter, which knows none: ONNX's TopK keeps the order of equal values."""
    from onnxscript import opset18

    op: Any = opset18  # its types take no constants
    length = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, length, axis=dim, largest=int(descending), sorted=1)


def _compare(encoder: Any, exported: Callable[[torch.Tensor], torch.Tensor], what: str) -> float:
    """Largest difference on random samples, as a share of the largest value. Raises `SightlineError` where it exceeds `TOLERANCE`."""
    samples = torch.rand(3, *input_of(encoder).shape, generator=MicrobatchRng(0, 0, 0).torch("images"))
    with torch.no_grad():
        own, theirs = encoder(samples), exported(samples)
    if own.shape != theirs.shape:
        raise SightlineError(
            f"the {what} form gives {tuple(theirs.shape)}, the encoder {tuple(own.shape)} (batch x tokens x dim); nothing was written",
            "this is a fault of the method's form; please report it",
        )
    scale = max(1.0, float(own.abs().max()))
    apart = (own - theirs).abs().amax(dim=tuple(range(2, own.ndim))) / scale
    difference = float(apart.max())
    if not difference <= TOLERANCE:
        worst = divmod(int(apart.argmax()), apart.shape[1])[1]
        raise SightlineError(
            f"the {what} form does not give the encoder's tokens: they differ by {difference:.1e} of the largest (most at token {worst}, "
            f"in {(apart > TOLERANCE).float().mean():.0%} of all tokens); {TOLERANCE:g} is allowed. Nothing was written",
            "this is a fault of the method's form, or of this version of the library; please report it",
        )
    return difference


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder to write into; its files are moved to `out` when all went well, and are gone otherwise."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as scratch:
            yield Path(scratch)
            for file in Path(scratch).iterdir():
                shutil.move(file, out / file.name)
    except OSError as error:
        raise SightlineError(
            f"cannot write to {out}: {error.strerror or error}", "name a folder you may write to, with space left"
        ) from None
