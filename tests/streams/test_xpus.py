"""What a batch learns of the accelerators that its engine uses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from models.causes import CAUSES
from schemas.records import Iteration, XpuReading
from streams.analyze import Analysis
from streams.timeline import Timeline
from streams.xpus import LOOKS, MOST_AGE_NS, MOST_DEVICES, Accelerators, counters_of_device
from tests.streams.feed import ENGINE_ID, Feed, Listener

SECOND = 1_000_000_000
BEGIN_NS = 10**18


def reading(second: float, device_id: str = "GPU-a", **values: Any) -> XpuReading:
    end_ns = BEGIN_NS + int(second * SECOND)
    values = dict[str, Any](vendor="nvidia", utilization_ratio=0.5) | values
    return XpuReading(
        device_id=device_id,
        engine_id="e",
        host="h",
        begin_ns=end_ns - SECOND // 100,
        end_ns=end_ns,
        **values,
    )


FULL = reading(
    0,
    utilization_ratio=0.9,
    core_clock_hz=1.0e9,
    core_clock_max_hz=2.0e9,
    power_watts=350.0,
    power_limit_watts=700.0,
    memory_total_bytes=100,
    memory_used_bytes=80,
    others_memory_used_bytes=20,
    others=2,
    temperature_celsius=71.0,
    throttle_reasons=("sw_power_cap",),
    pcie_received_bytes_per_second=1e9,
    pcie_sent_bytes_per_second=3e9,
    pcie_capacity_bytes_per_second=4e9,
    fabric_received_bytes_per_second=5e9,
    fabric_capacity_bytes_per_second=10e9,
)


def test_counters_are_shares_of_what_the_device_can() -> None:
    assert counters_of_device(FULL) == {
        "xpu_utilization_ratio": 0.9,
        "xpu_core_clock_ratio": 0.5,
        "xpu_power_ratio": 0.5,
        "xpu_memory_used_ratio": 0.8,
        "xpu_others_memory_ratio": 0.2,
        "xpu_others": 2.0,
        "xpu_temperature_celsius": 71.0,
        "xpu_throttled": 1.0,
        "xpu_pcie_ratio": 0.75,
        "xpu_fabric_ratio": 0.5,
    }


def test_what_is_not_known_is_no_counter_and_no_reason_is_not_throttled() -> None:
    assert counters_of_device(reading(0, utilization_ratio=None)) == {}
    assert counters_of_device(reading(0, core_clock_hz=1.0, core_clock_max_hz=None)) == {
        "xpu_utilization_ratio": 0.5
    }
    assert counters_of_device(replace(FULL, throttle_reasons=()))["xpu_throttled"] == 0.0


def test_a_batch_carries_the_latest_look_that_was_over_at_its_end() -> None:
    accelerators = Accelerators()
    for second in range(4):
        accelerators.add(reading(second, utilization_ratio=second / 10))
    for at, expected in ((0.0, 0.0), (1.5, 0.1), (2.99, 0.2), (7.9, 0.3)):
        counters = accelerators.counters(BEGIN_NS + int(at * SECOND))
        assert counters == {"xpu_utilization_ratio": expected}
    assert accelerators.counters(BEGIN_NS - 1) == {}
    assert accelerators.counters(BEGIN_NS + 3 * SECOND + MOST_AGE_NS) == {}


def test_over_several_devices_the_worst_counts() -> None:
    accelerators = Accelerators()
    accelerators.add(FULL)
    accelerators.add(
        replace(FULL, device_id="GPU-b", core_clock_hz=0.2e9, power_watts=1.0, others=0)
    )
    counters = accelerators.counters(FULL.end_ns)
    assert counters["xpu_core_clock_ratio"] == 0.1
    assert counters["xpu_power_ratio"] == 0.5
    assert counters["xpu_others"] == 2.0


def test_a_look_is_complete_when_all_devices_told() -> None:
    accelerators = Accelerators()
    assert accelerators.add(reading(0)) == {"xpu_utilization_ratio": 0.5}
    accelerators.add(reading(0, "GPU-b", utilization_ratio=0.9))
    assert accelerators.add(reading(1)) is None
    assert accelerators.add(reading(1, "GPU-b", utilization_ratio=0.7)) == {
        "xpu_utilization_ratio": 0.7
    }
    other = reading(1.2, "NPU", vendor="ascend", utilization_ratio=0.1)
    assert accelerators.add(other) == {"xpu_utilization_ratio": 0.7}


def test_a_device_that_is_no_longer_read_holds_nothing_up() -> None:
    accelerators = Accelerators()
    accelerators.add(reading(0))
    accelerators.add(reading(0, "GPU-b"))
    assert accelerators.add(reading(1)) is None
    late = 1 + MOST_AGE_NS / SECOND
    assert accelerators.add(reading(late, utilization_ratio=0.3)) == {"xpu_utilization_ratio": 0.3}


def test_what_is_kept_is_bounded() -> None:
    accelerators = Accelerators()
    for number in range(MOST_DEVICES + 50):
        for second in range(3):
            accelerators.add(reading(second, f"GPU-{number}"))
    for second in range(LOOKS * 3):
        accelerators.add(reading(second))
    assert len(accelerators._looks) <= MOST_DEVICES
    assert all(len(looks) <= LOOKS for looks in accelerators._looks.values())


def test_batches_carry_host_and_accelerators_together() -> None:
    timeline = Timeline()
    timeline.accelerators.add(FULL)
    iteration = Iteration(
        engine_id="e",
        process_start_ns=1,
        sequence=1,
        begin_ns=BEGIN_NS + SECOND,
        end_ns=BEGIN_NS + SECOND + 1,
        uncertainty_ns=0,
        source="counter",
    )
    [batch] = timeline.add(iteration)
    assert batch.counters["xpu_core_clock_ratio"] == 0.5
    assert set(batch.counters) == set(counters_of_device(FULL))


def test_every_counter_that_a_cause_shows_of_an_accelerator_is_one_of_these() -> None:
    shown = {cause.shows for cause in CAUSES if cause.shows.startswith("xpu_")}
    assert shown
    assert shown <= set(counters_of_device(FULL))


def test_a_fallen_clock_is_named_as_the_cause() -> None:
    feed, listener = Feed(), Listener()
    listener.take([feed.engine()])

    def look(hertz: float) -> None:
        now = replace(
            FULL,
            engine_id=ENGINE_ID,
            core_clock_hz=hertz,
            begin_ns=feed.now_ns,
            end_ns=feed.now_ns,
            others=0,
        )
        analysis: Analysis = listener.analysis
        listener.results += analysis.add_xpu(now)

    for _ in range(8):
        listener.take(feed.batches(100))
        look(2.0e9)
    for _ in range(30):
        listener.take(feed.batches(30, factor=1.6, others=0.1))
        look(0.9e9)
    assert listener.alerts[-1].cause == "accelerator_clock"
    assert (
        "100% of its highest clock before, 45% now, for its power limit"
        in listener.alerts[-1].summary
    )
    assert listener.alerts[-1].evidence.counters_during["xpu_core_clock_ratio"] < 0.6


def test_reasons_of_throttling_are_those_of_devices_looked_at_since() -> None:
    accelerators = Accelerators()
    accelerators.add(reading(1, throttle_reasons=("hw_thermal",)))
    accelerators.add(reading(3, "GPU-b", throttle_reasons=("sw_power_cap", "user_clock")))
    since_ns = BEGIN_NS + 2 * SECOND
    assert accelerators.throttle_reasons(since_ns) == ("sw_power_cap", "user_clock")
    assert set(accelerators.throttle_reasons(BEGIN_NS)) == {
        "hw_thermal",
        "sw_power_cap",
        "user_clock",
    }
    accelerators.add(reading(4, "GPU-b", throttle_reasons=()))
    assert accelerators.throttle_reasons(since_ns) == ()
