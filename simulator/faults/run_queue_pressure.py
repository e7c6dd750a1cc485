"""Run-queue pressure: many threads that all wake at the same moment, work briefly and sleep."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any

from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Target, processes_for
from simulator.injection.steps import Step, Work

PERIOD_SECONDS = 0.020
BURST_SECONDS = 0.001
TRIAL_BYTES = 1 << 18


class RunQueuePressure(Injector):
    """Wake so many threads per CPU fifty times a second, at one moment; each runs for 1 ms.

    The queues are long for a part of each 20 ms while the CPUs stay idle for the rest of it: an
    engine that wakes up then waits for its turn, and the load average tells more than CPU use.
    """

    summary = "many short-running threads that wake at the same moment: long run queues"
    touches = "makes every thread on the host wait for a CPU now and then; nothing is changed"
    causes = ("run_queue_delay", "host_cpu_contention")
    unit = "threads per CPU"
    levels = Levels(light=3, medium=6, heavy=12)
    limits = (1, 16)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Start one process per CPU; its threads leave the interpreter's lock while they work."""
        del target
        options: dict[str, float | str | list[int]] = {"threads": round(intensity)}
        return [
            Work(
                fault="run_queue_pressure",
                count=processes_for(1, len(machine.cpus)),
                options=options,
            )
        ]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Hash in every thread for a moment after each tick of the common clock."""
        data = bytes(_bytes_per(BURST_SECONDS))
        ended = threading.Event()
        threads = [
            threading.Thread(target=_wake_and_work, args=(data, ended), daemon=True)
            for _ in range(int(options["threads"]))
        ]
        for thread in threads:
            thread.start()
        while running():
            time.sleep(0.05)
        ended.set()
        for thread in threads:
            thread.join()

    def effect(self, intensity: float) -> Effect:
        """Suppose waiting in proportion; 1.3 to 1.4 times on the replica, on 2 busy CPUs."""
        busy = intensity * BURST_SECONDS / PERIOD_SECONDS
        return Effect(
            host_ratio=1 + 1.2 * busy,
            host={
                "engine_run_queue_wait_ratio": add(0.9 * busy),
                "cpu_pressure_ratio": add(min(0.9, 1.3 * busy)),
                "others_cpu_ratio": add(min(0.8, 0.5 * busy)),
                "cpu_busy_ratio": add(min(0.8, 0.5 * busy)),
                "cpu_user_ratio": add(min(0.8, 0.5 * busy)),
                "context_switches_per_second": add(intensity * 200),
                "runnable_tasks": add(intensity),
            },
        )


def _wake_and_work(data: bytes, ended: threading.Event) -> None:
    while not ended.is_set():
        # The clock is the host's, so the threads of all processes wake together.
        time.sleep(PERIOD_SECONDS - time.monotonic() % PERIOD_SECONDS)
        hashlib.sha256(data)


def _bytes_per(seconds: float) -> int:
    """Give how much one CPU hashes in a time, on a CPU of its own."""
    began = time.thread_time()
    hashlib.sha256(bytes(TRIAL_BYTES))
    return max(4096, int(TRIAL_BYTES * seconds / max(time.thread_time() - began, 1e-6)))
