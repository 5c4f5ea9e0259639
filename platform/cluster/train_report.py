"""Tells Ray Train of checkpoints that are whole, so that `Result`, the dashboard and Ray's own tools show a run.

Ray Train takes only folders below its own, and deletes what it counts as its own. So each checkpoint is reported as a folder of links: a
tool reads the files through it, and what deletes it deletes links. Ray's record of them, `checkpoint_manager_snapshot.json`, is written
for tools and never read back: each attempt has a new name, and continues from Sightline's own checkpoints.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sightline.platform.training.saving import Publication


def report(publication: Publication, shared: bool) -> None:
    """Report a checkpoint and the metrics of its step. Called by all ranks together.

    `shared`: whether this process sees the driver's folder, in which Ray Train's lies. Where rank 0 does not, metrics go without it.
    """
    import ray.train

    written, metrics = publication
    checkpoint = None
    if written and shared:
        place = Path(ray.train.get_context().get_storage().experiment_fs_path) / written.path.name
        with contextlib.suppress(OSError):  # a file system without links: the metrics alone
            checkpoint = ray.train.Checkpoint.from_directory(str(link(written.path, place)))
    step = {"step": written.step} if written else {}
    ray.train.report(
        {**step, **metrics},
        checkpoint=checkpoint,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )


def link(checkpoint: Path, place: Path) -> Path:
    """A folder at `place` with a relative link to each file of the checkpoint. It stays, empty for a reader, when the checkpoint goes.

    Raises `OSError`.
    """
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # a newer one is written, and this one is not kept
        for file in list(checkpoint.iterdir()):
            with contextlib.suppress(FileExistsError):
                (place / file.name).symlink_to(os.path.relpath(file, place))
    return place
