"""Faults and controls in a simulated fleet, and the truth about them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from schemas.records import (
    Alert,
    Engine,
    Fault,
    HostReading,
    Iteration,
    ProcessReading,
    Record,
    XpuReading,
)
from simulator import controls, faults
from simulator.fleet import episodes as module
from simulator.fleet import presets
from simulator.fleet.effect import Effect, add, times
from simulator.fleet.episodes import Episode, Told, check, parse_episodes, random_episodes
from simulator.fleet.fleet import BEGIN_NS, Fleet, simulate
from simulator.fleet.setting import Setting, Tokens, Traffic
from streams.offline import Offline

A100 = presets.load("a100_vllm")
BEGIN, END = 3.0, 6.0
SECONDS = 8.0

Simulated = Callable[..., list[Record]]


@pytest.fixture
def with_effect(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    """Simulate engines under an effect that no fault of ours has."""

    def run(effect: Effect, settings: list[Setting], **told: bool) -> list[Record]:
        what = Told(
            severity="medium",
            intensity=1.0,
            causes=("unknown",),
            intermittent=False,
            host_wide=told.get("host_wide", False),
            effect=effect,
        )
        monkeypatch.setattr("simulator.fleet.fleet.tell", lambda episode: what)
        episode = Episode(name="cpu_squeeze", begin_seconds=BEGIN, end_seconds=END, engines=(0,))
        return list(simulate(settings, [episode], seconds=SECONDS, seed=2))

    return run


def inside(record: HostReading | ProcessReading | XpuReading) -> bool:
    """Whether a reading is of the episode and nothing else."""
    begin_ns, end_ns = BEGIN_NS + BEGIN * 1e9, BEGIN_NS + END * 1e9
    return begin_ns <= record.begin_ns - 1e9 * isinstance(record, XpuReading) and (
        record.end_ns <= end_ns
    )


def durations(records: list[Record], engine_id: str, begin: float, end: float) -> list[int]:
    return [
        one.end_ns - one.begin_ns
        for one in records
        if isinstance(one, Iteration)
        and one.engine_id == engine_id
        and one.end_ns is not None
        and begin <= (one.begin_ns - BEGIN_NS) / 1e9 < end
    ]


@pytest.mark.parametrize("name", faults.available())
def test_every_fault_can_be_simulated_and_its_truth_is_told(name: str) -> None:
    setting = replace(presets.load("sglang_tp4"), ranks=2, engines_per_host=2)
    episode = Episode(name=name, severity="heavy", begin_seconds=1.0, end_seconds=3.0, engines=(1,))
    fleet = Fleet([setting] * 3, [episode], seed=6)
    told = [one for one in fleet.records(4.0) if isinstance(one, Fault)]
    assert [one.state for one in told] == ["begun", "ended"]
    begun, ended = told
    injector = faults.load(name)
    assert begun.fault_id == ended.fault_id
    assert ended.name == name
    assert ended.kind == "fault"
    assert ended.simulated
    assert ended.causes == injector.causes
    assert ended.intensity == injector.levels.heavy
    assert ended.intermittent == injector.intermittent
    assert begun.end_ns is None
    assert begun.true_ratio is None
    assert ended.begin_ns == begun.begin_ns == BEGIN_NS + 1_000_000_000
    assert ended.end_ns == BEGIN_NS + 3_000_000_000
    assert "sim-0000:8001" in ended.engine_ids
    assert "sim-0001:8000" not in ended.engine_ids
    assert ended.true_ratio is None or ended.true_ratio >= 1.0
    assert fleet.truth == [ended]


@pytest.mark.parametrize("name", controls.available())
def test_every_control_can_be_simulated_and_is_no_fault(name: str) -> None:
    episode = Episode(name=name, begin_seconds=1.0, end_seconds=3.0)
    fleet = Fleet([A100], [episode], seed=6)
    told = [one for one in fleet.records(4.0) if isinstance(one, Fault)]
    assert [one.state for one in told] == ["begun", "ended"]
    assert {one.kind for one in told} == {"control"}
    assert {one.causes for one in told} == {()}
    assert {one.true_ratio for one in told} == {None}


def test_rare_pauses_cost_little_of_all_the_time(with_effect: Simulated) -> None:
    """Of all batches meanwhile, not only of those that were hit."""
    found = with_effect(Effect(pauses_per_second=1.0, pause_ms=100.0), [A100])
    (ended,) = (one for one in found if isinstance(one, Fault) and one.state == "ended")
    before = durations(found, "sim-0000:8000", 1.0, BEGIN)
    during = durations(found, "sim-0000:8000", BEGIN, END)
    assert ended.true_ratio is not None
    assert 1.0 < ended.true_ratio < 1.3
    assert max(during) > min(before) + 90_000_000


def test_the_true_ratio_is_what_the_batches_show(with_effect: Simulated) -> None:
    quiet = replace(A100, overlap=True, cost=replace(A100.cost, prepare=A100.cost.dispatch))
    effect = Effect(device_ratio=1.6)
    found = with_effect(effect, [quiet])
    (ended,) = (one for one in found if isinstance(one, Fault) and one.state == "ended")
    assert ended.true_ratio == pytest.approx(1.6, rel=0.001)
    before = durations(found, "sim-0000:8000", 1.0, BEGIN)
    during = durations(found, "sim-0000:8000", BEGIN, END)
    assert sorted(during)[len(during) // 2] > 1.4 * sorted(before)[len(before) // 2]


def test_a_fault_of_one_engine_leaves_the_others_alone(with_effect: Simulated) -> None:
    found = with_effect(Effect(device_ratio=3.0), [A100] * 2)
    normal = list(simulate([A100] * 2, seconds=SECONDS, seed=2))

    def others(records: list[Record]) -> list[Record]:
        return [
            one
            for one in records
            if isinstance(one, Iteration) and one.engine_id == "sim-0000:8001"
        ]

    assert others(found) == others(normal)


def test_a_fault_of_the_host_hits_all_its_engines(with_effect: Simulated) -> None:
    setting = replace(A100, engines_per_host=2)
    effect = Effect(host_ratio=4.0, host={"cpu_frequency_hz": times(0.5)})
    found = with_effect(effect, [setting] * 3, host_wide=True)
    (ended,) = (one for one in found if isinstance(one, Fault) and one.state == "ended")
    assert ended.engine_ids == ("sim-0000:8000", "sim-0000:8001")


def test_an_episode_that_names_no_engine_hits_all_and_is_told_of_by_host() -> None:
    episode = Episode(name="cpu_squeeze", begin_seconds=1.0, end_seconds=2.0)
    fleet = Fleet([replace(A100, engines_per_host=2)] * 3, [episode])
    list(fleet.records(3.0))
    assert [one.host for one in fleet.truth] == ["sim-0000", "sim-0001"]
    assert [len(one.engine_ids) for one in fleet.truth] == [2, 1]
    assert all((one.true_ratio or 0) > 1 for one in fleet.truth)


def test_counters_move_as_the_effect_says_and_only_meanwhile(with_effect: Simulated) -> None:
    effect = Effect(
        host={"cpu_frequency_hz": times(0.5), "swap_in_bytes_per_second": add(1e6)},
        process={"major_faults": add(50), "cgroup_throttled_seconds": add(0.3)},
        device={"core_clock_hz": times(0.25), "others": add(2)},
    )
    found = with_effect(effect, [A100])
    readings = [one for one in found if isinstance(one, HostReading | ProcessReading | XpuReading)]
    assert {type(one) for one in readings if inside(one)} == {
        HostReading,
        ProcessReading,
        XpuReading,
    }
    for one in readings:
        over = one.end_ns <= BEGIN_NS + BEGIN * 1e9 or one.begin_ns >= BEGIN_NS + END * 1e9 + 1e9
        if not (over or inside(one)):
            continue
        hit = inside(one)
        if isinstance(one, HostReading):
            assert one.cpu_frequency_hz == pytest.approx(1.75e9 if hit else 3.5e9, rel=0.03)
            assert one.swap_in_bytes_per_second == (1e6 if hit else 0.0)
        elif isinstance(one, ProcessReading):
            assert one.major_faults == (50 if hit else 0)
            assert one.cgroup_throttled_seconds == (0.3 if hit else 0.0)
        else:
            assert one.others == (2 if hit else 0)
            assert (one.core_clock_hz or 0) <= (0.36e9 if hit else 1.41e9)


def test_counters_of_one_role_leave_other_processes_alone(with_effect: Simulated) -> None:
    effect = Effect(process={"cpu_seconds": add(0.5)}, process_role="api_server")
    readings = [one for one in with_effect(effect, [A100]) if isinstance(one, ProcessReading)]
    for one in readings:
        more = 0.5 if one.role == "api_server" else 0.0
        if inside(one):
            usual = [
                other.cpu_seconds or 0.0
                for other in readings
                if other.pid == one.pid and other.end_ns <= BEGIN_NS + BEGIN * 1e9
            ]
            assert (one.cpu_seconds or 0.0) - max(usual) == pytest.approx(more, abs=0.15)


def test_pauses_on_new_shapes_come_with_these_only(with_effect: Simulated) -> None:
    effect = Effect(pauses_per_second=2.0, pause_ms=300.0, on_new_shapes=True)
    batches = [
        one for one in with_effect(effect, [A100]) if isinstance(one, Iteration) and one.end_ns
    ]
    long = [
        (one.workload.scheduled_tokens != before.workload.scheduled_tokens, one.begin_ns)
        for before, one in itertools.pairwise(batches)
        if (one.end_ns or 0) - one.begin_ns > 300_000_000
    ]
    assert 2 <= len(long) <= 7
    assert all(is_new for is_new, _ in long)
    begins = [begin_ns for _, begin_ns in long]
    assert all(later - one >= 0.5e9 for one, later in itertools.pairwise(begins))


def test_an_engine_without_an_accelerator_feels_no_fault_of_one() -> None:
    episode = Episode(name="accelerator_gemm", begin_seconds=1.0, end_seconds=2.0)
    fleet = Fleet([A100, presets.load("cpu_replica")], [episode], seed=1)
    found = list(fleet.records(3.0))
    assert [one.engine_ids for one in fleet.truth] == [("sim-0000:8000",)]
    fleet = Fleet([presets.load("cpu_replica")], [episode], seed=1)
    assert not [one for one in fleet.records(3.0) if isinstance(one, Fault)]
    assert found


def test_where_memory_lies_is_told_as_agents_do_once_a_minute() -> None:
    setting = presets.load("cpu_replica")
    episode = Episode(name="numa_misplacement", intensity=1.0, begin_seconds=5.0, end_seconds=75.0)
    readings = [
        one
        for one in simulate([setting], [episode], seconds=75.0, seed=1)
        if isinstance(one, ProcessReading) and one.role == "engine_core"
    ]
    ratios = [one.numa_local_ratio or 0.0 for one in readings]
    assert set(ratios) == {1.0, 0.02}
    assert ratios == sorted(ratios, reverse=True)
    large = [
        one.numa_local_ratio
        for one in simulate([A100], seconds=3.0)
        if isinstance(one, ProcessReading) and one.role == "engine_core"
    ]
    assert set(large) == {None}


def test_a_clock_that_is_held_down_tells_why(with_effect: Simulated) -> None:
    found = with_effect(Effect(throttle_reasons=("sw_power_cap",)), [A100])
    readings = [one for one in found if isinstance(one, XpuReading)]
    assert {one.throttle_reasons for one in readings if inside(one)} == {("sw_power_cap",)}
    before = [one for one in readings if one.end_ns <= BEGIN_NS + BEGIN * 1e9]
    assert {one.throttle_reasons for one in before} == {()}


def test_a_batch_that_stands_still_is_told_of_as_open_and_ends_after_the_fault(
    with_effect: Simulated,
) -> None:
    found = [one for one in with_effect(Effect(stops=True), [A100]) if isinstance(one, Iteration)]
    begin_ns, end_ns = BEGIN_NS + BEGIN * 1e9, BEGIN_NS + END * 1e9
    still = [one for one in found if begin_ns <= one.begin_ns < end_ns]
    *running, ended = still
    assert {one.sequence for one in still} == {ended.sequence}
    assert {one.end_ns for one in running} == {None}
    assert len(running) == pytest.approx((END - BEGIN) / 0.1, abs=1)
    assert end_ns < (ended.end_ns or 0) < end_ns + 0.3e9
    assert max(one.sequence for one in found) > ended.sequence + 20


def test_less_cache_makes_the_engine_preempt(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(
        severity=None,
        intensity=1.0,
        causes=("kv_exhaustion",),
        intermittent=False,
        host_wide=False,
        effect=Effect(kv_ratio=0.02),
    )
    monkeypatch.setattr("simulator.fleet.fleet.tell", lambda episode: told)
    episode = Episode(name="cpu_squeeze", begin_seconds=3.0, end_seconds=6.0)
    traffic = Traffic(concurrency=30, prompt_tokens=Tokens(median=300))
    setting = replace(A100, traffic=traffic)
    with_fault = Fleet([setting], [episode], seed=1)
    list(with_fault.records(6.0))
    normal = Fleet([setting], seed=1)
    list(normal.records(6.0))
    assert normal.preemptions == 0
    assert with_fault.preemptions > 0


def test_a_control_bends_the_setting_and_has_no_right_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Rush:
        def at(self, progress: float, setting: Setting) -> Setting:
            assert 0 <= progress < 1
            return replace(setting, traffic=replace(setting.traffic, requests_per_second=60.0))

    monkeypatch.setattr(module, "control_names", lambda: ("rush",))
    monkeypatch.setattr(module, "load_control", lambda name: Rush())
    episode = Episode(name="rush", begin_seconds=2.0, end_seconds=4.0)
    found = list(simulate([A100], [episode], seconds=5.0, seed=1))
    (ended,) = (one for one in found if isinstance(one, Fault) and one.state == "ended")
    assert ended.kind == "control"
    assert ended.causes == ()
    assert ended.severity is None
    requests = {
        second: max(
            one.workload.running_requests or 0
            for one in found
            if isinstance(one, Iteration) and int((one.begin_ns - BEGIN_NS) / 1e9) == second
        )
        for second in range(5)
    }
    assert requests[3] > 4 * requests[1]


def test_an_engine_with_other_ranks_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scale:
        def at(self, progress: float, setting: Setting) -> Setting:
            return replace(setting, ranks=2)

    monkeypatch.setattr(module, "control_names", lambda: ("scale",))
    monkeypatch.setattr(module, "load_control", lambda name: Scale())
    episode = Episode(name="scale", begin_seconds=2.0, end_seconds=20.0)
    found = list(simulate([presets.load("sglang_tp4")], [episode], seconds=10.0, seed=1))
    told = [(one.state, one.ranks) for one in found if isinstance(one, Engine)]
    assert told[:3] == [("running", 4), ("gone", 4), ("running", 2)]
    iterations = [one for one in found if isinstance(one, Iteration) and one.end_ns]
    starts = list(dict.fromkeys(one.process_start_ns for one in iterations))
    assert len(starts) == 2
    assert starts[0] < starts[1]
    after = [one for one in iterations if one.process_start_ns == starts[1]]
    assert after[0].sequence == 1
    assert {one.rank for one in after} == {0, 1}


def test_the_schedule_is_read_from_text() -> None:
    assert parse_episodes("cpu_squeeze:heavy@60-90, cpu_squeeze:0.7@1.5-2/3-5") == [
        Episode(name="cpu_squeeze", severity="heavy", begin_seconds=60, end_seconds=90),
        Episode(
            name="cpu_squeeze",
            intensity=0.7,
            begin_seconds=1.5,
            end_seconds=2,
            engines=(3, 4, 5),
        ),
    ]
    assert parse_episodes("") == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cpu_squeeze", "write name:severity@begin-end"),
        ("cpu_squeeze:hard@1-2", "light, medium, heavy or a number"),
        ("cpu_squeeze:light@9-2", "before it ends"),
        ("nothing:light@1-2", "choose one of .*cpu_squeeze"),
        ("cpu_squeeze:99@1-2", "out of its limits"),
        ("cpu_squeeze@1-2/7", "there are 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Fleet([A100], parse_episodes(text))


def test_an_effect_on_a_counter_that_no_record_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"swap_speed.*HostReading"):
        check("new_fault", Effect(host={"swap_speed": add(1)}))


def test_chance_is_decided_by_the_seed_and_leaves_time_to_learn() -> None:
    hosts = [[0, 1], [2, 3]]
    first, again, other = (random_episodes(seed, hosts, 900.0) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) >= 6
    assert min(one.begin_seconds for one in first) >= module.FIRST_SECONDS
    assert max(one.end_seconds for one in first) < 900.0
    for host in hosts:
        own = [one for one in first if one.engines and one.engines[0] in host]
        assert all(a.end_seconds < b.begin_seconds for a, b in itertools.pairwise(own))


def test_an_episode_that_outlasts_the_simulation_ends_with_it() -> None:
    episode = Episode(name="cpu_squeeze", begin_seconds=1.0, end_seconds=100.0)
    found = list(simulate([A100], [episode], seconds=3.0))
    told = [one for one in found if isinstance(one, Fault)]
    assert [one.state for one in told] == ["begun", "ended"]
    assert told[1].end_ns == BEGIN_NS + 3_000_000_000


def alerts(episodes: list[Episode]) -> list[Alert]:
    offline = Offline()
    found: list[Alert] = []
    for record in simulate([A100], episodes, seconds=60.0, seed=3):
        found += [one for one in offline.feed(record) if isinstance(one, Alert)]
    return found


def test_the_analysis_finds_a_clock_that_is_held_down() -> None:
    if "accelerator_clock_lock" not in faults.available():
        pytest.skip("no such fault yet")
    found = alerts(parse_episodes("accelerator_clock_lock:medium@40-55"))
    assert {one.cause for one in found} & {"accelerator_clock"}
    assert min(one.at_ns for one in found) >= BEGIN_NS + 40e9


def test_the_analysis_finds_nothing_in_a_normal_run() -> None:
    assert alerts([]) == []
