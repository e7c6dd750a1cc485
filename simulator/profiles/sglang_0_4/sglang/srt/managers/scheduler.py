"""The scheduler of SGLang 0.4.6: batches go to a second thread, results come back by a queue."""

from __future__ import annotations

import time
from collections import deque
from typing import NoReturn

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.sglang.srt.managers import scheduler
from simulator.profiles.machinery.sglang.srt.managers.schedule_batch import ScheduleBatch
from simulator.profiles.sglang_0_4.sglang.srt.managers.tp_worker_overlap_thread import (
    ModelWorkerBatch,
    TpModelWorkerClient,
)


class GenerationBatchResult:
    """Which batch of the forward thread holds the results."""

    def __init__(self, bid: int) -> None:
        self.bid = bid


class Scheduler(scheduler.Scheduler):
    """The only rank."""

    def __init__(self, host: Host, tp_rank: int, channels: list[scheduler.Channel]) -> None:
        super().__init__(host, tp_rank, channels)
        self.cur_batch: ScheduleBatch | None = None
        self.tp_worker = TpModelWorkerClient(host)

    def event_loop_overlap(self) -> NoReturn:
        """Queue a batch, then process the one before it."""
        self.result_queue = deque()
        while True:
            recv_reqs = self.recv_requests()
            self.process_input_requests(recv_reqs)

            batch = self.get_next_batch_to_run()
            self.cur_batch = batch

            if batch:
                result = self.run_batch(batch)
                self.result_queue.append((batch.copy(), result))

            if self.last_batch:
                tmp_batch, tmp_result = self.result_queue.popleft()
                self.process_batch_result(tmp_batch, tmp_result)
            elif batch is None:
                self.check_memory()

            self.last_batch = batch

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Decide what comes next."""
        return self.next_batch(self.last_batch)

    def run_batch(self, batch: ScheduleBatch) -> GenerationBatchResult:
        """Queue a batch for the forward thread."""
        self.forward_ct += 1
        self.begin(batch, time.monotonic_ns())
        model_worker_batch = ModelWorkerBatch(batch, self.forward_ct)
        self.tp_worker.forward_batch_generation(model_worker_batch)
        return GenerationBatchResult(model_worker_batch.bid)

    def process_batch_result(self, batch: ScheduleBatch, result: GenerationBatchResult) -> None:
        """Take the results of a batch."""
        assert batch.forward_mode is not None
        if batch.forward_mode.is_decode():
            self.process_batch_result_decode(batch, result)
        else:
            self.process_batch_result_prefill(batch, result)
        self.end(batch)

    def process_batch_result_prefill(
        self, batch: ScheduleBatch, result: GenerationBatchResult
    ) -> int:
        """Take the first tokens."""
        self.tp_worker.resolve_batch_result(result.bid)
        return len(batch.reqs)

    def process_batch_result_decode(
        self, batch: ScheduleBatch, result: GenerationBatchResult
    ) -> int:
        """Take the next tokens."""
        self.tp_worker.resolve_batch_result(result.bid)
        return len(batch.reqs)

    def check_memory(self) -> None:
        """Have nothing to do."""
        self.rest()


def run_scheduler_process(host: Host, tp_rank: int, channels: list[scheduler.Channel]) -> None:
    """Live as the only rank."""
    Scheduler(host, tp_rank, channels).event_loop_overlap()
