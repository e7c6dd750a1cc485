"""Optional kernel tracing by ``bpftrace``: waits for a CPU, and calls into accelerator libraries.

Off by default. Waits are seen at the scheduler's tracepoints, which touch no engine. Calls are seen
by probes that the kernel puts into the library's code in memory: the one place where the agent
changes anything of an engine, and each call pays for it (20 microseconds in our virtual machine).
"""

import json
import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collectors.discovery import EngineProcess
from collectors.host.files import read_text_or_none
from collectors.host.reading import Traced

log = logging.getLogger("latencyprism.tracing")

PROC = Path("/proc")
SYS = Path("/sys")

# Functions whose duration says something, by the library's name up to ".so".
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "libcuda": (
        "cuLaunchKernel",
        "cuLaunchKernelEx",
        "cuGraphLaunch",
        "cuStreamSynchronize",
        "cuEventSynchronize",
        "cuCtxSynchronize",
    ),
    "libcudart": (
        "cudaLaunchKernel",
        "cudaLaunchKernelExC",
        "cudaGraphLaunch",
        "cudaStreamSynchronize",
        "cudaEventSynchronize",
        "cudaDeviceSynchronize",
        "cudaMemcpyAsync",
    ),
    "libamdhip64": (
        "hipLaunchKernel",
        "hipModuleLaunchKernel",
        "hipGraphLaunch",
        "hipStreamSynchronize",
        "hipEventSynchronize",
        "hipDeviceSynchronize",
        "hipMemcpyAsync",
    ),
    "libnccl": ("ncclAllReduce", "ncclAllGather", "ncclReduceScatter", "ncclSend", "ncclRecv"),
    "librccl": ("ncclAllReduce", "ncclAllGather", "ncclReduceScatter", "ncclSend", "ncclRecv"),
}
# A function that is called more often would cost the engine more than 2 percent of a core where a
# probe costs 20 microseconds: in a virtual machine; it is less on bare metal.
MOST_CALLS_PER_SECOND = 1000
# Engines start process after process; each change starts bpftrace anew.
SETTLE_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0
LIST_SECONDS = 20.0
STOP_SECONDS = 2.0
# What was seen longer ago is not of this second any more.
STALE_SECONDS = 3.0
LONGEST_LINE_BYTES = 1 << 20

# A path is an engine's to choose, and goes between quotes into a program that runs as root.
_SAFE_PATH = re.compile(r"[\w./+-]+", re.ASCII)

OFF = "or set [collect] kernel_tracing = false"


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """A function that is traced, and the file it is in, as seen from here."""

    path: str
    function: str


@dataclass(slots=True)
class Second:
    """What bpftrace printed for one engine, until the next second's arrives."""

    waits: list[tuple[int, int, int]] = field(default_factory=list)
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)


def parse_libraries(maps: str) -> dict[str, str]:
    """Give the path of each library of `FUNCTIONS` that ``/proc/<pid>/maps`` has, by its name."""
    found: dict[str, str] = {}
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or "x" not in fields[1] or fields[5].endswith(" (deleted)"):
            continue
        match = re.match(r"(\w+?)(?:-\w+)?\.so(?:\.|$)", fields[5].rpartition("/")[2])
        if match is not None and match[1] in FUNCTIONS:
            found.setdefault(match[1], fields[5])
    return found


def find_libraries(pids: Iterable[int], proc: Path = PROC) -> dict[str, str]:
    """Give the library files that processes use, each once: name of the library by path."""
    by_file: dict[tuple[int, int], tuple[str, str]] = {}
    for pid in pids:
        for name, path in parse_libraries(read_text_or_none(f"{proc}/{pid}/maps") or "").items():
            # As the process sees it: it may live in a container.
            seen = f"{proc}/{pid}/root{path}"
            try:
                stat = os.stat(seen)
            except OSError:
                continue
            if not _SAFE_PATH.fullmatch(seen):
                continue
            by_file.setdefault((stat.st_dev, stat.st_ino), (seen, name))
    return dict(by_file.values())


