"""What the readings of an engine's processes say together."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.records import ProcessReading, Role
from streams.processes import Processes, counters_of_processes

SECOND = 1_000_000_000


def reading(pid: int, role: Role, second: int = 1, **values: Any) -> ProcessReading:
    return ProcessReading(
        engine_id="e",
        host="h",
        pid=pid,
        role=role,
        begin_ns=(second - 1) * SECOND,
        end_ns=second * SECOND,
        **values,
    )


def test_cpu_time_is_by_role_and_the_worst_process_counts() -> None:
    found = counters_of_processes(
        [
            reading(1, "api_server", cpu_seconds=0.2, cgroup_throttled_seconds=0.0),
            reading(2, "engine_core", cpu_seconds=0.3, cgroup_throttled_seconds=0.4),
            reading(3, "worker", cpu_seconds=0.9, major_faults=7, numa_local_ratio=0.25),
            reading(4, "worker", cpu_seconds=0.5, major_faults=900, numa_local_ratio=0.75),
        ]
    )
    assert found == {
        "server_cores": 0.2,
        "core_cores": 0.3,
        "worker_cores": 0.9,
        "engine_cores": pytest.approx(1.7),
        "engine_throttled_ratio": 0.4,
        "engine_major_faults_per_second": 900.0,
        "engine_numa_local_ratio": 0.25,
    }


def test_what_is_not_known_is_no_counter() -> None:
    assert counters_of_processes([reading(1, "engine_core")]) == {}
    # The API server's memory may lie where it likes.
    assert counters_of_processes([reading(1, "api_server", numa_local_ratio=0.1)]) == {}


def test_a_look_is_told_with_its_last_process_and_only_once() -> None:
    processes = Processes()
    assert processes.add(reading(1, "engine_core", 1, cpu_seconds=0.1)) == []
    assert processes.add(reading(2, "worker", 1, cpu_seconds=0.2)) == []
    # Which processes there are is known once the next look begins.
    [(first, begin_ns, end_ns)] = processes.add(reading(1, "engine_core", 2, cpu_seconds=0.3))
    assert (first["core_cores"], first["worker_cores"]) == (0.1, 0.2)
    assert (begin_ns, end_ns) == (0, SECOND)
    [(second, _, _)] = processes.add(reading(2, "worker", 2, cpu_seconds=0.4))
    assert (second["core_cores"], second["worker_cores"]) == (0.3, 0.4)
    assert processes.add(reading(3, "worker", 2, cpu_seconds=0.5)) == []
    assert processes.add(reading(1, "engine_core", 3, cpu_seconds=0.5)) == []


def test_a_process_that_is_gone_holds_its_look_up_until_the_next() -> None:
    processes = Processes()
    for second in (1, 2):
        processes.add(reading(1, "engine_core", second, cpu_seconds=0.1))
        processes.add(reading(2, "worker", second, cpu_seconds=0.2))
    assert processes.add(reading(1, "engine_core", 3, cpu_seconds=0.6)) == []
    found = processes.add(reading(1, "engine_core", 4, cpu_seconds=0.7))
    assert [(one["core_cores"], end_ns) for one, _, end_ns in found] == [
        (0.6, 3 * SECOND),
        (0.7, 4 * SECOND),
    ]
    assert "worker_cores" not in found[0][0]
