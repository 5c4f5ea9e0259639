"""What the machine of rank 0 is doing, under MLflow's names of system metrics; read at each report where `log.system_metrics` asks.

MLflow's own monitor sends from a thread of its own and ends with the first request that fails; these figures go the way of all others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

MEGABYTE = 1e6


class SystemMeter:
    """`folder`: whose disk is told of. `device`: the GPU of rank 0, where it is one."""

    def __init__(self, folder: str, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.network = psutil.net_io_counters()
        psutil.cpu_percent()  # the next call tells the share since this one

    def read(self) -> dict[str, float]:
        """Shares in percent, of the CPU since the last call; sizes in 10^6 bytes, of the network since the beginning; power in watts."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(self.folder), psutil.net_io_counters()
        figures = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGABYTE,
        }
        if network and self.network:  # none in a container without interfaces
            figures["network_receive_megabytes"] = (network.bytes_recv - self.network.bytes_recv) / MEGABYTE
            figures["network_transmit_megabytes"] = (network.bytes_sent - self.network.bytes_sent) / MEGABYTE
        return figures | (self._gpu() if self.device.type == "cuda" else {})

    def _gpu(self) -> dict[str, float]:
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        figures = {
            "gpu_0_memory_usage_megabytes": (total - free) / MEGABYTE,
            "gpu_0_memory_usage_percentage": 100 * (total - free) / total,
        }
        with suppress(ModuleNotFoundError, RuntimeError):  # torch asks nvidia-ml-py, which need not be installed
            figures["gpu_0_utilization_percentage"] = float(torch.cuda.utilization(self.device))
            figures["gpu_0_power_usage_watts"] = torch.cuda.power_draw(self.device) / 1000
        return figures
