"""What the replica's scheduler promises, without any process."""

from __future__ import annotations

import ctypes
import random
import sys
from dataclasses import replace

import pytest

from simulator.replica.config import ReplicaConfig
from simulator.replica.vllm.v1.core.sched.output import SchedulerOutput
from simulator.replica.vllm.v1.core.sched.request_queue import FCFSRequestQueue
from simulator.replica.vllm.v1.core.sched.scheduler import Scheduler
from simulator.replica.vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from simulator.replica.vllm.v1.outputs import ModelRunnerOutput
from simulator.replica.vllm.v1.request import Request

CONFIG = ReplicaConfig(max_batched_tokens=64, max_requests_in_batch=4, kv_blocks=512)


def add(
    scheduler: Scheduler, request_id: str, *, prompt_tokens: int, output_tokens: int
) -> Request:
    core_request = EngineCoreRequest(request_id, list(range(prompt_tokens)), output_tokens)
    request = Request(core_request, queued_at_seconds=0.0)
    scheduler.add_request(request)
    return request


def answer(scheduler: Scheduler, output: SchedulerOutput) -> list[EngineCoreOutput]:
    """Do what the worker does: one token for each request whose tokens are all computed."""
    req_ids = list(output.num_scheduled_tokens)
    sampled = []
    for req_id in req_ids:
        request = scheduler.requests.get(req_id)
        done = request is not None and request.num_computed_tokens >= request.num_tokens
        sampled.append([7] if done else [])
    return scheduler.update_from_output(output, ModelRunnerOutput(req_ids, sampled))


def step(scheduler: Scheduler) -> tuple[SchedulerOutput, list[EngineCoreOutput]]:
    output = scheduler.schedule()
    return output, answer(scheduler, output)


def test_a_long_prompt_is_computed_in_chunks_of_the_token_budget() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, "long", prompt_tokens=150, output_tokens=2)
    lengths = []
    tokens = []
    while scheduler.has_unfinished_requests():
        output, outputs = step(scheduler)
        lengths.append(output.num_scheduled_tokens["long"])
        tokens.append(len(outputs))
    assert lengths == [64, 64, 22, 1]
    assert tokens == [0, 0, 1, 1]


def test_a_request_is_new_once_and_cached_afterwards() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, "a", prompt_tokens=100, output_tokens=3)
    first, _ = step(scheduler)
    second, _ = step(scheduler)
    third, _ = step(scheduler)
    assert [new.req_id for new in first.scheduled_new_reqs] == ["a"]
    assert first.scheduled_cached_reqs.num_reqs == 0
    assert second.scheduled_new_reqs == []
    assert second.scheduled_cached_reqs.req_ids == ["a"]
    assert second.scheduled_cached_reqs.num_computed_tokens == [64]
    assert third.scheduled_cached_reqs.num_output_tokens == [1]


def test_decoding_requests_keep_their_place_beside_a_prefill() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, "decode", prompt_tokens=8, output_tokens=50)
    step(scheduler)
    add(scheduler, "prefill", prompt_tokens=200, output_tokens=1)
    output, _ = step(scheduler)
    assert output.num_scheduled_tokens == {"decode": 1, "prefill": 63}


