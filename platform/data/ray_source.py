"""Somebody's own data as Ray Data reads them: what `data.train=ray:...`, `parquet:...`, `images:...` and `webdataset:...` name.

Rows come as Ray orders them, and nobody knows them before they come: there is no manifest and no fingerprint of the content.
"""

from __future__ import annotations

import base64
import glob
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from sightline.methods.contract import NeedsColumns, Views
from sightline.methods.errors import BrokenSampleError, CallError, SightlineError, first_line
from sightline.methods.random import keyed_rng
from sightline.methods.settings import nearest
from sightline.platform.config.location import Location
from sightline.platform.core.filesystem import open_place, read_bytes
from sightline.platform.core.redaction import redact

from .foreign_rows import PICKLED, as_text, check_type, columns_of, made, rows_of
from .images import IMAGE_SUFFIXES
from .kinds import DataKind, find_kind
from .shards import HIDDEN, plain_metadata

if TYPE_CHECKING:
    import ray.data

LOOKED_AT = 16
"""Rows that are decoded before training begins."""
ORDER = "ordered and shuffled by Ray Data alone; a resume reads it from its beginning, so the exact history is not promised"
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*$", re.MULTILINE)
"""The line of an exception at the end of a traceback."""
_CONVERTED = {
    "pandas": "ray.data.from_pandas(...) of it",
    "pyarrow": "ray.data.from_arrow(...) of it",
    "datasets": "ray.data.from_huggingface(...) of it",
    "torch": "ray.data.from_torch(...) of it",
    "numpy": "ray.data.from_numpy(...) of it",
    "": "a Dataset: ray.data.from_items([{...}, ...]) makes one of rows",
}
"""Library of what a function returned -> what makes a Dataset of it."""
_PICKLE = re.compile(rb"\x80[\x02-\x05]\x95")
_SUFFIXES = {"parquet": (".parquet", ".parq", ".pq"), "webdataset": (".tar",), "images": IMAGE_SUFFIXES}


