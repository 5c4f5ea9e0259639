"""Checkpoints: folders of safetensors and JSON. `complete.json` (sizes and SHA-256) is written last, then the folder is renamed.

A kill or a full disk at any moment leaves the previous checkpoint complete; a reader uses the newest one that verifies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sightline.methods.errors import MachineError
from sightline.platform.core.files import as_record, make_folder, read_record, sync, trouble, write_text

if TYPE_CHECKING:
    import torch

COMPLETE = "complete.json"
NOTE = "note.json"
STEP = re.compile(r"step-[0-9]{8,}")
"""Names of the folders of checkpoints."""


@dataclass(frozen=True)
class TrainState:
    """Everything a run needs besides tensors to continue exactly: a few numbers."""

    step: int
    """Steps done, which is the number of the next step."""
    samples: int
    seed: int
    plan_version: int
    fingerprint: str
    """Of the training data."""
    settings: str
    """SHA-256 of the settings that must not change, by the rule of `settings_version` (`config.settings_hash`)."""
    precision: str
    history: str
    """Chained SHA-256 over the ids of all samples of all steps so far, in the order of the microbatches."""
    settings_version: int = 1
    """1 where the checkpoint does not state it: it was written before there was a second version."""


@dataclass(frozen=True)
class Note:
    """What is known of a checkpoint besides what a resume needs. `complete.json` leaves it out, so it can be replaced."""

    milestone: bool = False
    """Whether it stays whatever comes later (`train.keep_every`)."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Measured at its step, under their names in MLflow, such as `val/loss`."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    state: TrainState

    @property
    def note(self) -> Note:
        return read_note(self.path / NOTE)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """`model` or `optimizer`, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.path / f"{name}.safetensors")


def write(folder: Path, state: TrainState, tensors: Mapping[str, Mapping[str, torch.Tensor]], note: Note | None = None) -> Path:
    """Write `folder/step-00000042`, and return it. Raises `MachineError` where the disk is full.

    `tensors`: file stem -> name -> tensor.
    """
    from safetensors.torch import save_file

    final = folder / f"step-{state.step:08d}"
    part = folder / f".part-{uuid.uuid4().hex[:8]}"
    try:
        make_folder(folder)
        clear(folder)
        part.mkdir()
        for stem, named in tensors.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in named.items()}, part / f"{stem}.safetensors")
        (part / "state.json").write_text(json.dumps(asdict(state), indent=1))
        files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(part.iterdir())}
        for path in part.iterdir():
            sync(path)
        if note and note != Note():
            write_text(part / NOTE, json.dumps(asdict(note), indent=1))
        write_text(part / COMPLETE, json.dumps({"files": files}, indent=1))
        if final.exists():  # the same step of an earlier attempt, not verifying or identical
            shutil.rmtree(final)
        part.rename(final)
        sync(folder)
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        if problem := trouble(error) or _of_machine(error):
            what, hint = problem
            raise MachineError(
                f"{what}: the checkpoint of step {state.step} could not be written under {folder}; older checkpoints are whole",
                f"{hint}, then continue with `sightline resume RUN`",
            ) from error
        raise
    return final


def read_note(path: Path) -> Note:
    """The note in a file. Empty where there is none, or none that can be read: a checkpoint is whole without it."""
    try:
        return parse_note(path.read_bytes())
    except OSError:
        return Note()


def parse_note(content: bytes) -> Note:
    """Empty where `content` is no note."""
    try:
        return msgspec.json.decode(content, type=Note)
    except ValueError:
        return Note()


def annotate(path: Path, metrics: Mapping[str, float]) -> None:
    """Add metrics to the note of the checkpoint at `path`. Raises `OSError` where the checkpoint is gone."""
    found = read_note(path / NOTE)
    write_text(path / NOTE, json.dumps(asdict(replace(found, metrics={**found.metrics, **metrics})), indent=1))


def clear(folder: Path) -> None:
    """Remove what a killed process left half written or half deleted. Only for the process that writes checkpoints here."""
    for stale in folder.glob(".part-*"):
        shutil.rmtree(stale, ignore_errors=True)


def number(name: str) -> int:
    """The step of a checkpoint of this name."""
    return int(name.removeprefix("step-"))


def steps(folder: Path) -> list[Path]:
    """The folders of checkpoints, whole or not, newest first."""
    return sorted((path for path in folder.glob("step-*") if STEP.fullmatch(path.name)), reverse=True)


def checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """The checkpoints that are complete by name and size, newest first."""
    for path in steps(folder):
        with contextlib.suppress(OSError, ValueError):
            if all((path / name).stat().st_size == entry.bytes for name, entry in _complete(path).items()):
                yield Checkpoint(path, as_record(TrainState, read_record(path / "state.json")))


def corrupt(folder: Path) -> list[str]:
    """Why checkpoints newer than the newest intact one are not used, one line each; empty where the newest is intact."""
    problems = []
    for path in steps(folder):
        if (why := problem(path)) is None:
            break
        problems.append(f"{path.name}: {why}")
    return problems


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose every file has the recorded SHA-256; None where there is none."""
    return next((found for found in checkpoints(folder) if problem(found.path) is None), None)


