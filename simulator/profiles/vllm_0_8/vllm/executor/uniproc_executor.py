"""The executor of one GPU: the worker's code runs in the engine core's thread."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_0_8.vllm.v1.worker.gpu_worker import Worker


class UniProcExecutor:
    """Call the worker."""

    def __init__(self, host: Host) -> None:
        self.driver_worker = Worker(host)

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """Call a method of the one worker."""
        answer = getattr(self.driver_worker, method)(*args)
        return [answer]

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run a batch."""
        output = self.collective_rpc("execute_model", args=(scheduler_output,))
        return output[0]
