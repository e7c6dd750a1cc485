"""The executor of several GPUs and the loop of its workers."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_workers.vllm.distributed.device_communicators.shm_broadcast import (
    MessageQueue,
)
from simulator.profiles.vllm_workers.vllm.v1.worker.gpu_worker import Worker

RANKS = 2


class FutureWrapper(Future):  # type: ignore[type-arg]  # Python 3.8 cannot subscript it
    """The answer of the first rank, read when it is asked for."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        super().__init__()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the answer."""
        if not self.done():
            self.set_result(self.get_response())
        return super().result(timeout)


class MultiprocExecutor:
    """Send each call to all workers."""

    def __init__(self, host: Host) -> None:
        self.rpc_broadcast_mq = [MessageQueue() for _ in range(RANKS)]
        self.response_mqs = [MessageQueue() for _ in range(RANKS)]
        for rank in range(RANKS):
            self._start_worker(host, rank)

    def _start_worker(self, host: Host, rank: int) -> None:
        request_mq, response_mq = self.rpc_broadcast_mq[rank], self.response_mqs[rank]

        def worker_main() -> None:
            worker = WorkerProc(host, rank, request_mq, response_mq)
            worker.worker_busy_loop()

        host.start(worker_main, f"VLLM::Worker_TP{rank}")

    def collective_rpc(self, method: str, args: tuple[Any, ...], non_block: bool) -> Any:
        """Call a method in all workers; the first one's answer, or a future of it."""
        for queue in self.rpc_broadcast_mq:
            queue.enqueue((method, args))

        def get_response() -> Any:
            answers = [queue.dequeue() for queue in self.response_mqs]
            return answers[0]

        future = FutureWrapper(get_response)
        return future if non_block else future.result()

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """Forward a batch."""
        return self.collective_rpc("execute_model", (scheduler_output,), non_block)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """Choose its tokens."""
        return self.collective_rpc("sample_tokens", (grammar_output,), non_block)


class WorkerProc:
    """One rank."""

    def __init__(
        self, host: Host, rank: int, rpc_broadcast_mq: MessageQueue, response_mq: MessageQueue
    ) -> None:
        self.rank = rank
        self.worker = Worker(host)
        self.rpc_broadcast_mq = rpc_broadcast_mq
        self.worker_response_mq = response_mq
        host.ready(f"rank{rank + 1}")

    def worker_busy_loop(self) -> None:
        """Do what the executor says."""
        while True:
            self._execute_worker_rpc(self.rpc_broadcast_mq.dequeue())

    def _execute_worker_rpc(self, rpc_request: tuple[str, tuple[Any, ...]]) -> None:
        method, args = rpc_request
        output = getattr(self.worker, method)(*args)
        self.handle_output(output)

    def handle_output(self, output: Any) -> None:
        """Answer."""
        self.enqueue_output(output)

    def enqueue_output(self, output: Any) -> None:
        """Put the answer into the queue."""
        self.worker_response_mq.enqueue(output)
