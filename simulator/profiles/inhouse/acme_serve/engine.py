"""A plain loop over batches."""

from __future__ import annotations

import queue
import time
from typing import Any, NoReturn

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.traffic import Batcher, Plan


class Stats:
    """What the engine counts."""

    def __init__(self) -> None:
        self.iteration = 0


class Work:
    """One batch."""

    def __init__(self, plan: Plan) -> None:
        self.query_lengths = [tokens for _, tokens in plan.entries]
        self.total_tokens = plan.scheduled_tokens
        self.context_tokens = plan.kv_tokens
        self.plan = plan


class AcmeEngine:
    """Pick, compute, reply."""

    def __init__(self, host: Host) -> None:
        self.stats = Stats()
        self.pending: queue.Queue[Any] = queue.Queue()
        self.batcher = Batcher()
        self.backlog = self.batcher.waiting
        self.device = host.stream()
        self._truth = host.recorder()
        self._traffic = host.traffic(self.pending.put_nowait)
        self._traffic.start()
        host.ready("core")

    def serve_forever(self) -> NoReturn:
        """Wait for work and do it."""
        while True:
            if not self.batcher.has_unfinished:
                self.wait_for_work()
            while not self.pending.empty():
                self.backlog.extend(self.pending.get_nowait())
            self.run_iteration()

    def wait_for_work(self) -> None:
        """Sleep until a request comes."""
        self.backlog.extend(self.pending.get())

    def run_iteration(self) -> None:
        """Do one batch."""
        self.stats.iteration += 1
        work = self.pick()
        self.compute(work)
        self.reply(work)
        work.plan.end_ns = time.monotonic_ns()

    def pick(self) -> Work:
        """Take the next batch."""
        begin_ns = time.monotonic_ns()
        plan = self.batcher.next_mixed()
        plan.sequence, plan.begin_ns = self.stats.iteration, begin_ns
        self._truth.begun.append(plan)
        return Work(plan)

    def compute(self, work: Work) -> None:
        """Run the model."""
        self.device.launch(work.plan.prefill_tokens).synchronize()

    def reply(self, work: Work) -> None:
        """Answer the finished requests."""
        self._traffic.finished += self.batcher.finish(work.plan)


def run_engine(host: Host) -> None:
    """Live as the engine."""
    AcmeEngine(host).serve_forever()