def make_program(engines: Sequence[Iterable[int]], calls: Sequence[Call]) -> str:
    """Write the bpftrace program; engines are numbered from 1 in it.

    A thread is known to be an engine's from its first switch on: a wakeup does not say whose
    thread it wakes.

    Args:
        engines: Process ids of each engine.

        calls: What to trace beside the scheduler.
    """
    number = "0"
    for index, pids in enumerate(engines, start=1):
        for pid in sorted(pids):
            number = f"pid == {pid} ? {index} : ({number})"
    lines = [
        "tracepoint:sched:sched_switch {",
        f"  $engine = {number};",
        "  if ($engine != 0) {",
        "    @ours[tid] = $engine;",
        # Taken off its CPU while it still could run: that is waiting, too.
        "    if (args->prev_state == 0 || args->prev_state == 256) { @since[tid] = nsecs; }",
        "  }",
        "  $since = @since[args->next_pid];",
        "  if ($since != 0) {",
        "    @waits[@ours[args->next_pid]] = hist(nsecs - $since);",
        "    delete(@since[args->next_pid]);",
        "  }",
        "}",
        "tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new",
        "/@ours[args->pid] != 0/ { @since[args->pid] = nsecs; }",
        "tracepoint:sched:sched_process_exit { delete(@ours[tid]); delete(@since[tid]); }",
    ]
    traced = [call for call in calls if _SAFE_PATH.fullmatch(call.path)]
    for place, call in enumerate(traced):
        lines += [
            f'uprobe:"{call.path}":{call.function} /@ours[tid] != 0/ {{',
            f"  @at{place}[tid] = nsecs;",
            "}",
            f'uretprobe:"{call.path}":{call.function} /@at{place}[tid] != 0/ {{',
            f'  @calls[@ours[tid], "{call.function}"] = stats(nsecs - @at{place}[tid]);',
            f"  delete(@at{place}[tid]);",
            "}",
        ]
    printed = ["waits", *(["calls"] if traced else [])]
    lines.append("interval:s:1 {")
    lines += [f"  print(@{name}); clear(@{name});" for name in printed]
    # So that a second in which nothing happened is told, too.
    lines += ['  printf("tick\\n");', "}"]
    return "\n".join(lines)


def quantile(buckets: Sequence[tuple[int, int, int]], share: float) -> float | None:
    """Give a quantile of a histogram of (from, to, count); within a bucket by interpolation."""
    total = sum(count for *_, count in buckets)
    if not total:
        return None
    wanted, seen = share * total, 0
    for low, high, count in sorted(buckets):
        if seen + count >= wanted:
            return low + (high + 1 - low) * (wanted - seen) / count if count else float(low)
        seen += count
    return float(max(high for _, high, _ in buckets))


class Output:
    """Read what bpftrace prints (``-f json``), line by line.

    It prints the waits, then the calls, then that the second is over.
    """

    def __init__(self) -> None:
        self._second: dict[int, Second] = {}

    def feed(self, line: str) -> dict[int, Second] | None:
        """Take a line; give what happened by engine number when a second is complete.

        Raises:
            ValueError: The line is none that the program prints: bpftrace says something itself.
        """
        line = line.strip()
        if not line:
            return None
        try:
            told: Any = json.loads(line)
            kind, data = told["type"], told["data"]
        except (ValueError, TypeError, KeyError) as err:
            raise ValueError(line) from err
        if kind == "printf" and data == "tick\n":
            done, self._second = self._second, {}
            return done
        if kind == "hist":
            self._take_waits(data.get("@waits", {}))
        elif kind == "stats":
            self._take_calls(data.get("@calls", {}))
        return None

    def _take_waits(self, by_engine: dict[str, list[dict[str, int]]]) -> None:
        for number, buckets in by_engine.items():
            if number.isdigit():
                self._of(int(number)).waits = [
                    (max(one.get("min", 0), 0), max(one.get("max", 0), 0), one["count"])
                    for one in buckets
                ]

    def _take_calls(self, by_call: dict[str, dict[str, int]]) -> None:
        for key, told in by_call.items():
            number, _, function = key.partition(",")
            if number.isdigit():
                calls = self._of(int(number)).calls
                calls[function.strip()] = (told["count"], told["total"])

    def _of(self, number: int) -> Second:
        return self._second.setdefault(number, Second())


