"""Simulated records hold what agents would read of such an engine, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.codec import decode, encode
from schemas.records import Iteration, Record, Workload
from schemas.topics import ITERATIONS
from simulator.fleet import presets
from simulator.fleet.fleet import Fleet, simulate
from simulator.fleet.setting import Setting, Tokens

SECONDS = 5.0
DRAFTS = 3
PROMPT_TOKENS = 400
VLLM = presets.load("a100_vllm")
SGLANG = presets.load("sglang_tp4")


def drafting(setting: Setting) -> Setting:
    traffic = replace(
        setting.traffic,
        requests_per_second=8.0,
        prompt_tokens=Tokens(median=PROMPT_TOKENS),
        output_tokens=Tokens(median=60),
        speculative_tokens=DRAFTS,
    )
    return replace(setting, traffic=traffic)


def iterations_of(records: list[Record]) -> list[Iteration]:
    return [one for one in records if isinstance(one, Iteration)]


def workloads(setting: Setting) -> list[Workload]:
    found = iterations_of(list(simulate([setting], seconds=SECONDS, seed=3)))
    return [one.workload for one in found if one.end_ns is not None and one.rank == 0]


def test_drafts_of_vllm_are_told_apart_from_prefill() -> None:
    found = workloads(drafting(VLLM))
    assert any(one.prefill_tokens and one.speculative_tokens for one in found)
    for one in found:
        assert one.scheduled_tokens is not None
        assert one.prefill_tokens is not None
        assert one.decode_requests is not None
        assert one.speculative_tokens is not None
        assert one.speculative_tokens == DRAFTS * one.decode_requests
        parts = one.prefill_tokens + one.decode_requests + one.speculative_tokens
        assert one.scheduled_tokens == parts
        if one.requests == one.decode_requests:
            assert one.prefill_tokens == 0


def test_an_engine_of_vllm_without_speculation_says_so() -> None:
    assert {one.speculative_tokens for one in workloads(VLLM)} == {0}


def test_sglang_tells_no_drafts() -> None:
    for setting in (SGLANG, drafting(SGLANG)):
        assert {one.speculative_tokens for one in workloads(setting)} == {None}


def test_sglang_tells_but_the_requests_of_a_batch_that_verifies_drafts() -> None:
    verifying = [one for one in workloads(drafting(SGLANG)) if one.scheduled_tokens is None]
    assert verifying
    for one in verifying:
        assert one.requests
        assert one.running_requests is not None
        assert one.prefill_tokens is one.decode_requests is one.kv_tokens is None


def test_sglang_mixes_no_prefill_into_a_batch_that_verifies_drafts() -> None:
    setting = drafting(SGLANG)
    setting = replace(setting, traffic=replace(setting.traffic, cached_ratio=0.0))
    fleet = Fleet([setting], seed=3)
    found = iterations_of(list(fleet.records(SECONDS)))
    seen = [one.workload for one in found if one.rank == 0 and one.workload.prefill_tokens]
    assert fleet.finished_requests > 10
    # So every prompt is in a batch of which all is told.
    prompts = PROMPT_TOKENS * fleet.finished_requests
    assert sum(one.prefill_tokens or 0 for one in seen) >= prompts
    assert {one.decode_requests for one in seen} == {0}


def test_adapters_are_told_where_the_model_runner_is_in_the_core() -> None:
    def adapters(setting: Setting) -> list[tuple[int | None, int | None]]:
        asking = replace(setting, traffic=replace(setting.traffic, lora_adapters=4))
        return [(one.lora_adapters, one.requests) for one in workloads(asking)]

    found = adapters(VLLM)
    assert all(n == min(4, requests or 0) for n, requests in found)
    assert any(n == 4 for n, _ in found)
    assert {one.lora_adapters for one in workloads(VLLM)} == {0}
    for setting in (SGLANG, presets.load("cpu_replica"), replace(VLLM, ranks=2)):
        assert {n for n, _ in adapters(setting)} == {None}


@pytest.mark.parametrize("setting", [VLLM, SGLANG])
def test_messages_with_drafts_are_the_records_as_the_codec_has_them(setting: Setting) -> None:
    messages = list(Fleet([drafting(setting)], seed=3).messages(SECONDS))
    records = list(Fleet([drafting(setting)], seed=3).records(SECONDS))
    assert [message.value for message in messages] == [encode(record) for record in records]
    found = [one for one in messages if one.topic == ITERATIONS.name]
    assert all(isinstance(decode(Iteration, one.value), Iteration) for one in found)
