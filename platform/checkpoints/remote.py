"""A second place for what a run needs to continue (`train.storage`): a folder or any URI, for nodes that share no folder.

`URI/RUN/checkpoints/step-00000042/` is complete if it holds `complete.json`, which is uploaded last. The weights that the run began with
lie beside the checkpoints. Files are downloaded to their usual place in the run's folder, and verified there by their SHA-256.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pyarrow import fs
from tenacity import RetryError, Retrying, retry_if_exception, stop_before_delay, wait_exponential

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.config import Experiment
from sightline.platform.core.filesystem import exists, missing_bucket, open_place, read_bytes, write_bytes
from sightline.platform.core.locks import exclusive_lock
from sightline.platform.core.redaction import redact, safe_line

from . import local as checkpoint
from .local import COMPLETE, NOTE, STEP, Checkpoint, Note, number, parse_note, read_note
from .retention import Kept, Reason, Retention, kept

RETRY_TIMEOUT_SECONDS = 60.0
"""For how long a storage that does not answer is asked again."""
KEPT_FILES = ("init/*", "frozen/*")
"""In a run's folder: what workers read besides checkpoints."""
CHUNK = 8 << 20

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Storage:
    """One run's folder in the storage at `uri`, and its `folder` on this node."""

    uri: str
    folder: Path
    _notes: dict[str, Note] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of checkpoints that are only there, by name."""

    @classmethod
    def of(cls, experiment: Experiment, folder: Path) -> Storage | None:
        return cls(experiment.train.storage, folder) if experiment.train.storage is not None else None

    def __str__(self) -> str:
        return f"{redact(self.uri).rstrip('/')}/{self.folder.name}"

    def claim(self, identity: str) -> None:
        """Reserve the folder in the storage for this run, and upload the weights that it began with.

        Raises `SightlineError` where the folder belongs to another run.
        """

        def upload() -> None:
            system, place = self._open()
            system.create_dir(place, recursive=True)
            if not exists(system, f"{place}/id"):
                write_bytes(system, f"{place}/id", identity.encode())
            elif read_bytes(system, f"{place}/id").decode() != identity:
                raise SightlineError(f"another run of this name lies in {self}", "choose another --name or another train.storage")
            for path in [path for pattern in KEPT_FILES for path in sorted(self.folder.glob(pattern))]:
                name = path.relative_to(self.folder).as_posix()
                there = system.get_file_info(f"{place}/{name}")
                if there.type == fs.FileType.NotFound or there.size != path.stat().st_size:
                    system.create_dir(f"{place}/{name.rpartition('/')[0]}", recursive=True)
                    with path.open("rb") as file, system.open_output_stream(f"{place}/{name}", compression=None) as stream:
                        shutil.copyfileobj(file, stream, CHUNK)

        self._retry(upload)

    def push(self, retention: Retention) -> None:
        """Upload this node's newest checkpoint, and what else is to stay, then delete what does not stay there. Raises what the storage
        raises."""
        here = kept(self.folder / "checkpoints", retention)
        if not here:
            return
        system, place = self._open()
        self._upload(system, place, here[0])
        there = set(_complete(system, place))
        newest = here[0].path.name
        for one in here[1:]:
            if one.reasons != (Reason.NEWEST,) and one.path.name not in there:
                with contextlib.suppress(FileNotFoundError):  # no longer the best
                    self._upload(system, place, one)
                    there.add(one.path.name)
        stay = retention.choose({number(step): self._note(system, place, step) for step in there})
        for step in _steps(system, place):
            if number(step) not in stay and (step in there or step < newest):  # a newer one may be another process's upload
                _remove(system, f"{place}/checkpoints/{step}")

    def _upload(self, system: fs.FileSystem, place: str, one: Kept) -> None:
        """Raises `FileNotFoundError` where training has removed the checkpoint."""
        target = f"{place}/checkpoints/{one.path.name}"
        with contextlib.ExitStack() as stack:
            complete = (one.path / COMPLETE).read_bytes()
            # Opened before the upload: training may remove this checkpoint meanwhile.
            names = [*json.loads(complete)["files"], *([NOTE] if (one.path / NOTE).exists() else [])]
            files = {name: stack.enter_context((one.path / name).open("rb")) for name in names}
            if exists(system, f"{target}/{COMPLETE}") and read_bytes(system, f"{target}/{COMPLETE}") == complete:
                return
            _remove(system, target)
            system.create_dir(target, recursive=True)
            for name, file in files.items():
                with system.open_output_stream(f"{target}/{name}", compression=None) as stream:
                    shutil.copyfileobj(file, stream, CHUNK)
            write_bytes(system, f"{target}/{COMPLETE}", complete)

    def _note(self, system: fs.FileSystem, place: str, step: str) -> Note:
        """Of the checkpoint in the storage; from this node where it is here, too."""
        here = self.folder / "checkpoints" / step
        if (here / NOTE).exists():
            return read_note(here / NOTE)
        if step not in self._notes:
            path = f"{place}/checkpoints/{step}/{NOTE}"
            self._notes[step] = parse_note(read_bytes(system, path)) if exists(system, path) else Note()
        return self._notes[step]

    def pull(self, say: Say) -> Checkpoint | None:
        """Download the newest checkpoint that verifies, unless this node has it, and return it. Processes of one node download it once.

        Where the storage does not answer, the newest checkpoint of this node is returned, and `say` is called; without one
        `SightlineError` is raised.
        """
        here = self.folder / "checkpoints"
        with exclusive_lock(self.folder / ".storage.lock", f"checkpoints of {self.folder.name} are being fetched"):
            found = checkpoint.newest(here)
            try:
                self._retry(lambda: self._fetch_newest(here, found, say))
            except SightlineError as error:
                if found is None:
                    raise
                say(f"{error}; going on from {found.path.name}, the newest here")
                return found
            return checkpoint.newest(here)

    def _fetch_newest(self, here: Path, found: Checkpoint | None, say: Say) -> None:
        system, place = self._open()
        for name in _complete(system, place):
            if found and name <= found.path.name:
                return
            part = here / f".part-{uuid.uuid4().hex[:8]}"
            part.mkdir(parents=True)
            try:
                for info in system.get_file_info(fs.FileSelector(f"{place}/checkpoints/{name}")):
                    if info.type == fs.FileType.File:
                        _download(system, info.path, part / info.base_name)
                if (problem := checkpoint.problem(part)) is None:
                    shutil.rmtree(here / name, ignore_errors=True)  # the one on this node does not verify
                    part.rename(here / name)
                    return
                say(f"{name} in {self} is passed over: {problem}")
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def steps(self) -> set[int]:
        """Of the complete checkpoints there. Raises `OSError` where the storage does not answer."""
        return {number(name) for name in _complete(*self._open())}

    def fetch(self, name: str) -> None:
        """Download the file `name` of the run's folder, where the storage has it and this node does not."""
        path = self.folder / name

        def download() -> None:
            system, place = self._open()
            if exists(system, f"{place}/{name}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}.part")
                _download(system, f"{place}/{name}", part)
                part.replace(path)

        if not path.exists():
            with exclusive_lock(self.folder / ".storage.lock", f"files of {self.folder.name} are being fetched"):
                if not path.exists():
                    self._retry(download)

    def _open(self) -> tuple[fs.FileSystem, str]:
        system, path = open_place(self.uri)
        if isinstance(system, fs.PyFileSystem):
            system.handler.fs.invalidate_cache()  # fsspec's cached listings miss what other processes do
        return system, f"{path.rstrip('/')}/{self.folder.name}"

    def _retry(self, work: Callable[[], T]) -> T:
        """`work()`, again while the storage fails. Raises `SightlineError` after `RETRY_TIMEOUT_SECONDS`."""
        retrying = Retrying(
            retry=retry_if_exception(_is_of_storage), stop=stop_before_delay(RETRY_TIMEOUT_SECONDS), wait=wait_exponential(max=30)
        )
        try:
            return retrying(work)
        except RetryError as failed:
            error = failed.last_attempt.exception()
            raise SightlineError(
                f"train.storage does not answer: {self}: {safe_line(error)}",
                "look at its address and your access to it, then go on with `sightline resume`; nothing is lost",
            ) from error