def traced_of(second: Second) -> Traced:
    """Turn nanoseconds into what goes onto a record."""
    p50, p99 = quantile(second.waits, 0.5), quantile(second.waits, 0.99)
    mean_ns = {name: total / count for name, (count, total) in second.calls.items() if count}
    return Traced(
        run_queue_latency_p50_seconds=None if p50 is None else p50 / 1e9,
        run_queue_latency_p99_seconds=None if p99 is None else p99 / 1e9,
        calls={name: nanoseconds / 1e9 for name, nanoseconds in mean_ns.items()},
    )


def explain(said: Sequence[str], sys: Path = SYS) -> str:
    """Say why bpftrace ended and what to do, from what it said last and from the kernel's state."""
    text = "\n".join(said)
    if "running as the root user" in text:
        return f"bpftrace runs as root only: run the agent as root, {OFF}"
    lockdown = read_text_or_none(f"{sys}/kernel/security/lockdown") or ""
    if "[confidentiality]" in lockdown:
        return (
            "the kernel is locked down (confidentiality) and lets nobody trace: boot it with "
            f"lockdown=integrity, {OFF}"
        )
    if re.search(r"tracefs|debugfs|tracing/|[Tt]racepoint.*not found", text):
        return (
            "bpftrace finds no tracepoints: mount them with 'mount -t tracefs tracefs "
            f"/sys/kernel/tracing' (a container needs the host's), {OFF}"
        )
    if re.search(r"not permitted|ermission denied|open perf buffer", text):
        return (
            "the kernel refuses to trace: give the agent the capabilities BPF and PERFMON (before "
            "Linux 5.8 SYS_ADMIN; a container's seccomp profile must allow bpf and "
            f"perf_event_open, too), {OFF}"
        )
    last = next((line for line in reversed(said) if line.strip()), "it said nothing")
    return f"bpftrace ended ({last.strip()[:300]}): try it by hand with 'bpftrace --info', {OFF}"


