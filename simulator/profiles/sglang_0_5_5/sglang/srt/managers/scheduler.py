"""The scheduler of SGLang 0.5.5: the results of a batch are taken after the next is launched."""

from __future__ import annotations

import time
from collections import deque
from typing import NoReturn

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.sglang.srt.managers import scheduler
from simulator.profiles.machinery.sglang.srt.managers.schedule_batch import ScheduleBatch
from simulator.profiles.sglang_0_5_5.sglang.srt.managers.scheduler_output_processor_mixin import (
    SchedulerOutputProcessorMixin,
)
from simulator.profiles.sglang_0_5_5.sglang.srt.managers.tp_worker import (
    GenerationBatchResult,
    TpModelWorker,
)


class Scheduler(scheduler.Scheduler, SchedulerOutputProcessorMixin):
    """One rank."""

    def __init__(self, host: Host, tp_rank: int, channels: list[scheduler.Channel]) -> None:
        super().__init__(host, tp_rank, channels)
        self.cur_batch: ScheduleBatch | None = None
        self.model_worker = TpModelWorker(host)

    def event_loop_overlap(self) -> NoReturn:
        """Launch a batch, then process the one before it."""
        self.result_queue = deque()
        while True:
            recv_reqs = self.recv_requests()
            self.process_input_requests(recv_reqs)

            batch = self.get_next_batch_to_run()
            self.cur_batch = batch

            batch_result = None
            if batch:
                batch_result = self.run_batch(batch)
                self.result_queue.append((batch.copy(), batch_result))

            if self.last_batch:
                tmp_batch, tmp_result = self.result_queue.popleft()
                self.process_batch_result(tmp_batch, tmp_result)
            elif batch is None:
                self.self_check_during_idle()

            self.launch_batch_sample_if_needed(batch_result)
            self.last_batch = batch

    def get_next_batch_to_run(self) -> ScheduleBatch | None:
        """Decide what comes next."""
        return self.next_batch(self.last_batch)

    def run_batch(self, batch: ScheduleBatch) -> GenerationBatchResult:
        """Launch a batch."""
        self.forward_ct += 1
        self.begin(batch, time.monotonic_ns())
        bs = len(batch.reqs)
        batch_result = self.model_worker.forward_batch_generation(batch, bs)
        return batch_result

    def process_batch_result(self, batch: ScheduleBatch, result: GenerationBatchResult) -> None:
        """Take the results of a batch."""
        assert batch.forward_mode is not None
        if batch.forward_mode.is_decode():
            self.process_batch_result_decode(batch, result)
        else:
            self.process_batch_result_prefill(batch, result)
        self.end(batch)

    def launch_batch_sample_if_needed(self, batch_result: GenerationBatchResult | None) -> None:
        """Nothing was put off."""

    def self_check_during_idle(self) -> None:
        """Have nothing to do."""
        self.rest()


def run_scheduler_process(host: Host, tp_rank: int, channels: list[scheduler.Channel]) -> None:
    """Live as one rank."""
    Scheduler(host, tp_rank, channels).event_loop_overlap()
