"""What else this machine was doing: an alert that foreign load raised is no false alarm."""

import os
import threading
import time
from dataclasses import dataclass

from collectors.discovery import Process, Scanner
from collectors.host.cpu import CpuTimes, read_cpu_times
from collectors.host.process import TICKS_PER_SECOND, read_process_times

PERIOD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """Share of the CPUs that was used by processes which are not the demo's."""

    at_ns: int
    foreign_ratio: float


class Machine:
    """Measure foreign load, by ways of its own: all CPU time less that of the demo's processes."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._scanner = Scanner(settle_seconds=10.0)
        self.samples: list[Sample] = []

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring."""
        self._stop.set()
        self._thread.join(5.0)

    def foreign_ratio(self, begin_ns: int, end_ns: int) -> float:
        """Give the highest foreign share of any half second in a time."""
        shares = [s.foreign_ratio for s in self.samples if begin_ns <= s.at_ns <= end_ns]
        return max(shares, default=0.0)

    def _run(self) -> None:
        last_cpu, last_own = self._look()
        while not self._stop.wait(PERIOD_SECONDS):
            cpu, own = self._look()
            ticks = cpu.total_ticks - last_cpu.total_ticks
            if ticks > 0:
                busy = cpu.busy_ticks - last_cpu.busy_ticks
                # A process that ended within the period takes its time with it, so it counts as
                # foreign; the demo starts and ends none within a quiet scene.
                used = sum(
                    seconds - last_own.get(pid, 0.0)
                    for pid, seconds in own.items()
                    if pid in last_own
                )
                foreign = max(busy - used * TICKS_PER_SECOND, 0.0) / ticks
                self.samples.append(Sample(time.time_ns(), foreign))
            last_cpu, last_own = cpu, own

    def _look(self) -> tuple[CpuTimes, dict[int, float]]:
        table = self._scanner.scan()
        own: dict[int, float] = {}
        todo: list[Process | None] = [table.by_pid.get(os.getpid())]
        while todo:
            process = todo.pop()
            if process is None:
                continue
            times = read_process_times(process.pid)
            if times is not None:
                own[process.pid] = times.cpu_seconds
            todo += table.children.get(process.pid, [])
        return read_cpu_times(), own
