"""The simulated fleet: the same seed, the same bytes; what its records say hangs together."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from schemas.codec import decode, encode
from schemas.records import Engine, HostReading, Iteration, Record, XpuReading
from schemas.topics import TOPICS, key_of, time_ms_of, topic_of
from simulator.fleet import presets
from simulator.fleet.fleet import BEGIN_NS, OPEN_NS, Fleet, simulate
from simulator.fleet.setting import Setting, Tokens, Traffic

SECONDS = 6.0
A100 = presets.load("a100_vllm")


def iterations_of(records: list[Record]) -> list[Iteration]:
    return [one for one in records if isinstance(one, Iteration)]


def closed(records: list[Record], engine_id: str | None = None) -> list[Iteration]:
    return [
        one
        for one in iterations_of(records)
        if one.end_ns is not None and engine_id in (None, one.engine_id) and one.rank == 0
    ]


def busy(setting: Setting) -> Setting:
    """More requests than the engine can take, with all that makes a batch complicated."""
    traffic = Traffic(
        concurrency=40,
        prompt_tokens=Tokens(median=300, spread=0.8, most=2000),
        output_tokens=Tokens(median=60, spread=0.5),
        cached_ratio=0.3,
    )
    return replace(setting, traffic=traffic, max_requests=32, token_budget=512, kv_blocks=600)


@pytest.fixture(scope="module", params=presets.available())
def records(request: pytest.FixtureRequest) -> list[Record]:
    return list(simulate([presets.load(request.param)] * 3, seconds=SECONDS, seed=5))


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again = (list(Fleet([A100] * 2, seed=7).messages(SECONDS)) for _ in range(2))
    assert first == again


def test_another_seed_gives_another_stream() -> None:
    one, other = (list(simulate([A100], seconds=5, seed=seed)) for seed in (1, 2))
    assert [encode(record) for record in one] != [encode(record) for record in other]


@pytest.mark.parametrize("name", presets.available())
def test_messages_are_the_records_as_the_codec_has_them(name: str) -> None:
    settings = [presets.load(name), busy(presets.load(name))]
    messages = list(Fleet(settings, seed=3).messages(SECONDS))
    records = list(Fleet(settings, seed=3).records(SECONDS))
    assert len(messages) == len(records) > 100
    for message, record in zip(messages, records, strict=True):
        assert message.value == encode(record)
        assert decode(TOPICS[message.topic].record, message.value) == record
        assert message.topic == topic_of(record).name
        assert message.key == key_of(record)
        assert message.time_ms == time_ms_of(record)


def test_an_engine_is_the_same_however_many_there_are() -> None:
    few = list(simulate([A100] * 8, seconds=6, seed=4))
    many = list(simulate([A100] * 20, seconds=6, seed=4))
    names = {record.engine_id for record in few if isinstance(record, Engine)}
    assert few == [record for record in many if getattr(record, "engine_id", "") in names]


def test_iterations_depend_on_no_neighbour() -> None:
    alone = iterations_of(list(simulate([A100], seconds=6, seed=4)))
    beside = iterations_of(list(simulate([A100, busy(A100), A100], seconds=6, seed=4)))
    assert alone == [one for one in beside if one.engine_id == alone[0].engine_id]


def test_messages_come_in_the_order_of_time() -> None:
    times = [message.at_ns for message in Fleet([A100, busy(A100)] * 3, seed=2).messages(SECONDS)]
    assert times == sorted(times)
    assert times[0] >= BEGIN_NS
    assert times[-1] < BEGIN_NS + SECONDS * 1e9


def test_no_sequence_is_left_out(records: list[Record]) -> None:
    by_rank: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for one in iterations_of(records):
        if one.end_ns is not None:
            by_rank[one.engine_id, one.rank, one.role].append(one.sequence)
    assert by_rank
    for sequences in by_rank.values():
        assert sequences == list(range(1, len(sequences) + 1))


def test_an_engine_does_one_iteration_after_the_other(records: list[Record]) -> None:
    for engine_id in {one.engine_id for one in iterations_of(records)}:
        own = closed(records, engine_id)
        assert all(one.end_ns is not None and one.begin_ns < one.end_ns for one in own)
        assert all(a.end_ns <= b.begin_ns for a, b in itertools.pairwise(own) if a.end_ns)


def test_all_ranks_report(records: list[Record]) -> None:
    ranks = next(one.ranks for one in records if isinstance(one, Engine))
    if ranks == 1:
        pytest.skip("an engine of one rank")
    by_sequence: dict[tuple[str, int], set[int]] = defaultdict(set)
    for one in iterations_of(records):
        if one.end_ns is not None:
            by_sequence[one.engine_id, one.sequence].add(one.rank)
    assert all(found == set(range(ranks)) for found in by_sequence.values())


def test_workers_report_their_share_within_the_iteration_of_the_core() -> None:
    setting = replace(presets.load("sglang_tp4"), rank_role="worker")
    found = iterations_of(list(simulate([setting], seconds=4, seed=1)))
    cores = {one.sequence: one for one in found if one.role == "engine_core" and one.end_ns}
    workers = [one for one in found if one.role == "worker" and one.sequence in cores]
    assert {one.rank for one in workers} == {0, 1, 2, 3}
    for worker in workers:
        core = cores[worker.sequence]
        assert worker.end_ns is not None
        assert core.end_ns is not None
        assert core.begin_ns <= worker.begin_ns <= worker.end_ns <= core.end_ns


def test_a_workload_adds_up_and_keeps_the_limits() -> None:
    setting = busy(A100)
    fleet = Fleet([setting] * 2, seed=9)
    found = closed(list(fleet.records(SECONDS)))
    assert fleet.preemptions > 0
    for one in found:
        work = one.workload
        assert work.scheduled_tokens is not None
        assert work.prefill_tokens is not None
        assert work.decode_requests is not None
        assert work.requests is not None
        assert work.kv_tokens is not None
        assert work.running_requests is not None
        assert work.scheduled_tokens == work.prefill_tokens + work.decode_requests
        assert 0 < work.scheduled_tokens <= setting.token_budget
        assert work.decode_requests <= work.requests <= setting.max_requests
        assert work.requests <= work.running_requests <= setting.max_requests
        assert work.scheduled_tokens <= work.kv_tokens <= setting.kv_blocks * setting.block_tokens


def test_every_request_gets_its_answer() -> None:
    traffic = Traffic(
        requests_per_second=4.0,
        prompt_tokens=Tokens(median=50),
        output_tokens=Tokens(median=20),
    )
    found = closed(list(simulate([replace(A100, traffic=traffic)], seconds=30, seed=1)))
    prefills = sum(1 for one in found if one.workload.prefill_tokens)
    decoded = sum(one.workload.decode_requests or 0 for one in found)
    # The first token of an answer comes with the prompt's last; some are still under way.
    assert 80 < prefills <= 160
    assert decoded / 19 == pytest.approx(120, rel=0.25)


def test_prompts_in_the_cache_are_not_computed() -> None:
    def prefill(ratio: float) -> int:
        traffic = replace(A100.traffic, cached_ratio=ratio)
        found = closed(list(simulate([replace(A100, traffic=traffic)] * 4, seconds=8, seed=1)))
        return sum(one.workload.prefill_tokens or 0 for one in found)

    assert prefill(1.0) < 0.15 * prefill(0.0)


def test_accepted_drafts_make_answers_need_fewer_iterations() -> None:
    def finished(accepted: float) -> int:
        traffic = replace(
            A100.traffic,
            concurrency=8,
            requests_per_second=None,
            speculative_tokens=3,
            accepted_ratio=accepted,
        )
        fleet = Fleet([replace(A100, traffic=traffic)], seed=1)
        list(fleet.records(12))
        return fleet.finished_requests

    assert finished(0.9) > 1.8 * finished(0.0)


def test_a_long_iteration_is_told_of_while_it_runs() -> None:
    traffic = Traffic(concurrency=8, prompt_tokens=Tokens(median=2000))
    found = iterations_of(list(simulate([replace(A100, traffic=traffic)], seconds=5, seed=1)))
    ends = {one.sequence: one for one in found if one.end_ns is not None}
    told = [one for one in found if one.end_ns is None]
    assert told
    for one in told:
        assert one.running_ns is not None
        assert one.running_ns % OPEN_NS == 0
        if one.sequence in ends:
            end_ns = ends[one.sequence].end_ns
            assert end_ns is not None
            assert one.begin_ns + one.running_ns < end_ns
            assert one.workload == ends[one.sequence].workload


def test_phases_are_shares_of_the_duration(records: list[Record]) -> None:
    with_phases = [one for one in closed(records) if one.phases]
    assert with_phases
    for one in with_phases:
        assert one.end_ns is not None
        counts = [time.samples for time in one.phases]
        assert counts == sorted(counts, reverse=True)
        duration_ns = one.end_ns - one.begin_ns
        assert sum(time.duration_ns for time in one.phases) <= duration_ns
        assert sum(time.duration_ns for time in one.phases) > 0.99 * duration_ns - 10


def test_stacks_are_sampled_as_often_as_the_agent_would(records: list[Record]) -> None:
    samples = sum(time.samples for one in closed(records) for time in one.phases)
    seconds = sum((one.end_ns or 0) - one.begin_ns for one in closed(records)) / 1e9
    assert samples / seconds == pytest.approx(50, rel=0.1)


def test_readings_come_once_a_second_without_a_gap(records: list[Record]) -> None:
    by_engine: dict[str, list[HostReading]] = defaultdict(list)
    for one in records:
        if isinstance(one, HostReading):
            by_engine[one.engine_id].append(one)
    assert len(by_engine) == 3
    for readings in by_engine.values():
        assert len(readings) >= SECONDS - 2
        assert all(a.end_ns == b.begin_ns for a, b in itertools.pairwise(readings))
        for one in readings:
            assert one.end_ns - one.begin_ns == pytest.approx(1e9, rel=0.01)
            assert one.cpu_busy_ratio == pytest.approx(
                (one.engine_cpu_ratio or 0) + (one.others_cpu_ratio or 0), abs=1e-4
            )


def test_utilisation_is_the_time_of_the_device_within_the_iterations() -> None:
    setting = replace(A100, traffic=replace(A100.traffic, requests_per_second=0.1))
    records = list(simulate([setting], seconds=25, seed=8))
    busy_ns = sum((one.end_ns or 0) - one.begin_ns for one in closed(records))
    looks = [one for one in records if isinstance(one, XpuReading)]
    used = np.mean([one.utilization_ratio or 0.0 for one in looks])
    assert 0.05 < used < 0.95
    assert used == pytest.approx(busy_ns / 25e9, rel=0.15)
    idle = [one for one in looks if (one.utilization_ratio or 0) == 0]
    assert all((one.power_watts or 0) < 100 for one in idle)


def test_neighbours_are_others_to_an_engine() -> None:
    setting = presets.load("cpu_replica")
    alone = list(simulate([setting], seconds=4, seed=1))
    crowded = list(simulate([replace(setting, engines_per_host=3)] * 3, seconds=4, seed=1))

    def others(records: list[Record]) -> float:
        found = [one for one in records if isinstance(one, HostReading)]
        return float(np.mean([one.others_cpu_ratio or 0.0 for one in found]))

    assert others(crowded) > others(alone) + 0.2


def test_an_engine_without_an_accelerator_has_no_readings_of_one() -> None:
    records = list(simulate([presets.load("cpu_replica")], seconds=5, seed=1))
    assert not any(isinstance(one, XpuReading) for one in records)


def test_no_setting_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="give at least one"):
        Fleet([])


def test_an_unknown_preset_is_refused_with_the_choice() -> None:
    with pytest.raises(ValueError, match="a100_vllm"):
        presets.load("h900")
