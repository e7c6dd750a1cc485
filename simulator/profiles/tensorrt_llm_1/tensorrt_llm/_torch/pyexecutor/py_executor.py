"""The executor: batch N is forwarded before the results of N-1 are read."""

from __future__ import annotations

import threading
import time
from typing import Any

from simulator.profiles.machinery.host import Host, wait_forever
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.traffic import Batcher, Request
from simulator.profiles.tensorrt_llm_1.tensorrt_llm._torch.pyexecutor.model_engine import (
    PyTorchModelEngine,
)
from simulator.profiles.tensorrt_llm_1.tensorrt_llm._torch.pyexecutor.resource_manager import (
    ResourceManager,
)
from simulator.profiles.tensorrt_llm_1.tensorrt_llm._torch.pyexecutor.scheduler import (
    ScheduledRequests,
)


class SampleState:
    """The tokens of a batch on their way from the device."""

    def __init__(self, scheduled_requests: ScheduledRequests, sampler_event: Any) -> None:
        self.scheduled_requests = scheduled_requests
        self.sampler_event = sampler_event


class BatchState:
    """The batch whose results are still to be read."""

    def __init__(self, sample_state: SampleState, iter_start_time: float) -> None:
        self.sample_state = sample_state
        self.iter_start_time = iter_start_time


class PyExecutor:
    """Run the loop in a thread."""

    def __init__(self, host: Host) -> None:
        add_settings(self)
        self.iter_counter = 0
        self.num_scheduled_requests = 0
        self.model_engine = PyTorchModelEngine(host)
        self.resource_manager = ResourceManager()
        self.active_requests: list[Request] = []
        self.previous_batch: BatchState | None = None
        self.event_loop = self._executor_loop_overlap
        self._truth = host.recorder()
        self._batcher = Batcher()
        self._arrived = threading.Condition()
        self._inbox: list[Any] = []
        self._traffic = host.traffic(self._put)

    def _put(self, requests: list[Request]) -> None:
        with self._arrived:
            self._inbox.append(requests)
            self._arrived.notify()

    def start_worker(self) -> None:
        """Start the thread."""
        self._traffic.start()
        self.worker_thread = threading.Thread(target=self._event_loop_wrapper, daemon=True)
        self.worker_thread.start()

    def _event_loop_wrapper(self) -> None:
        self.event_loop()

    def _executor_loop_overlap(self) -> None:
        while True:
            iter_start_time = time.time()
            scheduled_batch, iter_stats = self._prepare_and_schedule_batch()
            if scheduled_batch is None:
                break
            can_queue = scheduled_batch.batch_size > 0
            if can_queue:
                self.resource_manager.prepare_resources(scheduled_batch)
                batch_outputs = self._forward_step(scheduled_batch)
            if self.previous_batch is not None:
                self._update_requests(self.previous_batch.sample_state)
            if can_queue:
                sample_state = self._sample_async(scheduled_batch, batch_outputs)
                self._update_request_states(scheduled_batch)
            if self.previous_batch is not None:
                self._process_previous_batch()
            if can_queue:
                self.previous_batch = BatchState(sample_state, iter_start_time)
            else:
                self.previous_batch = None
                scheduled_batch.plan.end_ns = time.monotonic_ns()
            assert iter_stats is None
            self.iter_counter += 1

    def _prepare_and_schedule_batch(self) -> tuple[ScheduledRequests | None, None]:
        self._fetch_and_activate_new_requests()
        scheduled_batch = self._schedule()
        self.num_scheduled_requests = scheduled_batch.batch_size
        return scheduled_batch, None

    def _fetch_and_activate_new_requests(self) -> None:
        with self._arrived:
            # Only an executor with nothing to do waits for work.
            while not self._inbox and not self._batcher.has_unfinished:
                self._arrived.wait()
            new_requests, self._inbox = self._inbox, []
        for requests in new_requests:
            self._batcher.waiting.extend(requests)

    def _schedule(self) -> ScheduledRequests:
        begin_ns = time.monotonic_ns()
        plan = self._batcher.next_mixed()
        plan.sequence, plan.begin_ns = self.iter_counter, begin_ns
        self._truth.begun.append(plan)
        self.active_requests = self._batcher.running
        return ScheduledRequests(plan)

    def _forward_step(self, scheduled_requests: ScheduledRequests) -> Any:
        # As in the original, whose `self` is a captured variable for that reason.
        def forward(scheduled_requests: ScheduledRequests) -> Any:
            return self.model_engine.forward(scheduled_requests)

        outputs = forward(scheduled_requests)
        return outputs

    def _sample_async(self, scheduled_batch: ScheduledRequests, batch_outputs: Any) -> SampleState:
        num_context_tokens = self.model_engine.iter_states["num_ctx_tokens"]
        assert num_context_tokens >= 0
        return SampleState(scheduled_batch, batch_outputs)

    def _update_requests(self, sample_state: SampleState) -> None:
        sample_state.sampler_event.synchronize()

    def _update_request_states(self, scheduled_requests: ScheduledRequests) -> None:
        self.resource_manager.update_resources(scheduled_requests)

    def _process_previous_batch(self) -> None:
        assert self.previous_batch is not None
        self._handle_responses(self.previous_batch.sample_state.scheduled_requests)

    def _handle_responses(self, scheduled_requests: ScheduledRequests) -> None:
        plan = scheduled_requests.plan
        self._traffic.finished += self._batcher.finish(plan)
        plan.end_ns = time.monotonic_ns()


def run_worker(host: Host) -> None:
    """Live as the worker; its main thread serves MPI and here sleeps."""
    executor = PyExecutor(host)
    executor.start_worker()
    host.ready("core")
    wait_forever()
