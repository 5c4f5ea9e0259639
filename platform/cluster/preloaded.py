"""What the workers of `sightline up` import before they are needed: that of Ray Train's controller and of a worker that trains."""

import ray.data
import ray.train.torch
import ray.train.v2._internal.execution.controller.controller  # noqa: F401
import torch._dynamo
import torch.nn.parallel.distributed
import torch.optim.adamw  # noqa: F401

import sightline.platform.cluster.local_group
import sightline.platform.cluster.workers
import sightline.platform.training.loop  # noqa: F401
