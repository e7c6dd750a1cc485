"""The scheduler of the V1 engine; version 0.25 gave it a step counter."""

from __future__ import annotations

import time
from collections import deque

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.traffic import Batcher, Request
from simulator.profiles.machinery.vllm.v1.core.sched.output import SchedulerOutput


class FCFSRequestQueue(deque):  # type: ignore[type-arg]  # Python 3.8 cannot subscript it
    """Waiting requests, oldest first."""


class Scheduler:
    """Decide what runs in the next step."""

    def __init__(self, host: Host, *, with_current_step: bool, num_spec_tokens: int = 0) -> None:
        add_settings(self)
        self._batcher = Batcher(FCFSRequestQueue())
        self._batcher.draft(num_spec_tokens)
        self._truth = host.recorder()
        self._with_current_step = with_current_step
        self._steps = 0
        if with_current_step:
            self.current_step = 0
        self.waiting = self._batcher.waiting
        self.running = self._batcher.running
        self.finished_req_ids: set[str] = set()

    def schedule(self) -> SchedulerOutput:
        """Take the next batch; one without tokens where every token is in flight."""
        begin_ns = time.monotonic_ns()
        if self._with_current_step:
            self.current_step += 1
        self._steps += 1
        num_scheduled_tokens = {}
        plan = self._batcher.next_mixed()
        plan.sequence, plan.begin_ns = self._steps, begin_ns
        self._truth.begun.append(plan)
        for request, tokens in plan.entries:
            num_scheduled_tokens[request.request_id] = tokens
        total_num_scheduled_tokens = sum(num_scheduled_tokens.values())
        assert total_num_scheduled_tokens == plan.scheduled_tokens
        scheduler_output = SchedulerOutput(plan, self.finished_req_ids)
        self._update_after_schedule(scheduler_output)
        return scheduler_output

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        # A new set, never clear(): the output keeps the old one.
        del scheduler_output
        self.finished_req_ids = set()

    def get_grammar_bitmask(self, scheduler_output: SchedulerOutput) -> object:
        """Constrain nothing."""
        del scheduler_output
        return None

    def update_from_output(self, scheduler_output: SchedulerOutput, model_output: object) -> int:
        """Let go of finished requests; how many there were."""
        del model_output
        plan = scheduler_output.plan
        assert plan is not None
        num_finished = self._batcher.finish(plan)
        self.running = self._batcher.running
        for request in plan.finished:
            self.finished_req_ids.add(request.request_id)
        return num_finished

    def add_request(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def has_requests(self) -> bool:
        """Say whether a request waits or runs."""
        return bool(self.waiting or self.running)
