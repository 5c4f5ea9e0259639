"""Local paths and any URI that pyarrow.fs or fsspec opens, with a few functions for both."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from sightline.methods.errors import CallError

from .files import replacing


def open_place(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path in it. A string without `://` is a local path. Raises `CallError` for an unknown scheme."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
    try:
        return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except pa.ArrowInvalid:
        try:
            from fsspec.core import url_to_fs

            system, path = url_to_fs(uri)
            return fs.PyFileSystem(fs.FSSpecHandler(system)), path
        except (ImportError, ValueError) as error:
            raise CallError(f"cannot open {uri}: {error}", "name a local folder or a URI such as s3://bucket/folder") from None
    except OSError as error:
        raise CallError(f"cannot open {uri}: {error}", "check the address and your access to it") from None


def missing_bucket(system: fs.FileSystem, path: str) -> str:
    """The name of the bucket of `path` where an object store has no such bucket; else empty. Raises what the store raises."""
    bucket = path.partition("/")[0]
    return bucket if isinstance(system, fs.S3FileSystem | fs.GcsFileSystem) and not exists(system, bucket) else ""


def is_local(system: fs.FileSystem) -> bool:
    return isinstance(system, fs.LocalFileSystem)


def read_bytes(system: fs.FileSystem, path: str) -> bytes:
    with system.open_input_stream(path, compression=None) as stream:
        return stream.read()  # type: ignore[no-any-return]


def write_bytes(system: fs.FileSystem, path: str, data: bytes | pa.Buffer) -> None:
    """Write beside the file, then rename, so that a reader never sees half of it. A local file survives a loss of power."""
    if is_local(system):
        with replacing(Path(path)) as part:
            part.write_bytes(data)
        return
    beside = f"{path}.part"
    with system.open_output_stream(beside) as stream:
        stream.write(data)
    system.move(beside, path)


def exists(system: fs.FileSystem, path: str) -> bool:
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)
