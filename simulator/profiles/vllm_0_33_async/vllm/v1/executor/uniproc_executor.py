"""The executor of one GPU: a future waits for the device when it is asked for its result."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_0_33_async.vllm.v1.worker.gpu_worker import Worker


class AsyncOutputFuture(Future):  # type: ignore[type-arg]  # Python 3.8 cannot subscript it
    """The tokens of a batch that is still computed."""

    def __init__(self, async_output: Any) -> None:
        self.async_output = async_output
        super().__init__()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the device."""
        if not super().done():
            output = self.async_output.get_output()
            self.set_result(output)
        return super().result(timeout)


class UniProcExecutor:
    """Call the worker."""

    def __init__(self, host: Host) -> None:
        self.driver_worker = Worker(host)

    def collective_rpc(
        self, method: str, args: tuple[Any, ...] = (), non_block: bool = False
    ) -> Any:
        """Call a method of the one worker; its answer, or a future that holds it."""
        result = getattr(self.driver_worker, method)(*args)
        if not non_block:
            return result
        if hasattr(result, "get_output"):
            return AsyncOutputFuture(result)
        future: Future[Any] = Future()
        future.set_result(result)
        return future

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """Launch the forward pass of a batch."""
        output = self.collective_rpc("execute_model", (scheduler_output,), non_block)
        return output

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """Launch its sampling."""
        return self.collective_rpc("sample_tokens", (grammar_output,), non_block)
