"""Ray Train on this machine alone: with fewer processes, and a process group that meets at a file.

PyTorch's own store listens on every address of the machine and asks for no password.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.state_manager import StateManagerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
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


class _Workers(WorkerGroup):
    """Of a controller that is no actor: workers can ask it for nothing.

    They have no variables of their own: those that Ray Train would send along are those that Ray's processes here have anyway. So they run
    in processes that Ray, or `sightline up`, has started before.
    """

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return dict(custom_runtime_env)

    def _init_train_context_on_workers(self, workers: list[Worker], sync_actor: Any, train_context_args: dict[str, list[Any]]) -> None:
        begun = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[place] for name, values in train_context_args.items()},
            )
            for place, worker in enumerate(workers)
        ]
        ray.get(begun)
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):
    worker_group_cls = _Workers

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        logger = logging.getLogger("ray.train")  # it goes on writing to Ray's folder of logs
        logger.handlers = [one for one in logger.handlers if not isinstance(one, logging.StreamHandler)]


class _AsManyAsAsked(FixedScalingPolicy):
    """Ray's own asks an actor, in a process of its own, to reserve what the workers need of a cluster that grows. This machine does not."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


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
    """Starts four processes fewer, of 1 to 3 seconds each: the controller runs in this process, which has what it imports; nobody reserves
    resources; where there are no datasets nobody deals them; and nobody frees what a dead controller held, which lasts no longer here
    than this process.
    """

    def _initialize_and_run_controller(self, *, failure_policy: FailurePolicy, **given: Any) -> Any:
        recorder = self.train_loop_config["recorder"]  # type: ignore[attr-defined]  # of Train V2
        given["failure_policy"] = _NoneAfterTold(failure_policy, recorder)
        if not self.datasets:
            given["scaling_policy"] = _AsManyAsAsked(self.scaling_config)  # type: ignore[arg-type]  # of Train V2
        controller = _Controller(**given)
        asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        needless = (PlacementGroupCleanerCallback, StateManagerCallback, *(() if self.datasets else (DatasetsCallback,)))
        return [one for one in super()._create_default_callbacks() if not isinstance(one, needless)]  # type: ignore[misc]  # of Train V2


def on_this_machine() -> bool:
    """Whether Ray was started by this process, on the loopback address."""
    return bool(ray.util.get_node_ip_address() == "127.0.0.1")  # type: ignore[no-untyped-call]