@pytest.mark.parametrize("kv_blocks", [256, 272])
def test_a_random_load_keeps_every_invariant_and_starves_nobody(kv_blocks: int) -> None:
    config = replace(CONFIG, kv_blocks=kv_blocks, max_requests_in_batch=32)
    scheduler = Scheduler(config)
    generator = random.Random(3)
    wanted: dict[str, int] = {}
    got: dict[str, int] = {}
    preemptions = 0
    previous_set: set[str] | None = None
    steps = 0
    while len(wanted) < 60 or scheduler.has_unfinished_requests():
        if len(wanted) < 60 and (steps % 3 == 0 or not scheduler.has_unfinished_requests()):
            request_id = f"r{len(wanted)}"
            wanted[request_id] = generator.randint(1, 200)
            add(
                scheduler,
                request_id,
                prompt_tokens=generator.randint(1, 600),
                output_tokens=wanted[request_id],
            )
        step_before = scheduler.current_step
        output = scheduler.schedule()
        assert scheduler.current_step == step_before + 1
        assert output.finished_req_ids is not scheduler.finished_req_ids
        assert scheduler.finished_req_ids is not previous_set
        previous_set = scheduler.finished_req_ids
        lengths = output.num_scheduled_tokens.values()
        assert sum(lengths) == output.total_num_scheduled_tokens
        assert 0 < output.total_num_scheduled_tokens <= config.max_batched_tokens
        assert min(lengths) >= 1
        assert len(lengths) <= config.max_requests_in_batch
        named = {new.req_id for new in output.scheduled_new_reqs}
        named |= set(output.scheduled_cached_reqs.req_ids)
        assert named == set(output.num_scheduled_tokens)
        assert named.isdisjoint(output.preempted_req_ids)
        preemptions += len(output.preempted_req_ids)
        for engine_output in answer(scheduler, output):
            got[engine_output.request_id] = got.get(engine_output.request_id, 0) + 1
        steps += 1
        assert steps < 50_000
    assert got == wanted
    assert preemptions > 0
    assert scheduler.total_preemptions == preemptions
    assert scheduler.get_kv_cache_usage() == 0.0
    assert not scheduler.requests


def test_requests_are_served_in_the_order_of_their_arrival() -> None:
    scheduler = Scheduler(CONFIG)
    for number in range(12):
        add(scheduler, f"r{number}", prompt_tokens=30, output_tokens=5)
    order: list[str] = []
    while scheduler.has_unfinished_requests():
        output, _ = step(scheduler)
        order += [new.req_id for new in output.scheduled_new_reqs]
    assert order == [f"r{number}" for number in range(12)]


def test_an_aborted_request_is_forgotten_even_while_its_batch_runs() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, "gone", prompt_tokens=10, output_tokens=5)
    add(scheduler, "stays", prompt_tokens=10, output_tokens=5)
    output = scheduler.schedule()
    scheduler.finish_requests(["gone", "never heard of"])
    sampled = ModelRunnerOutput(["gone", "stays"], [[1], [1]])
    assert [o.request_id for o in scheduler.update_from_output(output, sampled)] == ["stays"]
    next_output, _ = step(scheduler)
    assert next_output.finished_req_ids == {"gone"}
    assert list(next_output.num_scheduled_tokens) == ["stays"]


def test_the_attributes_are_too_many_for_inline_values_and_never_grow() -> None:
    scheduler = Scheduler(CONFIG)
    names = set(vars(Scheduler(CONFIG)))
    assert len(names) > 30
    add(scheduler, "a", prompt_tokens=100, output_tokens=3)
    while scheduler.has_unfinished_requests():
        step(scheduler)
    assert set(vars(scheduler)) == names
    assert type(scheduler.waiting) is FCFSRequestQueue
    assert type(scheduler.running) is list


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="reads CPython 3.11 memory")
def test_an_observer_finds_a_real_dictionary_before_the_object() -> None:
    scheduler = Scheduler(CONFIG)
    word_bytes = ctypes.sizeof(ctypes.c_void_p)
    # CPython 3.11 keeps the dictionary three words, the inline values four words before.
    dictionary = ctypes.c_void_p.from_address(id(scheduler) - 3 * word_bytes).value
    inline_values = ctypes.c_void_p.from_address(id(scheduler) - 4 * word_bytes).value
    assert dictionary is not None
    assert inline_values is None
    assert dictionary == id(vars(scheduler))


def test_the_account_of_kv_tokens_counts_what_attention_reads() -> None:
    scheduler = Scheduler(CONFIG)
    add(scheduler, "a", prompt_tokens=10, output_tokens=5)
    add(scheduler, "b", prompt_tokens=20, output_tokens=5)
    step(scheduler)
    assert scheduler.last_kv_tokens == 30
    step(scheduler)
    assert scheduler.last_kv_tokens == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_blocks": 10}, "give more blocks or a shorter model length"),
        ({"work_ratio": 0.0}, "give 0.01 to 100"),
        ({"max_batched_tokens": 0}, "give 1 or more"),
        ({"port": 70_000}, "any free port"),
    ],
)
def test_a_config_that_cannot_work_says_what_to_give(
    changes: dict[str, int | float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ReplicaConfig(**changes)  # type: ignore[arg-type]  # deliberately any field
