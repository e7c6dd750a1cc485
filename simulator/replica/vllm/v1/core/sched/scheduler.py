"""The scheduler decides, before every iteration, how many tokens of which request to compute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from simulator.replica.config import ReplicaConfig
from simulator.replica.vllm.v1.core.kv_cache_manager import KVCacheManager
from simulator.replica.vllm.v1.core.sched.output import (
    CachedRequestData,
    NewRequestData,
    SchedulerOutput,
)
from simulator.replica.vllm.v1.core.sched.request_queue import FCFSRequestQueue
from simulator.replica.vllm.v1.engine import EngineCoreOutput, RequestTimes, SchedulerStats
from simulator.replica.vllm.v1.outputs import ModelRunnerOutput
from simulator.replica.vllm.v1.request import Request, RequestStatus


class Scheduler:
    """Batch continuously, with chunked prefill and preemption when the KV cache is full.

    `current_step` grows by one at the very start of every `schedule()`;
    `finished_req_ids` becomes a new set object at its end.
    """

    def __init__(
        self, config: ReplicaConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # CPython 3.11 keeps up to 30 attributes outside a dictionary. vLLM's scheduler has
        # more, so observers find a real dictionary there: keep more than 30 here, too, and
        # create them all in this method, so that the dictionary is never resized afterwards.
        self.config = config
        self.clock = clock
        self.model_name = config.model_name
        self.current_step = 0
        self.finished_req_ids: set[str] = set()
        self.requests: dict[str, Request] = {}
        self.waiting = FCFSRequestQueue()
        self.running: list[Request] = []
        self.kv_cache_manager = KVCacheManager(
            num_blocks=config.kv_blocks, block_size_tokens=config.block_size_tokens
        )
        self.block_size = config.block_size_tokens
        self.num_gpu_blocks = config.kv_blocks
        self.max_num_running_reqs = config.max_requests_in_batch
        self.max_num_scheduled_tokens = config.max_batched_tokens
        self.max_model_len = config.max_model_len_tokens
        self.policy = "fcfs"
        self.log_stats = True
        self.enable_chunked_prefill = True
        self.enable_prefix_caching = False
        self.use_spec_decode = False
        self.num_spec_tokens = 0
        self.dp_rank = 0
        self.pp_size = 1
        self.scheduler_reserve_full_isl = False
        self.connector: object | None = None
        self.structured_output_manager: object | None = None
        self.last_schedule_at_seconds = 0.0
        self.last_kv_tokens = 0
        self.last_waiting_requests = 0
        self.num_preempted_in_step = 0
        self.total_scheduled_tokens = 0
        self.total_generated_tokens = 0
        self.total_prompt_tokens = 0
        self.total_preemptions = 0
        self.total_finished_requests = 0
        self.total_aborted_requests = 0

    def add_request(self, request: Request) -> None:
        """Queue a request behind those that came before."""
        self.requests[request.request_id] = request
        self.waiting.add_request(request)

    def has_unfinished_requests(self) -> bool:
        """Say whether there is anything to compute."""
        return bool(self.running) or bool(self.waiting)

    def get_kv_cache_usage(self) -> float:
        """Say how full the KV cache is, 0 to 1."""
        return self.kv_cache_manager.usage_ratio

    def schedule(self) -> SchedulerOutput:
        """Choose the next batch: running requests first, then waiting ones, within the budget."""
        self.current_step += 1
        scheduled_timestamp = self.clock()
        self.last_schedule_at_seconds = scheduled_timestamp
        token_budget = self.max_num_scheduled_tokens
        num_scheduled_tokens: dict[str, int] = {}
        scheduled_running_reqs: list[Request] = []
        scheduled_new_reqs: list[NewRequestData] = []
        cached = CachedRequestData()
        new_block_ids_of: dict[str, list[int]] = {}
        preempted_req_ids: set[str] = set()

        req_index = 0
        while req_index < len(self.running) and token_budget > 0:
            request = self.running[req_index]
            num_new_tokens = min(request.num_tokens - request.num_computed_tokens, token_budget)
            blocks = self._allocate_or_preempt(request, num_new_tokens, preempted_req_ids)
            if blocks is None:
                # The request gave up its own place, and it was the last in the list.
                break
            new_block_ids_of[request.request_id] = blocks
            num_scheduled_tokens[request.request_id] = num_new_tokens
            scheduled_running_reqs.append(request)
            token_budget -= num_new_tokens
            req_index += 1

        while (
            self.waiting
            and token_budget > 0
            and not preempted_req_ids
            and len(self.running) < self.max_num_running_reqs
        ):
            request = self.waiting.peek_request()
            num_new_tokens = min(request.num_tokens - request.num_computed_tokens, token_budget)
            new_blocks = self.kv_cache_manager.allocate_slots(
                request.request_id, request.num_computed_tokens + num_new_tokens
            )
            if new_blocks is None:
                break
            self.waiting.pop_request()
            self.running.append(request)
            num_scheduled_tokens[request.request_id] = num_new_tokens
            token_budget -= num_new_tokens
            if request.status is RequestStatus.WAITING:
                request.scheduled_at_seconds = scheduled_timestamp
                scheduled_new_reqs.append(
                    NewRequestData(
                        req_id=request.request_id,
                        prompt_token_ids=request.prompt_token_ids,
                        block_ids=new_blocks,
                        num_computed_tokens=request.num_computed_tokens,
                    )
                )
            else:
                cached.resumed_req_ids.add(request.request_id)
                new_block_ids_of[request.request_id] = new_blocks
                scheduled_running_reqs.append(request)
            request.status = RequestStatus.RUNNING

        for request in scheduled_running_reqs:
            cached.req_ids.append(request.request_id)
            cached.new_block_ids.append(new_block_ids_of[request.request_id])
            cached.num_computed_tokens.append(request.num_computed_tokens)
            cached.num_output_tokens.append(request.num_output_tokens)

        total_num_scheduled_tokens = self.max_num_scheduled_tokens - token_budget
        scheduler_output = SchedulerOutput(
            scheduled_new_reqs=scheduled_new_reqs,
            scheduled_cached_reqs=cached,
            num_scheduled_tokens=num_scheduled_tokens,
            total_num_scheduled_tokens=total_num_scheduled_tokens,
            finished_req_ids=self.finished_req_ids,
            preempted_req_ids=preempted_req_ids,
        )
        self._update_after_schedule(scheduler_output)
        return scheduler_output

    def _allocate_or_preempt(
        self, request: Request, num_new_tokens: int, preempted_req_ids: set[str]
    ) -> list[int] | None:
        """Find room for a running request, at the cost of the youngest ones; None if it lost."""
        while True:
            blocks = self.kv_cache_manager.allocate_slots(
                request.request_id, request.num_computed_tokens + num_new_tokens
            )
            if blocks is not None:
                return blocks
            victim = self.running.pop()
            self.kv_cache_manager.free(victim.request_id)
            victim.status = RequestStatus.PREEMPTED
            victim.num_computed_tokens = 0
            victim.num_preemptions += 1
            self.waiting.prepend_request(victim)
            preempted_req_ids.add(victim.request_id)
            if victim is request:
                return None

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        """Count the batch as computed, so that the next schedule() need not know of it."""
        kv_tokens = 0
        for req_id, num_tokens in scheduler_output.num_scheduled_tokens.items():
            request = self.requests[req_id]
            request.num_computed_tokens += num_tokens
            kv_tokens += request.num_computed_tokens
        self.last_kv_tokens = kv_tokens
        self.last_waiting_requests = len(self.waiting)
        self.num_preempted_in_step = len(scheduler_output.preempted_req_ids)
        self.total_preemptions += self.num_preempted_in_step
        self.total_scheduled_tokens += scheduler_output.total_num_scheduled_tokens
        self.finished_req_ids = set()

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> list[EngineCoreOutput]:
        """Append the sampled tokens and let go of the requests that have enough of them."""
        now_seconds = self.clock()
        outputs: list[EngineCoreOutput] = []
        finished = False
        for req_id, new_token_ids in zip(
            model_runner_output.req_ids, model_runner_output.sampled_token_ids, strict=True
        ):
            request = self.requests.get(req_id)
            if request is None or not new_token_ids:
                # Aborted while the batch was computed, or still reading its prompt.
                continue
            if request.num_output_tokens == 0:
                request.first_token_at_seconds = now_seconds
                self.total_prompt_tokens += request.num_prompt_tokens
            request.num_output_tokens += len(new_token_ids)
            self.total_generated_tokens += len(new_token_ids)
            output = EngineCoreOutput(req_id, new_token_ids)
            if request.num_output_tokens >= request.max_tokens:
                finished = True
                output.finish_reason = "length"
                output.times = RequestTimes(
                    queued_at_seconds=request.queued_at_seconds,
                    scheduled_at_seconds=request.scheduled_at_seconds,
                    first_token_at_seconds=request.first_token_at_seconds,
                    finished_at_seconds=now_seconds,
                )
                self._free_request(request)
            outputs.append(output)
        if finished:
            self.running = [r for r in self.running if r.status is not RequestStatus.FINISHED]
        return outputs

    def finish_requests(self, request_ids: Iterable[str]) -> None:
        """Abort requests wherever they are; an unknown id is no error."""
        aborted = [self.requests[req_id] for req_id in request_ids if req_id in self.requests]
        if not aborted:
            return
        self.waiting.remove_requests(aborted)
        for request in aborted:
            self._free_request(request)
        self.running = [r for r in self.running if r.status is not RequestStatus.FINISHED]
        self.total_aborted_requests += len(aborted)

    def _free_request(self, request: Request) -> None:
        request.status = RequestStatus.FINISHED
        self.kv_cache_manager.free(request.request_id)
        self.finished_req_ids.add(request.request_id)
        self.total_finished_requests += 1
        del self.requests[request.request_id]

    def make_stats(self, scheduler_output: SchedulerOutput | None) -> SchedulerStats:
        """Summarise the scheduler for the API server, with the iteration just done if any."""
        stats = SchedulerStats(
            num_running_reqs=len(self.running),
            num_waiting_reqs=len(self.waiting),
            kv_cache_usage_ratio=self.get_kv_cache_usage(),
        )
        if scheduler_output is not None:
            stats.iteration_tokens = scheduler_output.total_num_scheduled_tokens
            stats.num_preempted_reqs = self.num_preempted_in_step
        return stats
