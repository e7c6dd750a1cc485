"""The executor of one GPU: the worker's code runs in the engine core's thread."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.v1.worker.worker_base import WorkerWrapperBase
from simulator.profiles.vllm_0_12.vllm.v1.worker.gpu_worker import Worker


class UniProcExecutor:
    """Call the worker."""

    def __init__(self, host: Host) -> None:
        self.driver_worker = WorkerWrapperBase(Worker(host))

    def collective_rpc(
        self, method: str, args: tuple[Any, ...] = (), non_block: bool = False
    ) -> Any:
        """Call a method of the one worker; its answer, or a future that holds it."""
        result = getattr(self.driver_worker, method)(*args)
        if not non_block:
            return result
        future: Future[Any] = Future()
        future.set_result(result)
        return future

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """Forward a batch."""
        return self.collective_rpc("execute_model", (scheduler_output,), non_block)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """Choose the tokens of the batch that was forwarded last."""
        return self.collective_rpc("sample_tokens", (grammar_output,), non_block)