def problem(path: Path) -> str | None:
    """Why the checkpoint at `path` does not verify, or None."""
    try:
        files = _complete(path)
        as_record(TrainState, read_record(path / "state.json"))
    except (OSError, ValueError) as error:
        return f"{path}: {error}"
    for name, entry in files.items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != entry.bytes:
            return f"{file} has {file.stat().st_size} bytes, not {entry.bytes}"
        if _sha256(file) != entry.sha256:
            return f"{file} was altered: its SHA-256 is not the recorded one"
    return None


def hide(path: Path) -> Path:
    """Rename the checkpoint at `path` to a hidden name, under which no reader finds it, and return that.

    Where the caller does not delete it, the next `write` does.
    """
    return path if path.name.startswith(".part-") else path.rename(path.with_name(f".part-{uuid.uuid4().hex[:8]}"))


def delete_file(file: Path) -> None:
    """Delete one file of a checkpoint that verifies. It still verifies without the file, also where a kill interrupts this."""
    complete = file.parent / COMPLETE
    files = {name: entry for name, entry in _complete(file.parent).items() if name != file.name}
    write_text(complete, json.dumps({"files": {name: asdict(entry) for name, entry in files.items()}}, indent=1))
    file.unlink()


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str]) -> dict[str, torch.Tensor]:
    """The optimiser's state as flat tensors `<parameter>|<quantity>`."""
    import torch

    keys: dict[torch.Tensor, str] = {parameter: name for parameter, name in names.items()}
    return {
        f"{keys[parameter]}|{quantity}": value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for parameter, state in optimizer.state.items()
        for quantity, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Give the optimiser the state that `optimizer_tensors` returned."""
    by_name = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("|")
        parameter = by_name[name]
        # AdamW keeps `step` on the CPU unless it is fused or capturable; moments live with the parameter.
        fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
        optimizer.state[parameter][quantity] = value.to(parameter.device) if quantity != "step" or fused else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _File:
    bytes: int
    sha256: str


def _complete(path: Path) -> dict[str, _File]:
    """Name -> size and SHA-256 of each file of the checkpoint. Raises `ValueError` where `complete.json` is damaged, and `OSError`."""
    try:
        return msgspec.convert(read_record(path / COMPLETE).get("files"), dict[str, _File])
    except ValueError as error:
        raise ValueError(f"{COMPLETE} is damaged: {error}") from None


def _of_machine(error: Exception) -> tuple[str, str] | None:
    """What a `MachineError` of `core/files.py` says."""
    return (str(error).partition(":")[0], error.hint.partition(",")[0]) if isinstance(error, MachineError) else None