class Tracer:
    """Keep one bpftrace running for all engines of this host.

    Everything that can take time happens in a thread of its own.

    Args:
        command: How bpftrace is called.

        clock: Monotonic seconds.

        proc: Root of the process file system.

        settle_seconds: How long the set of processes must have been the same.
    """

    def __init__(
        self,
        command: Sequence[str] = ("bpftrace",),
        clock: Callable[[], float] = time.monotonic,
        proc: Path = PROC,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._command = tuple(command)
        self._clock = clock
        self._proc = proc
        self._settle_seconds = settle_seconds
        self._changed = threading.Condition()
        self._wanted: dict[str, frozenset[int]] = {}
        self._wanted_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._latest: dict[str, tuple[float, Traced]] = {}
        self._too_frequent: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.note: str | None = None

    def start(self) -> None:
        """Begin to trace what `follow` names."""
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()

    def follow(self, engines: Mapping[str, EngineProcess]) -> None:
        """Say which engines there are; returns at once."""
        wanted = {name: frozenset(engine.roles) for name, engine in engines.items()}
        with self._changed:
            if wanted == self._wanted:
                return
            self._wanted, self._wanted_at = wanted, self._clock()
            self._end(self._process)
            self._changed.notify_all()

    def latest(self) -> dict[str, Traced]:
        """Give what was seen in the last second by engine_id; empty while nothing is."""
        now = self._clock()
        with self._changed:
            return {
                name: traced
                for name, (at, traced) in self._latest.items()
                if now - at <= STALE_SECONDS
            }

    def stop(self) -> None:
        """Stop tracing; returns when bpftrace has ended, and with it all probes."""
        with self._changed:
            self._stop.set()
            self._end(self._process)
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS * 3)

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None) -> None:
        if process is None or process.poll() is not None:
            return
        process.terminate()
        killer = threading.Timer(STOP_SECONDS, process.kill)
        killer.daemon = True
        killer.start()

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            wanted = self._settled()
            if wanted is None:
                continue
            began = self._clock()
            failure = self._refused() or self._trace(wanted)
            if failure is None:
                pause = FIRST_PAUSE_SECONDS
                continue
            self._tell(failure)
            if self._clock() - began > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._stop.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _settled(self) -> dict[str, frozenset[int]] | None:
        """Wait until there is an engine and its processes were the same for a while."""
        with self._changed:
            left = self._wanted_at + self._settle_seconds - self._clock()
            if self._wanted and left <= 0:
                return self._wanted
            self._changed.wait(left if self._wanted else None)
        return None

    def _refused(self) -> str | None:
        if shutil.which(self._command[0]) is None:
            return (
                f"{self._command[0]} is not installed: install it (Debian, Ubuntu: apt-get install "
                f"bpftrace), {OFF}"
            )
        return None

    def _tell(self, failure: str) -> None:
        if failure != self.note:
            self.note = failure
            log.warning("Kernel tracing does not work: %s.", failure)

    def _trace(self, wanted: dict[str, frozenset[int]]) -> str | None:
        """Run bpftrace until the engines change; else give why it ended."""
        calls = self._find_calls(frozenset().union(*wanted.values()))
        program = make_program(list(wanted.values()), calls)
        names = dict(enumerate(wanted, start=1))
        said: deque[str] = deque(maxlen=20)
        with self._changed:
            if self._stop.is_set() or self._wanted != wanted:
                return None
            process = self._process = subprocess.Popen(
                [*self._command, "-B", "none", "-f", "json", "-e", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        try:
            again = self._read(process, names, said)
        finally:
            self._reap(process)
        changed = self._stop.is_set() or self._wanted != wanted
        return None if again or changed else explain(said)

    def _read(
        self, process: subprocess.Popen[bytes], names: dict[int, str], said: deque[str]
    ) -> bool:
        """Read until it ends; True where it has to be started anew with fewer calls."""
        assert process.stdout is not None
        output = Output()
        while line := process.stdout.readline(LONGEST_LINE_BYTES):
            try:
                done = output.feed(line.decode(errors="replace"))
            except ValueError as err:
                said.append(str(err))
                continue
            if done is None:
                continue
            self._keep(done, names)
            if self._drop_frequent(done):
                return True
        return False

    def _keep(self, seconds: dict[int, Second], names: dict[int, str]) -> None:
        now = self._clock()
        if self.note is not None:
            log.info("Kernel tracing works again.")
            self.note = None
        with self._changed:
            self._latest = {
                names[number]: (now, traced_of(second))
                for number, second in seconds.items()
                if number in names
            }

    def _drop_frequent(self, seconds: dict[int, Second]) -> bool:
        counts: dict[str, int] = {}
        for second in seconds.values():
            for name, (count, _) in second.calls.items():
                counts[name] = counts.get(name, 0) + count
        frequent = {name for name, count in counts.items() if count > MOST_CALLS_PER_SECOND}
        if frequent:
            self._too_frequent |= frequent
            log.info(
                "%s: called more than %d times a second, and no longer traced: that would cost "
                "the engine too much.",
                ", ".join(sorted(frequent)),
                MOST_CALLS_PER_SECOND,
            )
        return bool(frequent)

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        self._end(process)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        with self._changed:
            self._process, self._latest = None, {}

    def _find_calls(self, pids: Iterable[int]) -> list[Call]:
        """Give the functions that the libraries in use really have; bpftrace refuses others."""
        found: list[Call] = []
        for path, name in find_libraries(pids, self._proc).items():
            there = self._list_functions(path)
            found += [
                Call(path, function)
                for function in FUNCTIONS[name]
                if function in there and function not in self._too_frequent
            ]
        return sorted(found)

    def _list_functions(self, path: str) -> set[str]:
        try:
            listed = subprocess.run(
                [*self._command, "-l", f"uprobe:{path}:*"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=LIST_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return set()
        lines = listed.stdout.decode(errors="replace").splitlines()
        return {line.rpartition(":")[2].strip() for line in lines}
