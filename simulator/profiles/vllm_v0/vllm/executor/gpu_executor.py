"""The executor of one GPU."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_v0.vllm.worker.worker_base import Worker


class GPUExecutor:
    """Call the worker in this thread."""

    def __init__(self, host: Host) -> None:
        self.driver_worker = Worker(host)

    def execute_model(self, execute_model_req: Any) -> Any:
        """Run a batch."""
        output = self.driver_worker.execute_model(execute_model_req)
        return output
