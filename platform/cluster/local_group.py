"""Ray Train on this machine alone: its process group meets at a file, so that no port is open to other machines.

PyTorch's own store listens on every address and asks for no password.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2.api.exceptions import TrainingFailedError

ASK_SECONDS = 10.0


class _AtFile(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        group = f"file://{backend_config.folder}/group-{uuid.uuid4().hex[:8]}"  # of a restart, too: a new one
        worker_group.execute(_set_torch_distributed_env_vars)
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend_config.backend,
                    world_rank=rank,
                    world_size=size,
                    init_method=group,
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(size)
            ]
        )


@dataclass
class LocalTorchConfig(TorchConfig):
    folder: str = ""
    """Where the file is made. PyTorch takes it from an address and decodes nothing: in a home with `?` or `#` it would lie elsewhere."""

    @property
    def backend_cls(self) -> type[_AtFile]:
        return _AtFile


class _Controller(TrainController):
    def __init__(self, **given: Any) -> None:
        ENV_VARS_TO_PROPAGATE.clear()  # of this process, which serves one run
        super().__init__(**given)


class _NoneAfterTold(FailurePolicy):
    """Ray Train's own, but no further attempt where a worker has told the recorder of an error that another attempt would only repeat."""

    def __init__(self, usual: FailurePolicy, recorder: Any) -> None:
        super().__init__(usual.failure_config)
        self.usual, self.recorder = usual, recorder

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        with contextlib.suppress(ray.exceptions.RayError):  # without a recorder workers end as soon as they start
            if ray.get(self.recorder.has_failed.remote(), timeout=ASK_SECONDS):
                return FailureDecision.RAISE
        return self.usual.make_decision(training_failed_error)


class LocalTorchTrainer(TorchTrainer):
    """Starts two processes fewer, of 1 to 2 seconds each: one deals datasets, where there are none, the other frees what a dead controller
    held, which lasts no longer here than this process.

    Controller and workers have no runtime environment: the variables that Ray Train would send along are those that Ray's processes here
    have anyway. So they run in processes that Ray, or `sightline up`, has started before.
    """

    def _initialize_and_run_controller(self, *, failure_policy: FailurePolicy, **given: Any) -> Any:
        recorder = self.train_loop_config["recorder"]  # type: ignore[attr-defined]  # of Train V2
        given["failure_policy"] = _NoneAfterTold(failure_policy, recorder)
        controller: Any = ray.remote(num_cpus=0)(_Controller).remote(**given)
        try:
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())
        finally:
            ray.kill(controller)  # when Ray ends it would stay for 10 seconds, which is what `end_ray` waits at most

    def _create_default_callbacks(self) -> list[Any]:
        needless = (PlacementGroupCleanerCallback, *(() if self.datasets else (DatasetsCallback,)))
        return [one for one in super()._create_default_callbacks() if not isinstance(one, needless)]  # type: ignore[misc]  # of Train V2


def on_this_machine() -> bool:
    """Whether Ray was started by this process, on the loopback address."""
    return bool(ray.util.get_node_ip_address() == "127.0.0.1")  # type: ignore[no-untyped-call]
