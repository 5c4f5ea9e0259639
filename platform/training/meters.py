"""System metrics of rank 0's machine, under MLflow's names; read at each report with `log.system_metrics`.

MLflow's own monitor sends from its own thread and ends at the first failed request. These metrics are recorded and sent like all others.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

MEGABYTE = 1e6


class SystemMeter:
    """Reads the CPU, the memory, the network, the disk of `folder`, and `device` where it is a GPU."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.network = psutil.net_io_counters()
        psutil.cpu_percent()  # the next call gives the share since this one

    def read(self) -> dict[str, float]:
        """Shares in percent (of the CPU: since the last call), sizes in 10^6 bytes (of the network: since the start), power in watts."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(str(self.folder)), psutil.net_io_counters()
        metrics = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGABYTE,
        }
        if network and self.network:  # none in a container without interfaces
            metrics["network_receive_megabytes"] = (network.bytes_recv - self.network.bytes_recv) / MEGABYTE
            metrics["network_transmit_megabytes"] = (network.bytes_sent - self.network.bytes_sent) / MEGABYTE
        return metrics | (self._gpu() if self.device.type == "cuda" else {})

    def _gpu(self) -> dict[str, float]:
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        metrics = {
            "gpu_0_memory_usage_megabytes": (total - free) / MEGABYTE,
            "gpu_0_memory_usage_percentage": 100 * (total - free) / total,
        }
        with suppress(ModuleNotFoundError, RuntimeError):  # torch needs nvidia-ml-py for it, which is not always installed
            metrics["gpu_0_utilization_percentage"] = float(torch.cuda.utilization(self.device))
            metrics["gpu_0_power_usage_watts"] = torch.cuda.power_draw(self.device) / 1000
        return metrics
