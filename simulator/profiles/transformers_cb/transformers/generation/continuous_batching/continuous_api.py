"""The manager, its thread, and the processor of batches."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from simulator.profiles.machinery.host import Host, wait_forever
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.torch.cuda.streams import Stream
from simulator.profiles.transformers_cb.transformers.generation.continuous_batching.input_outputs import (  # noqa: E501
    ContinuousBatchingIOs,
)
from simulator.profiles.transformers_cb.transformers.generation.continuous_batching.model_runner import (  # noqa: E501
    ModelRunner,
)
from simulator.profiles.transformers_cb.transformers.generation.continuous_batching.scheduler import (  # noqa: E501
    FIFOScheduler,
)


class ContinuousBatchProcessor:
    """Prepare, compute and update batches."""

    def __init__(self, host: Host, input_queue: queue.Queue[Any]) -> None:
        self.input_queue = input_queue
        self.scheduler = FIFOScheduler()
        self.use_async_batching = False
        self.inputs_and_outputs = ContinuousBatchingIOs()
        self.model_runner = ModelRunner()
        self.traffic = host.traffic(input_queue.put_nowait)
        self._truth = host.recorder()
        self._batches = 0

    def prepare_next_batch(self) -> bool:
        """Schedule; False where there is nothing to do."""
        begin_ns = time.monotonic_ns()
        while not self.input_queue.empty():
            self.scheduler.add_waiting_requests(self.input_queue.get_nowait())
        if not self.scheduler.has_pending_requests():
            return False
        requests_in_batch, num_q_tokens, max_kv_read, plan = self.scheduler.schedule_batch()
        if not requests_in_batch:
            return False
        self._batches += 1
        plan.sequence, plan.begin_ns = self._batches, begin_ns
        self._truth.begun.append(plan)
        self.inputs_and_outputs.prepare_batch_tensors(
            requests_in_batch, num_q_tokens, max_kv_read, plan
        )
        return True

    def _generation_step(self, model: Stream) -> None:
        batch_data = self.inputs_and_outputs.get_model_kwargs()
        self.model_runner.compute_batch(model, batch_data)
        self.inputs_and_outputs.retrieve_device_outputs()

    def update_batch(self) -> None:
        """Take the tokens."""
        requests_in_batch, plan = self.inputs_and_outputs.prepare_batch_update()
        assert requests_in_batch
        self.traffic.finished += self.scheduler.finish(plan)
        plan.end_ns = time.monotonic_ns()


class ContinuousBatchingManager:
    """Hold the thread that generates."""

    def __init__(self, host: Host) -> None:
        add_settings(self, 20)
        self.model = host.stream()
        self.input_queue: queue.Queue[Any] = queue.Queue()
        self.batch_processor: ContinuousBatchProcessor | None = None
        self.current_batch = 0
        self._host = host
        self._wake_up_loop = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        self._generation_thread = threading.Thread(target=self._run_generation_loop, daemon=True)
        self._generation_thread.start()

    def _run_generation_loop(self) -> None:
        batch_processor = self._create_batch_processor()
        self.batch_processor = batch_processor
        self.current_batch = 0
        while self._generation_loop_body(batch_processor, bootstrapping=False):
            pass

    def _generation_loop_body(
        self, batch_processor: ContinuousBatchProcessor, bootstrapping: bool
    ) -> bool:
        requests_available = batch_processor.prepare_next_batch()
        if requests_available:
            self._generation_step()
            self.current_batch += 1
            batch_processor.update_batch()
            return not bootstrapping
        self._wake_up_loop.wait(timeout=0.002)
        self._wake_up_loop.clear()
        return True

    def _generation_step(self) -> None:
        assert self.batch_processor is not None
        self.batch_processor._generation_step(self.model)

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        batch_processor = ContinuousBatchProcessor(self._host, self.input_queue)
        batch_processor.traffic.start()
        self._host.ready("core")
        return batch_processor


def run_manager(host: Host) -> None:
    """Hold a manager."""
    manager = ContinuousBatchingManager(host)
    manager.start()
    wait_forever()