def _is_of_storage(error: BaseException) -> bool:
    """Whether an error came from the storage: the libraries behind fsspec raise many types."""
    return isinstance(error, Exception) and type(error) is not SightlineError


def check(uri: str) -> None:
    """Raises `CallError` where the storage cannot be reached, or its address holds a password, which would be recorded."""
    if redact(uri) != uri:
        raise CallError(
            f"train.storage = {redact(uri)} holds a password, which would be recorded",
            "leave it out, and set the credentials in the environment of the nodes (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
        )
    try:
        system, path = open_place(uri)
        if bucket := missing_bucket(system, path):
            raise CallError(f"train.storage = {uri}: there is no bucket {bucket!r}", "make it, or name another")
        system.get_file_info(path)
    except CallError:
        raise
    except Exception as error:  # the libraries behind fsspec raise many types
        hint = "check the address and your access to it, or train without: train.storage=null"
        raise CallError(f"train.storage cannot be reached: {uri}: {safe_line(error)}", hint) from error


def _steps(system: fs.FileSystem, place: str) -> list[str]:
    """Names of all checkpoints, newest first."""
    infos = system.get_file_info(fs.FileSelector(f"{place}/checkpoints", allow_not_found=True))
    return sorted((info.base_name for info in infos if STEP.fullmatch(info.base_name)), reverse=True)


def _complete(system: fs.FileSystem, place: str) -> list[str]:
    """Names of the complete checkpoints, newest first: by one listing, because there may be many milestones."""
    infos = system.get_file_info(fs.FileSelector(f"{place}/checkpoints", allow_not_found=True, recursive=True))
    return sorted(
        (parent for info in infos if info.base_name == COMPLETE and STEP.fullmatch(parent := Path(info.path).parent.name)), reverse=True
    )


def _remove(system: fs.FileSystem, path: str) -> None:
    """Removes `complete.json` first, so that no reader takes the rest for complete."""
    if exists(system, f"{path}/{COMPLETE}"):
        system.delete_file(f"{path}/{COMPLETE}")
    if exists(system, path):
        system.delete_dir(path)


def _download(system: fs.FileSystem, source: str, target: Path) -> None:
    with system.open_input_stream(source, compression=None) as stream, target.open("wb") as file:
        shutil.copyfileobj(stream, file, CHUNK)