@dataclass(frozen=True)
class RaySource:
    """A source that Ray Data reads, of data of one kind."""

    location: Location
    kind: str
    rows: int
    """Of an epoch; 0 where nobody knows."""
    files: tuple[str, ...] = ()
    """What the reader reads; empty for `ray`."""
    counted: int = 0
    """Rows that the files say they have; 0 where they do not."""
    class_names: tuple[str, ...] = ()
    """Of the `label`, where Parquet of Hugging Face says them."""

    @classmethod
    def open(cls, location: Location, kind: str) -> RaySource:
        """Checks what can be checked without Ray. Raises `CallError` for what is not there or not readable."""
        if location.reader == "ray":
            _function(location)
            return cls(location, kind, location.rows or 0)
        files = tuple(_files(location))
        if location.reader == "images" and kind != "images":
            raise CallError(f"{location} holds single images, but {kind} are needed", f"name {kind}: parquet:PLACE or ray:MODULE:FUNCTION")
        rows, classes = 0, tuple[str, ...]()
        if location.reader == "parquet":
            footers = _footers(location, files)
            rows = sum(footer.num_rows for footer in footers)
            schema, found = footers[0].schema.to_arrow_schema(), find_kind(kind)
            columns_of(found, found.samples, location.columns, schema.names, redact(str(location)))
            classes = class_names(schema, location.columns.get("label", "label"))
        elif location.reader == "images":
            rows = len(files)
        return cls(location, kind, location.rows or rows, files, rows, classes)

    @property
    def uri(self) -> str:
        return str(self.location)

    @property
    def fingerprint(self) -> str:
        """Names the source; of its content nothing is known."""
        return f"ray:{self.name.removeprefix('ray:')}"

    @property
    def name(self) -> str:
        """The source as it is shown."""
        return redact(str(replace(self.location, rows=None)))

    @property
    def promises_order(self) -> bool:
        return False

    @property
    def described(self) -> str:
        """How many samples, as far as that is known, for reports."""
        count = f"{self.rows:,} {self.kind} an epoch" if self.rows else f"{self.kind}, how many is not known"
        return f"{count} ({self.name})"

    @property
    def provenance(self) -> list[str]:
        return [f"{self.name} (read by Ray Data): licence unknown"]

    def dataset(self, num_cpus: float = 1.0, shuffle: Literal["files"] | None = "files") -> ray.data.Dataset:
        """The rows as Ray reads them. `num_cpus`: of a task that reads files. Raises `SightlineError` where a function fails."""
        import ray.data

        _quiet()
        location = self.location
        if location.reader == "ray":
            returned = _call(location)
            if not isinstance(returned, ray.data.Dataset):
                raise _no_dataset(location, returned)
            return returned
        system, _ = open_place(self.files[0])
        files: dict[str, Any] = {"paths": [open_place(file)[1] for file in self.files], "num_cpus": num_cpus, "shuffle": shuffle}
        files["filesystem"] = None if isinstance(system, fs.LocalFileSystem) else system
        if location.reader == "parquet":
            return ray.data.read_parquet(**files, file_extensions=None)
        if location.reader == "images":
            return ray.data.read_binary_files(**files, include_paths=True)
        return ray.data.read_webdataset(**files, decoder=None)  # the members as they are: nothing is unpickled

    @property
    def needs_ray(self) -> bool:
        """Whether its rows cannot be read in order without a connection to Ray."""
        return self.location.reader in ("ray", "webdataset")

    def in_order(self, batch_size: int, only: str | None = None) -> Iterator[pa.Table]:
        """All rows in the order that they have. `only`: a column of theirs. Raises what Arrow and Ray raise."""
        if not self.needs_ray:
            yield from self._images(batch_size) if self.location.reader == "images" else self._parquet(batch_size, only)
            return
        import ray.data

        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        with ray.data.DataContext.current(context):
            dataset = self.dataset(shuffle=None)
            dataset = dataset.select_columns([only]) if only else dataset
            yield from dataset.iter_batches(batch_size=batch_size, batch_format="pyarrow", prefetch_batches=1)

    def _parquet(self, batch_size: int, only: str | None) -> Iterator[pa.Table]:
        from pyarrow import dataset

        system, _ = open_place(self.files[0])
        paths = [open_place(file)[1] for file in self.files]
        whole = dataset.dataset(paths, filesystem=system, format="parquet", partitioning="hive")
        if any((field.metadata or {}).get(b"ARROW:extension:name", b"").startswith(b"ray.data.") for field in whole.schema):
            importlib.import_module("ray.data")  # knows the types of its arrays
            whole = dataset.dataset(paths, filesystem=system, format="parquet", partitioning="hive")
        for batch in whole.to_batches(columns=[only] if only else None, batch_size=batch_size, batch_readahead=1, fragment_readahead=1):
            yield pa.Table.from_batches([batch])

    def _images(self, batch_size: int) -> Iterator[pa.Table]:
        for start in range(0, len(self.files), batch_size):
            read = {}
            for file in self.files[start : start + batch_size]:
                system, path = open_place(file)
                read[path] = read_bytes(system, path)
            yield pa.table({"bytes": pa.array(read.values(), pa.large_binary()), "path": list(read)})

    def label_names(self, most: int) -> tuple[str, ...]:
        """The sorted values of `label`, where it is text: reads that column. Raises `SightlineError` for more than `most`."""
        theirs = self.location.columns.get("label", "label").split(",")[0]
        names: set[str] = set()
        for table in self.in_order(4096, only=theirs):
            names |= {as_text(value) for value in pc.unique(table[theirs]).to_pylist() if value is not None}
            if len(names) > most:
                raise CallError(f"{self.name}: column {theirs!r} has more than {most:,} different values", "name the column of the classes")
        return tuple(sorted(names))

    def look(self, views: Views) -> Look:
        """Reads the first rows and makes samples of them. Raises `SightlineError` for columns and types that will not do."""
        from ray.exceptions import RayError

        needed = _needed(find_kind(self.kind), views)
        name = self.name
        try:
            first: Iterator[pa.Table] = iter(
                self.dataset().limit(LOOKED_AT).iter_batches(batch_size=LOOKED_AT, batch_format="pyarrow", prefetch_batches=0)
            )
            table = next(first, None)
        except (RayError, ValueError, TypeError, OSError, pa.ArrowException) as error:
            raise cannot_read(name, error, "correct the source") from error
        if table is None or not table.num_rows:
            raise SightlineError(f"{name} has no rows", "name a source that has some")
        columns = self.columns(table.schema, needed)
        reasons = []
        for row in rows_of(table, columns):
            try:
                made(row, find_kind(self.kind), views, keyed_rng("look"))
            except BrokenSampleError as error:
                reasons.append(str(error))
                continue
            return Look(columns, row)
        raise SightlineError(
            f"none of the first {table.num_rows} rows of {name} can be used; the first: {reasons[0]}", "correct the source, or its columns"
        )

    def columns(self, schema: pa.Schema, needed: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """Our column -> theirs. Raises `CallError` for columns and types that will not do."""
        kind, name = find_kind(self.kind), self.name
        asked = dict(self.location.columns)
        if self.location.reader == "images":
            asked.setdefault("image", "bytes")
        columns = columns_of(kind, needed, asked, list(schema.names), name)
        for ours, theirs in columns.items():
            if (column := kind.column(ours)) is not None:
                check_type(column, theirs, schema, name)
        return columns


@dataclass(frozen=True)
class Look:
    """What the first rows have shown."""

    columns: dict[str, tuple[str, ...]]
    """Our column -> theirs."""
    example: dict[str, Any]
    """The first row that can be used; it stands in where all rows beside a broken one are broken, too."""


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """The names that Hugging Face keeps beside a column of classes; empty where there are none."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = tuple(map(str, feature["names"] if feature["_type"] == "ClassLabel" else ()))
        return names if len(set(names)) == len(names) else ()
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def cannot_read(
    name: str, error: BaseException, hint: str = "correct the source; `sightline resume` goes on from the last checkpoint"
) -> SightlineError:
    """Of what Ray Data raises: its cause, in a sentence."""
    raised = [found for found in _RAISED.findall(str(error)) if not found.startswith("ray.")]  # of the task, then Ray's advice
    what = (raised[-1] if raised else first_line(error))[:300]
    return SightlineError(f"{name} cannot be read: {what}", hint)


def _needed(kind: DataKind, views: Views) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*kind.samples, *(views.columns if isinstance(views, NeedsColumns) else ()))))


def _quiet() -> None:
    import logging

    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _function(location: Location) -> tuple[Callable[[], Any], ModuleType]:
    """The function that `ray:MODULE:FUNCTION` names, and its module. The current folder is looked in first, as `python -m` does."""
    module_name, _, name = location.place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise CallError(f"{location}: {module_name} imports {error.name}, which is not installed", "install it") from None
        raise CallError(
            f"{location}: there is no module {module_name}", f"put {module_name}.py into {here}, or install the package that has it"
        ) from None
    except Exception as error:
        raise CallError(f"{location}: importing {module_name} failed: {type(error).__name__}: {first_line(error)}", "correct it") from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [one for one, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]
        raise CallError(
            f"{location}: {module_name} has no function {name!r}: {nearest(name, own)}", "name a function that returns a Dataset"
        )
    return function, module


def _call(location: Location) -> Any:
    """What a person's function returns. Raises `SightlineError` where it fails."""
    function, module = _function(location)
    _send_along(module)
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise SightlineError(f"{location}: {type(error).__name__}: {first_line(error)}", "correct the function") from error


def _no_dataset(location: Location, returned: Any) -> CallError:
    library = type(returned).__module__.partition(".")[0]
    name = type(returned).__name__ if library == "builtins" else f"{library}.{type(returned).__name__}"
    return CallError(f"{location} returned {name}, not a ray.data.Dataset", f"return {_CONVERTED.get(library, _CONVERTED[''])}")


def _send_along(module: ModuleType) -> None:
    """Have Ray send the code of a person's module to the workers, with that of the modules beside it: other machines have no such files.

    What is installed is on them, too.
    """
    import ray

    folder = Path(module.__file__ or "").absolute().parent
    if "site-packages" in folder.parts:
        return
    beside = [one for one in list(sys.modules.values()) if Path(getattr(one, "__file__", None) or "/").parent == folder]
    for one in {module.__name__: module, **{one.__name__: one for one in beside if one.__name__ in sys.modules}}.values():
        if one.__name__ != "__main__":
            ray.cloudpickle.register_pickle_by_value(one)  # type: ignore[no-untyped-call]


def _files(location: Location) -> Iterator[str]:
    """The files of a place: itself, all below a folder, or those of a pattern. Raises `CallError` where there are none."""
    suffixes, place = _SUFFIXES[location.reader], location.place
    local = "://" not in place
    if local and not Path(place).exists() and glob.has_magic(place):
        found = [name for name in sorted(glob.glob(place, recursive=True)) if Path(name).is_file()]  # noqa: PTH207  (an absolute pattern)
        if not found:
            raise CallError(f"{location}: no file matches {place}", "check the pattern")
        yield from found
        return
    system, path = open_place(place)
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise CallError(f"{location}: {place} is not there", "check the address")
        if info.type == fs.FileType.File:
            yield place
            return
        below = system.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise CallError(f"{location}: {first_line(error)}", "check the address and your access to it") from None
    names = sorted(one.path for one in below if one.type == fs.FileType.File and one.path.lower().endswith(suffixes))
    names = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name[len(path) :].split("/"))]
    if not names:
        raise CallError(f"{location}: no file in {place} ends in {', '.join(suffixes[:6])}", "name the folder that holds them")
    yield from (name if local else place.rstrip("/") + name[len(path.rstrip("/")) :] for name in names)


def _footers(location: Location, files: tuple[str, ...]) -> list[pq.FileMetaData]:
    """Raises `CallError` where a file is no Parquet or holds pickles."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(partial(_footer, location), files))


def _footer(location: Location, file: str) -> pq.FileMetaData:
    system, path = open_place(file)
    try:
        with system.open_input_file(path) as source:
            metadata = plain_metadata(source, source.size())
    except (OSError, pa.ArrowException) as error:
        raise CallError(f"{location}: {file} is damaged: {first_line(error)}", "write it again") from None
    if metadata is None:
        raise CallError(f"{location}: {file} is not a Parquet file", "name Parquet files")
    types = base64.b64decode((metadata.metadata or {}).get(HIDDEN, b""))
    if PICKLED.encode() in types or _PICKLE.search(types):
        raise CallError(
            f"{location}: {file} holds pickled Python objects ({PICKLED}), and pickles are never read",
            "write it without that column: bytes, numbers and arrays need no pickle",
        )
    return metadata
