"""Writes the truth and the counters of /metrics from a thread of its own.

The engine's thread only appends to a deque and stamps times, both of which are C calls: no frame
of its stack is one of ours, and it never waits for a file.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections import deque
from pathlib import Path

from simulator.profiles.machinery.traffic import Plan

TRUTH_HEADER = (
    "sequence,begin_monotonic_ns,end_monotonic_ns,requests,scheduled_tokens,prefill_tokens,"
    "decode_requests,kv_tokens,waiting_requests"
)
COUNTERS = (
    "iterations",
    "prefill_iterations",
    "tokens",
    "prompt_tokens",
    "generated_tokens",
    "decode_tokens",
    "decode_ns",
    "busy_ns",
    "prefill_ns",
    "finished_requests",
    "running_requests",
    "waiting_requests",
    "kv_tokens",
)
KV_CAPACITY_TOKENS = 16_384
_PERIOD_SECONDS = 0.1
_LAYOUT = struct.Struct(f"<{len(COUNTERS)}q")


class Counters:
    """Integers that the engine process writes and the server process reads."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def write(self, values: dict[str, int]) -> None:
        """Replace all of them."""
        _LAYOUT.pack_into(self._memory, 0, *(values[name] for name in COUNTERS))

    def read(self) -> dict[str, int]:
        """Give all of them by name."""
        values = _LAYOUT.unpack_from(self._memory, 0)
        return {name: values[index] for index, name in enumerate(COUNTERS)}


class Recorder(threading.Thread):
    """Turn plans into lines once their end is known.

    An overlapped iteration ends when the next one is launched, even if its results come later.
    """

    def __init__(self, truth: Path | None, counters: Counters) -> None:
        super().__init__(name="truth", daemon=True)
        self.begun: deque[Plan] = deque()
        self._counters = counters
        self._totals = dict.fromkeys(COUNTERS, 0)
        self._lock = threading.Lock()
        self._file = None
        if truth is not None:
            self._file = truth.open("w", encoding="ascii")
            self._file.write(TRUTH_HEADER + "\n")

    def run(self) -> None:
        """Write out what is complete, ten times a second."""
        while True:
            time.sleep(_PERIOD_SECONDS)
            self.drain(last=False)

    def drain(self, *, last: bool) -> None:
        """Write out what is complete; at the last call also what has no successor."""
        with self._lock:
            begun = self.begun
            while len(begun) > 1 and (begun[0].end_ns or last):
                plan = begun.popleft()
                next_begin_ns = begun[0].begin_ns
                self._write(plan, min(plan.end_ns or next_begin_ns, next_begin_ns))
            if last and begun and begun[0].end_ns:
                plan = begun.popleft()
                self._write(plan, plan.end_ns)
            if begun and begun[0].end_ns:
                # Nothing runs: do not leave the last batch standing in the gauges.
                self._totals["running_requests"] = 0
            self._counters.write(self._totals)
            if self._file is not None:
                self._file.flush()

    def _write(self, plan: Plan, end_ns: int) -> None:
        totals = self._totals
        duration_ns = end_ns - plan.begin_ns
        totals["iterations"] += 1
        totals["prefill_iterations"] += plan.prefill_tokens > 0
        totals["tokens"] += plan.scheduled_tokens
        totals["prompt_tokens"] += plan.prefill_tokens
        totals["generated_tokens"] += plan.generated_tokens
        totals["decode_tokens"] += plan.decode_requests
        totals["decode_ns"] += plan.decode_requests * duration_ns
        totals["busy_ns"] += duration_ns
        totals["prefill_ns"] += duration_ns if plan.prefill_tokens else 0
        totals["finished_requests"] += len(plan.finished)
        totals["running_requests"] = plan.requests
        totals["waiting_requests"] = plan.waiting_requests
        totals["kv_tokens"] = plan.kv_tokens
        if self._file is not None:
            self._file.write(
                f"{plan.sequence},{plan.begin_ns},{end_ns},{plan.requests},"
                f"{plan.scheduled_tokens},{plan.prefill_tokens},{plan.decode_requests},"
                f"{plan.kv_tokens},{plan.waiting_requests}\n"
            )
