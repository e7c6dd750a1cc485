"""The gym's suite: what it plans, and what it says a fault did to the engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.gym import real, simulated
from schemas.recording import read_recording
from schemas.records import Batch, Fault
from simulator import controls, faults
from simulator.fleet import presets
from simulator.fleet.episodes import SEVERITIES
from simulator.replica.truth import TruthIteration

SECOND_NS = 1_000_000_000
NAMES = (*faults.available(), *controls.available())


def iteration(
    sequence: int, begin_seconds: float, milliseconds: float, kv_tokens: int = 100
) -> TruthIteration:
    begin_ns = int(begin_seconds * SECOND_NS)
    return TruthIteration(
        sequence=sequence,
        begin_monotonic_ns=begin_ns,
        end_monotonic_ns=begin_ns + int(milliseconds * 1e6),
        requests=4,
        scheduled_tokens=4,
        prefill_tokens=0,
        decode_requests=4,
        kv_tokens=kv_tokens,
        waiting_requests=0,
    )


def fault(begin_seconds: float, end_seconds: float, name: str = "cpu_squeeze") -> Fault:
    return Fault(
        fault_id=f"{name}-{begin_seconds}",
        name=name,
        kind="fault",
        state="ended",
        intensity=1.0,
        host="demo",
        begin_ns=int(begin_seconds * SECOND_NS),
        end_ns=int(end_seconds * SECOND_NS),
    )


def played(*faults_: Fault, milliseconds: float = 10.0, slow: float = 20.0) -> real.Played:
    """An engine that iterates every 50 ms, and takes `slow` ms within each fault."""
    truth = []
    for number in range(2000):
        at = number * 0.05
        hit = any(one.begin_ns <= at * SECOND_NS < (one.end_ns or 0) for one in faults_)
        truth.append(iteration(number, at, slow if hit else milliseconds))
    return real.Played(recording=Path("none"), clock_offset_ns=0, truth=truth, faults=list(faults_))


def test_every_preset_meets_every_fault_in_every_severity_and_every_control() -> None:
    met = Counter(
        (job.preset, episode.name, episode.severity)
        for job in simulated.jobs_of(NAMES, rounds=2)
        for episode in job.episodes
    )
    wanted = {
        (preset, name, severity)
        for preset in presets.available()
        for name in NAMES
        for severity in (SEVERITIES if name in faults.available() else (None,))
    }
    assert met == dict.fromkeys(wanted, 2)


def test_nothing_happens_to_an_engine_while_something_else_does() -> None:
    for job in simulated.jobs_of(NAMES, rounds=1):
        ends = [simulated.WARM_SECONDS - simulated.REST_SECONDS]
        for episode in job.episodes:
            assert episode.begin_seconds >= ends[-1] + simulated.REST_SECONDS
            ends.append(episode.end_seconds)
        assert job.seconds >= ends[-1] + simulated.REST_SECONDS


def test_one_engine_is_simulated_and_judged_with_its_truth() -> None:
    job = next(iter(simulated.jobs_of(("cpu_squeeze",), rounds=1)))
    found = simulated.analyse(job)
    assert [one.fault.name for one in found.episodes] == ["cpu_squeeze"]
    assert sum(map(len, found.points.values())) > 1000


def test_a_fault_that_doubles_each_iteration_has_a_ratio_of_two() -> None:
    (found,) = real.effects(played(fault(30, 40)))
    assert found.median_ratio == pytest.approx(2.0)
    assert found.mean_ratio == pytest.approx(2.0)
    assert found.iterations == pytest.approx(200, abs=2)


def test_the_fault_before_is_no_part_of_what_is_usual() -> None:
    _, second = real.effects(played(fault(20, 30), fault(33, 40)))
    assert second.mean_ratio == pytest.approx(2.0)
    assert second.p99_ratio == pytest.approx(2.0)


def test_what_is_rarely_hit_shows_in_the_mean_and_not_in_the_median() -> None:
    run = played(fault(30, 40), slow=10.0)
    for number in range(600, 800, 10):
        run.truth[number] = iteration(number, number * 0.05, 40.0)
    (found,) = real.effects(run)
    assert found.median_ratio == pytest.approx(1.0)
    assert found.mean_ratio == pytest.approx(1.3, abs=0.02)


def test_iterations_with_more_to_do_are_not_called_slowed() -> None:
    run = played(fault(30, 40), slow=10.0)
    for number in range(600, 700):
        run.truth[number] = iteration(number, number * 0.05, 40.0, kv_tokens=10_000)
    (found,) = real.effects(run)
    assert found.compared == pytest.approx(100, abs=2)
    assert found.mean_ratio == pytest.approx(1.0)


def test_a_few_iterations_that_can_be_compared_do_not_speak_for_all() -> None:
    run = played(fault(30, 40))
    for number in range(600, 790):
        run.truth[number] = iteration(number, number * 0.05, 40.0, kv_tokens=10_000)
    (found,) = real.effects(run)
    assert (found.compared, found.mean_ratio) == (0, None)


def test_an_engine_that_stood_still_has_no_ratio() -> None:
    run = played(fault(30, 40))
    run.truth = [one for one in run.truth if not 30e9 < one.end_monotonic_ns < 40e9]
    (found,) = real.effects(run)
    assert (found.iterations, found.median_ratio, found.mean_ratio) == (0, None, None)


@pytest.mark.process
@pytest.mark.pipeline
def test_a_real_fault_is_made_recorded_and_measured(tmp_path: Path) -> None:
    """The whole real part in short: what it says about the fault comes from the replica."""
    pace = real.Pace(warm=4.0, fault=3.0, control=2.0, least_rest=0.5, most_rest=2.0)
    names = ("replica_clock", "lora_swap", "burst")
    said: list[str] = []
    run = real.play(tmp_path / "gym", names, ("heavy",), said.append, pace)
    assert run.failed == {}
    [effect] = run.effects
    assert effect.mean_ratio is not None
    assert effect.mean_ratio > 1.3
    records = list(read_recording(run.recording))
    told = {(one.name, one.kind): one.true_ratio for one in records if isinstance(one, Fault)}
    assert told == {("replica_clock", "fault"): effect.mean_ratio, ("burst", "control"): None}
    assert sum(isinstance(one, Batch) for one in records) > 50
