"""The scheduler of SGLang 0.5.23: as 0.5.5, with its parts in components."""

from __future__ import annotations

import time
from collections import deque
from typing import NoReturn

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.sglang.srt.managers import scheduler
from simulator.profiles.machinery.sglang.srt.managers.schedule_batch import ScheduleBatch
from simulator.profiles.machinery.sglang.srt.model_executor.forward_batch_info import ForwardBatch
from simulator.profiles.sglang_0_5_5.sglang.srt.managers.tp_worker import (
    GenerationBatchResult,
    TpModelWorker,
)
from simulator.profiles.sglang_0_5_23.sglang.srt.managers.scheduler_components import (
    batch_result_processor,
    request_receiver,
)


class NextBatchPlan:
    """What was decided: the batch to run, and the one that goes on running."""

    def __init__(self, batch_to_run: ScheduleBatch | None, running_batch: ScheduleBatch) -> None:
        self.batch_to_run = batch_to_run
        self.running_batch = running_batch


class Scheduler(scheduler.Scheduler):
    """One rank."""

    def __init__(self, host: Host, tp_rank: int, channels: list[scheduler.Channel]) -> None:
        super().__init__(host, tp_rank, channels)
        self.cur_batch_for_debug: ScheduleBatch | None = None
        self.model_worker = TpModelWorker(host)
        self.request_receiver = request_receiver.SchedulerRequestReceiver(self)
        self.batch_result_processor = batch_result_processor.SchedulerBatchResultProcessor()

    def event_loop_overlap(self) -> NoReturn:
        """Launch a batch, then process the one before it."""
        self.result_queue = deque()

        def pop_and_process() -> None:
            tmp_batch, tmp_result = self.result_queue.popleft()
            self.process_batch_result(tmp_batch, tmp_result)

        while True:
            self.ingest_requests()
            plan = self.get_next_batch_to_run(
                running_batch=self.running_batch, last_batch=self.last_batch
            )
            self.running_batch = plan.running_batch
            batch = plan.batch_to_run
            self.cur_batch_for_debug = batch

            if batch:
                batch_result = self.run_batch(batch)
                self.result_queue.append((batch.copy(), batch_result))
            else:
                batch_result = None

            if self.last_batch:
                pop_and_process()
            elif batch is None:
                self.on_idle()

            self.launch_batch_sample_if_needed(batch_result, batch)
            self.last_batch = batch

    def ingest_requests(self) -> None:
        """Take what has come."""
        recv_reqs = self.request_receiver.recv_requests()
        self.process_input_requests(recv_reqs)

    def get_next_batch_to_run(
        self, running_batch: ScheduleBatch, last_batch: ScheduleBatch | None
    ) -> NextBatchPlan:
        """Decide what comes next."""
        self.running_batch = running_batch
        batch_to_run = self.next_batch(last_batch)
        if batch_to_run is not None and batch_to_run is self.running_batch:
            batch_to_run.seq_lens_sum = None
        return NextBatchPlan(batch_to_run, self.running_batch)

    def run_batch(self, batch: ScheduleBatch) -> GenerationBatchResult:
        """Launch a batch."""
        self.forward_ct += 1
        self.begin(batch, time.monotonic_ns())
        batch.forward_iter = self.forward_ct
        batch.launch_ts = time.monotonic()
        ForwardBatch.init_new(batch)
        batch_result = self.model_worker.forward_batch_generation(batch, len(batch.reqs))
        return batch_result

    def process_batch_result(self, batch: ScheduleBatch, result: GenerationBatchResult) -> None:
        """Take the results of a batch."""
        assert batch.forward_mode is not None
        if batch.forward_mode.is_decode():
            self.batch_result_processor.process_batch_result_decode(batch, result)
        else:
            self.batch_result_processor.process_batch_result_prefill(batch, result)
        self.end(batch)

    def launch_batch_sample_if_needed(
        self, batch_result: GenerationBatchResult | None, batch: ScheduleBatch | None
    ) -> None:
        """Nothing was put off."""

    def on_idle(self) -> None:
        """Have nothing to do."""
        self.rest()


def run_scheduler_process(host: Host, tp_rank: int, channels: list[scheduler.Channel]) -> None:
    """Live as one rank."""
    Scheduler(host, tp_rank, channels).event_loop_overlap()
