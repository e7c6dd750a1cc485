"""What the schedulers of all versions share: which batch comes next."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.sglang.srt.managers.schedule_batch import ScheduleBatch
from simulator.profiles.machinery.sglang.srt.utils import broadcast_pyobj
from simulator.profiles.machinery.traffic import Batcher, Request

# The real loop spins while it has nothing to do.
IDLE_SECONDS = 0.001


class Channel:
    """What rank 0 received, on its way to the other ranks."""

    def __init__(self) -> None:
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)


class Scheduler:
    """One rank."""

    def __init__(self, host: Host, tp_rank: int, channels: list[Channel]) -> None:
        add_settings(self)
        self.host = host
        self.attn_tp_rank = tp_rank
        self.channels = channels
        self.forward_ct = 0
        self.batcher = Batcher()
        self.waiting_queue = self.batcher.waiting
        self.running_batch = ScheduleBatch([])
        self.last_batch: ScheduleBatch | None = None
        self.result_queue: Any = None
        self.truth = host.recorder() if tp_rank == 0 else None
        self.inbox: list[Any] = []
        self.traffic = host.traffic(self.inbox.append)
        if tp_rank == 0:
            self.traffic.start()
        host.ready("core" if tp_rank == 0 else f"rank{tp_rank}")

    def recv_requests(self) -> list[Request]:
        """Take what has come; the other ranks get it from rank 0."""
        recv_reqs: list[Request] = []
        if self.attn_tp_rank == 0:
            while self.inbox:
                recv_reqs.extend(self.inbox.pop(0))
        return broadcast_pyobj(recv_reqs, self.attn_tp_rank, self.channels)

    def process_input_requests(self, recv_reqs: list[Request]) -> None:
        """Queue the requests."""
        self.waiting_queue.extend(recv_reqs)

    def next_batch(self, last_batch: ScheduleBatch | None) -> ScheduleBatch | None:
        """Prefill what waits, else decode what runs."""
        if last_batch is not None and last_batch.is_prefilled():
            if self.running_batch.is_empty():
                self.running_batch = last_batch
            else:
                self.running_batch.merge_batch(last_batch)
        new_batch = self.get_new_batch_prefill()
        if new_batch is not None:
            return new_batch
        if self.running_batch.is_empty():
            return None
        self.running_batch = self.update_running_batch(self.running_batch)
        return None if self.running_batch.is_empty() else self.running_batch

    def get_new_batch_prefill(self) -> ScheduleBatch | None:
        """Take waiting requests into a new batch."""
        running_bs = len(self.running_batch.reqs)
        plan = self.batcher.next_prefill()
        if plan is None:
            return None
        new_batch = ScheduleBatch([request for request, _ in plan.entries], plan)
        new_batch.prepare_for_extend()
        assert running_bs >= 0
        return new_batch

    def update_running_batch(self, batch: ScheduleBatch) -> ScheduleBatch:
        """Change the running batch into its next decode."""
        batch.prepare_for_decode(self.batcher)
        return batch

    def begin(self, batch: ScheduleBatch, begin_ns: int) -> None:
        """Note the truth of a batch that was launched."""
        plan = batch.plan
        assert plan is not None
        plan.sequence, plan.begin_ns = self.forward_ct, begin_ns
        if self.truth is not None:
            self.truth.begun.append(plan)

    def end(self, batch: ScheduleBatch) -> None:
        """Note the truth of a batch whose results are processed."""
        plan = batch.plan
        assert plan is not None
        self.traffic.finished += self.batcher.finish(plan)
        plan.end_ns = time.monotonic_ns()

    def rest(self) -> None:
        """Sleep where the real scheduler would spin."""
        time.sleep(IDLE_SECONDS)
