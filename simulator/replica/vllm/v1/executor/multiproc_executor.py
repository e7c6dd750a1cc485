"""The executor runs the model in a worker process of its own."""

from __future__ import annotations

import enum
import gc
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from setproctitle import setproctitle

from simulator.replica.config import ReplicaConfig
from simulator.replica.lifeline import die_with_parent
from simulator.replica.vllm.distributed.device_communicators.shm_broadcast import MessageQueue
from simulator.replica.vllm.v1.core.sched.output import SchedulerOutput
from simulator.replica.vllm.v1.outputs import ModelRunnerOutput

# A batch takes milliseconds; a worker that needs this long hangs.
EXECUTE_MODEL_TIMEOUT_SECONDS = 300.0
_START_TIMEOUT_SECONDS = 60.0
# A core has one thread of arithmetic to spare, and more threads make batches noisier.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class FutureWrapper(Future[Any]):
    """A worker's answer that is read from the queue when somebody asks for it."""

    def __init__(
        self, futures_queue: deque[FutureWrapper], get_response: Callable[[], Any]
    ) -> None:
        super().__init__()
        self.futures_queue = futures_queue
        self.get_response = get_response
        futures_queue.append(self)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for this answer; answers asked for earlier are read first."""
        while not self.done():
            self.futures_queue.popleft()._wait_for_response()
        return super().result(timeout)

    def _wait_for_response(self) -> None:
        try:
            self.set_result(self.get_response())
        except Exception as err:
            self.set_exception(err)


class MultiprocExecutor:
    """Send each batch to the worker process and bring the answer back."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.config = config
        self.output_rank = 0
        self.futures_queue: deque[FutureWrapper] = deque()
        context = multiprocessing.get_context("spawn")
        rpc_reader, rpc_writer = context.Pipe(duplex=False)
        response_reader, response_writer = context.Pipe(duplex=False)
        os.environ.update(_ONE_THREAD)
        self.worker_process = context.Process(
            target=WorkerProc.worker_main,
            args=(config, rpc_reader, response_writer, os.getpid()),
            name="VLLM::Worker",
        )
        self.worker_process.start()
        rpc_reader.close()
        response_writer.close()
        self.rpc_broadcast_mq = MessageQueue(rpc_writer)
        self.response_mq = MessageQueue(response_reader)
        try:
            self.response_mq.dequeue(timeout=_START_TIMEOUT_SECONDS)
        except (EOFError, TimeoutError) as err:
            self.shutdown()
            raise RuntimeError(
                f"the worker was not ready within {_START_TIMEOUT_SECONDS:.0f} s: "
                "see its message above"
            ) from err

    @property
    def worker_pid(self) -> int:
        """Name the worker process."""
        pid = self.worker_process.pid
        assert pid is not None
        return pid

    def execute_model(self, scheduler_output: SchedulerOutput) -> FutureWrapper:
        """Start the forward pass of a batch; the answer is None, the tokens are sampled after."""
        return self.collective_rpc(
            "execute_model", args=(scheduler_output,), timeout=EXECUTE_MODEL_TIMEOUT_SECONDS
        )

    def sample_tokens(self) -> ModelRunnerOutput:
        """Wait for the tokens of the batch whose forward pass is done."""
        future = self.collective_rpc("sample_tokens", timeout=EXECUTE_MODEL_TIMEOUT_SECONDS)
        output: ModelRunnerOutput = future.result()
        return output

    def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = ()
    ) -> FutureWrapper:
        """Call a method of the worker; the answer is waited for when its result is asked."""
        deadline = None if timeout is None else time.monotonic() + timeout
        send_method = method
        self.rpc_broadcast_mq.enqueue((send_method, args, {}, self.output_rank))

        def get_response() -> Any:
            dequeue_timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                status, result = self.response_mq.dequeue(timeout=dequeue_timeout)
            except TimeoutError as err:
                raise TimeoutError(
                    f"the worker did not answer {send_method} within {timeout} s: "
                    "restart the replica"
                ) from err
            except EOFError as err:
                raise RuntimeError(
                    f"the worker ended during {send_method}: restart the replica"
                ) from err
            if status is not WorkerProc.ResponseStatus.SUCCESS:
                raise RuntimeError(f"the worker failed in {send_method}: {result}")
            return result

        return FutureWrapper(self.futures_queue, get_response)

    def shutdown(self, grace_seconds: float = 0.5) -> None:
        """End the worker: kindly first, then not."""
        self.rpc_broadcast_mq.close()
        self.worker_process.join(grace_seconds)
        if self.worker_process.is_alive():
            self.worker_process.kill()
            self.worker_process.join(grace_seconds)
        self.response_mq.close()


class WorkerProc:
    """The worker process: it takes one call after another from the queue and answers."""

    class ResponseStatus(enum.Enum):
        """How a call ended."""

        SUCCESS = enum.auto()
        FAILURE = enum.auto()

    def __init__(
        self, config: ReplicaConfig, rpc_reader: Connection, response_writer: Connection
    ) -> None:
        # Here, not above: the engine core imports this file and must not load numpy.
        from simulator.replica.vllm.v1.worker.gpu_worker import Worker

        self.rank = 0
        self.worker = Worker(config)
        self.rpc_broadcast_mq = MessageQueue(rpc_reader)
        self.worker_response_mq = MessageQueue(response_writer)

    @staticmethod
    def worker_main(
        config: ReplicaConfig,
        rpc_reader: Connection,
        response_writer: Connection,
        core_pid: int,
    ) -> None:
        """Live as the worker process until the engine core closes the queue."""
        die_with_parent(core_pid)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        setproctitle("VLLM::Worker")
        worker = WorkerProc(config, rpc_reader, response_writer)
        gc.collect()
        gc.freeze()
        worker.handle_output("READY")
        try:
            worker.worker_busy_loop()
        except (EOFError, BrokenPipeError):
            # The engine core is gone, or wants us to go.
            return

    def worker_busy_loop(self) -> None:
        """Take calls until the queue is closed."""
        while True:
            self._execute_worker_rpc(self.rpc_broadcast_mq.dequeue())

    def _execute_worker_rpc(
        self, rpc_request: tuple[str, tuple[Any, ...], dict[str, Any], int | None]
    ) -> None:
        method, args, kwargs, output_rank = rpc_request
        try:
            func = getattr(self.worker, method)
            output = func(*args, **kwargs)
        except Exception as err:
            self.handle_output(err)
            return
        if output_rank is None or self.rank == output_rank:
            self.handle_output(output)

    def handle_output(self, output: object) -> None:
        """Answer a call."""
        self.enqueue_output(output)

    def enqueue_output(self, output: object) -> None:
        """Put an answer into the queue, an exception as text."""
        if isinstance(output, Exception):
            status, result = self.ResponseStatus.FAILURE, f"{type(output).__name__}: {output}"
            self.worker_response_mq.enqueue((status, result))
        else:
            self.worker_response_mq.enqueue((self.ResponseStatus.SUCCESS, output))
