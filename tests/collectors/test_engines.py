"""The shelf of frameworks, and what is special about vLLM."""

from __future__ import annotations

import pytest

from collectors.discovery import EngineProcess, Process, ProcessTable
from collectors.engines import Framework, available, find_engines, load

SUMS = {
    "scheduled_tokens": 50,
    "requests": 3,
    "token_sum": 50,
    "prefill_tokens": 48,
    "decode_requests": 2,
    "computed_cached": 100,
    "computed_new": 16,
    "waiting_requests": 4,
    "running_requests": 3,
}


def test_a_framework_nobody_wrote_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookupError, match=r"unknown framework 'vlm'; have: .*vllm"):
        load("vlm")


@pytest.mark.parametrize("name", ["base", "__init__", "../engines/vllm", ""])
def test_what_is_no_framework_is_never_imported(name: str) -> None:
    assert name not in available()
    with pytest.raises(LookupError):
        load(name)


def test_a_process_belongs_to_the_first_framework_that_claims_it() -> None:
    process = Process(pid=5000999, parent_pid=0, start_ticks=1, arguments=("VLLM::EngineCore",))
    vllm: list[Framework] = [load("vllm"), load("vllm")]
    assert len(find_engines(ProcessTable({process.pid: process}), vllm)) == 1


def test_vllm_adds_up_context_and_new_tokens() -> None:
    workload = load("vllm").workload(SUMS)
    assert workload is not None
    assert (workload.requests, workload.scheduled_tokens) == (3, 50)
    assert (workload.prefill_tokens, workload.decode_requests) == (48, 2)
    assert (workload.waiting_requests, workload.running_requests) == (4, 3)
    assert workload.kv_tokens == 166


@pytest.mark.parametrize(
    "torn",
    [
        {"token_sum": 49},
        {"scheduled_tokens": 51},
        {"requests": 51},
        {"requests": -1},
        {"prefill_tokens": 47},
        {"decode_requests": 3},
    ],
)
def test_vllm_refuses_numbers_that_do_not_add_up(torn: dict[str, int]) -> None:
    assert load("vllm").workload(SUMS | torn) is None


@pytest.mark.parametrize("name", ["scheduled_tokens", "requests", "token_sum"])
def test_vllm_gives_no_workload_without_what_proves_it(name: str) -> None:
    assert load("vllm").workload({k: v for k, v in SUMS.items() if k != name}) is None


@pytest.mark.parametrize("name", ["computed_cached", "computed_new"])
def test_vllm_leaves_the_context_unknown_where_half_of_it_is(name: str) -> None:
    workload = load("vllm").workload({k: v for k, v in SUMS.items() if k != name})
    assert workload is not None
    assert workload.kv_tokens is None


def test_the_version_of_a_process_that_is_gone_is_unknown() -> None:
    core = Process(pid=5000999, parent_pid=0, start_ticks=1, arguments=("VLLM::EngineCore",))
    engine = EngineProcess(framework="vllm", name="8000", core=core)
    assert load("vllm").version(engine) is None
