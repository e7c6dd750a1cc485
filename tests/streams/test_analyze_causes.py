"""Why an engine is slow, from records to alerts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Iteration, ProcessReading, XpuReading
from streams.analyze import Analysis
from tests.streams.feed import ENGINE_ID, Feed, Listener


@pytest.fixture
def feed() -> Feed:
    return Feed()


class Watched:
    """An engine with batches, and what is read of its host, processes and accelerators."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.listener = feed, Listener()
        self.listener.take([feed.engine(device_ids=("GPU-a", "GPU-b"))])
        self._look_begin_ns = feed.now_ns

    def look(self, throttled: float = 0.0, server: float = 0.2, **xpu: Any) -> None:
        analysis, feed = self.listener.analysis, self.feed
        self.listener.take([feed.reading()])
        for pid, role, cpu_seconds in ((1, "api_server", server), (2, "engine_core", 0.3)):
            reading = ProcessReading(
                engine_id=ENGINE_ID,
                host="host",
                pid=pid,
                role=role,  # type: ignore[arg-type]  # test shorthand
                begin_ns=self._look_begin_ns,
                end_ns=feed.now_ns,
                cpu_seconds=cpu_seconds * (feed.now_ns - self._look_begin_ns) / 1e9,
                cgroup_throttled_seconds=throttled * (feed.now_ns - self._look_begin_ns) / 1e9,
            )
            self.listener.results += analysis.add_process(reading)
        values = dict[str, Any](core_clock_hz=2e9, throttle_reasons=()) | xpu
        for device_id in ("GPU-a", "GPU-b"):
            self.listener.results += analysis.add_xpu(
                XpuReading(
                    device_id=device_id,
                    vendor="nvidia",
                    engine_id=ENGINE_ID,
                    host="host",
                    begin_ns=feed.now_ns,
                    end_ns=feed.now_ns,
                    core_clock_max_hz=2e9,
                    utilization_ratio=0.9,
                    **values,
                )
            )
        self._look_begin_ns = feed.now_ns

    def normal(self) -> None:
        for _ in range(8):
            self.batches(100)
            self.look()

    def batches(self, count: int, factor: float = 1.0) -> None:
        # Readings of the host come with our own looks.
        batches = self.feed.batches(count, factor=factor)
        self.listener.take([one for one in batches if isinstance(one, Iteration)])


@pytest.fixture
def watched(feed: Feed) -> Watched:
    found = Watched(feed)
    found.normal()
    return found


def test_a_quota_is_named_from_what_is_read_of_the_processes(watched: Watched) -> None:
    for _ in range(3):
        watched.batches(50, factor=1.8)
        watched.look(throttled=0.45)
    watched.batches(5, factor=1.8)
    alert = watched.listener.alerts[-1]
    assert alert.cause == "cpu_quota"
    assert "0 % of the time before, 45 % now" in alert.summary
    assert alert.device_ids == ("GPU-a", "GPU-b")
    assert alert.evidence.counters_during["engine_throttled_ratio"] == pytest.approx(0.45)


def test_an_alert_tells_why_clocks_are_low_and_which_phases_grew(watched: Watched) -> None:
    for _ in range(3):
        watched.batches(50, factor=1.8)
        watched.look(core_clock_hz=1e9, throttle_reasons=("hw_thermal",))
    watched.batches(5, factor=1.8)
    alert = watched.listener.alerts[-1]
    assert alert.cause == "accelerator_clock"
    assert alert.evidence.throttle_reasons == ("hw_thermal",)
    assert alert.evidence.inflations["forward"] > 1.5
    assert alert.evidence.missing_counters == {}
    assert "cooling" in alert.next_step


def test_reasons_of_an_earlier_time_are_not_told(watched: Watched) -> None:
    watched.batches(100)
    watched.look(throttle_reasons=("sw_power_cap",))
    watched.batches(100)
    watched.look()
    for _ in range(3):
        watched.batches(50, factor=1.8)
        watched.look()
    assert watched.listener.alerts[-1].evidence.throttle_reasons == ()


def test_what_nobody_read_is_told_as_missing(watched: Watched) -> None:
    for _ in range(3):
        watched.batches(50, factor=1.8)
        watched.look()
    alert = watched.listener.alerts[-1]
    assert alert.cause == "forward_slower"
    missing = alert.evidence.missing_counters
    assert missing["cpu_quota" if "cpu_quota" in missing else "pcie_contention"]
    assert "pcie_contention" in missing
    assert "host_cpu_contention" not in missing


def test_the_end_keeps_the_cause_and_the_step_that_were_told(watched: Watched) -> None:
    for _ in range(3):
        watched.batches(50, factor=1.8)
        watched.look(throttled=0.45)
    watched.batches(5, factor=1.8)
    told = watched.listener.alerts[-1]
    for _ in range(10):
        watched.batches(100)
        watched.look()
    last = watched.listener.alerts[-1]
    assert last.state == "resolved"
    assert (last.cause, last.next_step) == (told.cause, told.next_step)


def test_a_worker_that_takes_over_within_an_incident_tells_the_same(watched: Watched) -> None:
    watched.batches(50, factor=1.8)
    watched.look(throttled=0.45)
    watched.batches(20, factor=1.8)
    state = json.loads(json.dumps(watched.listener.analysis.to_state()))
    other = Listener()
    other.analysis = Analysis.from_state(ENGINE_ID, state, lambda: 42)
    reading = replace(watched.feed.reading(), others_cpu_ratio=0.9)
    for one in (watched.listener.analysis, other.analysis):
        one.add_host(reading)
    batches = [one for one in watched.feed.batches(120, factor=1.8) if isinstance(one, Iteration)]
    watched.listener.take(batches)
    other.take(batches)
    told, again = watched.listener.alerts[-1], other.alerts[-1]
    assert (told.cause, told.other_causes) == (again.cause, again.other_causes)
    assert {told.cause, *told.other_causes} >= {"cpu_quota", "host_cpu_contention"}
