"""A deep look at one engine for some seconds: flame graphs, stack dumps, counters at full rate.

Stacks come from the ``py-spy`` command, which never stops the process (``--nonblocking``) and is
never asked for locals: no prompt or output can get into a file.
"""

import contextlib
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from collectors.capture_files import (
    RECORD,
    CaptureError,
    alone,
    engine_is_gone,
    find_capture,
    make_folder,
)
from collectors.config import CollectSettings
from collectors.difference import write_difference
from collectors.discovery import EngineProcess, is_running, start_ns
from collectors.engines.base import Framework
from collectors.host.reading import HostReader
from collectors.publisher import StreamPublisher
from collectors.rank import RankReader
from collectors.stacks import AttachRefused, Sampler, SamplerUnavailable, attach
from schemas.codec import encode
from schemas.records import Capture, Record

log = logging.getLogger("latencyprism.capture")

HOW_TO_GET_PY_SPY = "install it with: pip install 'latencyprism[capture]'"
# py-spy costs some 1 ms of CPU per sample of an engine process.
STACK_HZ = 50
POLL_HZ = 2000
COUNTER_PERIOD_SECONDS = 0.1
FORMATS = {"flamegraph": "svg", "speedscope": "json"}
# How long all recorders together may take to write their files; the second, where the agent stops.
WRITE_SECONDS = 20.0
STOPPED_WRITE_SECONDS = 5.0
DUMP_SECONDS = 15.0
# A process that is not stopped may change what is being read; the next look mostly succeeds.
DUMP_TRIES = 3
LOOK_SECONDS = 0.1

Recorders = list[tuple[subprocess.Popen[bytes], Path]]


@dataclass(frozen=True, slots=True)
class Target:
    """The engine to look at, and how its framework is read."""

    engine_id: str
    host: str
    engine: EngineProcess
    framework: Framework

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes whose stacks are taken: the core, its ranks, and the server.

        Those that may iterate in the core's place are among them: nothing else tells them apart.
        """
        pids = [self.engine.core.pid, *(rank.process.pid for rank in self.engine.ranks)]
        pids += [process.pid for process in self.engine.candidates if is_running(process)]
        if self.engine.api_server is not None:
            pids.append(self.engine.api_server.pid)
        return tuple(dict.fromkeys(pids))

    def label(self, pid: int) -> str:
        """Name a process in the names of files, as ``engine_core-4711``."""
        return f"{self.engine.roles.get(pid, 'other')}-{pid}"


def find_py_spy() -> str | None:
    """Give the path of the py-spy command: beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


def request(
    engine_id: str, seconds: float, reason: str = "user", compare_with: str | None = None
) -> Capture:
    """Make the record that asks the agent of an engine's host for a capture."""
    return Capture(
        capture_id=uuid.uuid4().hex,
        engine_id=engine_id,
        at_ns=time.time_ns(),
        state="requested",
        seconds=seconds,
        reason=reason,
        compare_with=compare_with,
    )


def take(
    target: Target,
    asked: Capture,
    settings: CollectSettings,
    stop: threading.Event | None = None,
    attach_sampler: Callable[..., Sampler] = attach,
) -> Capture:
    """Look at the engine and write what was seen into a folder of its own.

    Takes ``asked.seconds`` (cut to ``capture_most_seconds``) and a little more. What one tool
    cannot do does not keep the others from their files; ``error`` then says what is missing.

    Raises:
        CaptureError: The folder cannot be written, or the engine is gone.
    """
    if not is_running(target.engine.core):
        raise engine_is_gone(target.engine_id)
    base = Path(settings.capture_folder)
    folder = make_folder(base, asked)
    try:
        with alone(base):
            return _take(target, asked, settings, folder, stop or threading.Event(), attach_sampler)
    except CaptureError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
    except OSError as err:
        raise CaptureError(
            f"the capture in {folder} broke off: {err.strerror}; make room there or set [collect] "
            "capture_folder to another disk"
        ) from err


def _take(
    target: Target,
    asked: Capture,
    settings: CollectSettings,
    folder: Path,
    stop: threading.Event,
    attach_sampler: Callable[..., Sampler],
) -> Capture:
    begun = replace(
        asked,
        state="running",
        seconds=min(asked.seconds, settings.capture_most_seconds),
        begin_ns=time.time_ns(),
        host=target.host,
        pids=target.pids,
        folder=str(folder),
    )
    record = folder / RECORD
    # By this it is known as a capture, should it never be finished.
    record.write_bytes(encode(begun) + b"\n")
    problems: list[str] = []
    _look(target, folder, begun.seconds, stop, settings, attach_sampler, problems)
    now_ns = time.time_ns()
    done = replace(begun, at_ns=now_ns, state="done", end_ns=now_ns)
    if done.compare_with is not None and not stop.is_set():
        problems += _compare(folder, done, done.compare_with)
    done = replace(done, error="; ".join(problems) or None)
    record.write_bytes(encode(done) + b"\n")
    return replace(
        done, files={path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    )


def _compare(folder: Path, done: Capture, capture_id: str) -> list[str]:
    found = find_capture(folder.parent, capture_id)
    if found is None:
        return [
            f"no difference: there is no capture {capture_id} in {folder.parent} (any more); "
            "raise [collect] capture_keep_bytes if it was deleted too soon"
        ]
    earlier = found[1]
    if earlier.engine_id != done.engine_id:
        return [
            f"no difference: {capture_id} is a capture of {earlier.engine_id}; name one of "
            f"{done.engine_id}"
        ]
    return write_difference(folder, done, *found)


def _look(
    target: Target,
    folder: Path,
    seconds: float,
    stop: threading.Event,
    settings: CollectSettings,
    attach_sampler: Callable[..., Sampler],
    problems: list[str],
) -> None:
    spy = find_py_spy()
    if spy is None:
        problems.append(f"no stacks, for the py-spy command is missing: {HOW_TO_GET_PY_SPY}")
    else:
        _dump(spy, target, folder, "begin", stop, problems)
    recorders: Recorders = []
    over = threading.Event()
    counters = threading.Thread(target=_log_counters, args=(target, folder, over, problems))
    iterations = threading.Thread(
        target=_log_iterations, args=(target, folder, over, settings, attach_sampler, problems)
    )
    try:
        if spy is not None:
            _start_recording(spy, target, folder, seconds, recorders)
        counters.start()
        iterations.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and is_running(target.engine.core):
            if stop.wait(LOOK_SECONDS):
                break
    finally:
        over.set()
        _stop_recording(
            recorders, STOPPED_WRITE_SECONDS if stop.is_set() else WRITE_SECONDS, problems
        )
        for thread in (counters, iterations):
            if thread.ident is not None:
                thread.join()
    if spy is not None and not stop.is_set():
        _dump(spy, target, folder, "end", stop, problems)


def _start_recording(
    spy: str, target: Target, folder: Path, seconds: float, recorders: Recorders
) -> None:
    """Start a py-spy for each process and format, and add it to ``recorders`` at once.

    They outlive an agent that is killed, but not for long: their duration ends. A signal at the
    parent's death would have to be set between fork and exec, which is not safe with threads.
    """
    # In samples, not in time: a slow one must not end before it is told to.
    most_seconds = math.ceil(3 * seconds + 30)
    for pid in target.pids:
        for kind, suffix in FORMATS.items():
            path = folder / f"{kind}-{target.label(pid)}.{suffix}"
            command = [
                *(spy, "record", "--nonblocking", "--idle", "--threads", "--function"),
                *("--rate", str(STACK_HZ), "--duration", str(most_seconds)),
                *("--format", kind, "--output", str(path), "--pid", str(pid)),
            ]
            recorder = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
            )
            recorders.append((recorder, path))


def _stop_recording(recorders: Recorders, within_seconds: float, problems: list[str]) -> None:
    for recorder, _ in recorders:
        with contextlib.suppress(ProcessLookupError):
            # An interrupt makes it write what it has.
            recorder.send_signal(signal.SIGINT)
    deadline = time.monotonic() + within_seconds
    for recorder, path in recorders:
        try:
            _, said = recorder.communicate(timeout=max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            recorder.kill()
            _, said = recorder.communicate()
        if not path.exists() or not path.stat().st_size:
            problems.append(f"no {path.name}: {_last_line(said)}")


def _dump(
    spy: str,
    target: Target,
    folder: Path,
    moment: str,
    stop: threading.Event,
    problems: list[str],
) -> None:
    for pid in target.pids:
        if stop.is_set():
            return
        command = [spy, "dump", "--nonblocking", "--json", "--pid", str(pid)]
        status, dump, said = 1, b"", b""
        try:
            for _ in range(DUMP_TRIES):
                status, dump, said = _run_until(command, DUMP_SECONDS, stop)
                if status == 0 or stop.is_set():
                    break
        except subprocess.TimeoutExpired:
            problems.append(f"no dump of {pid}: py-spy took longer than {DUMP_SECONDS:.0f} s")
            continue
        if status != 0:
            problems.append(f"no dump of {pid}: {_last_line(said)}")
            continue
        (folder / f"dump-{moment}-{target.label(pid)}.json").write_bytes(dump)


def _run_until(
    command: list[str], most_seconds: float, stop: threading.Event
) -> tuple[int, bytes, bytes]:
    """Give exit status and output of a command, which is killed at its time or when we stop.

    Raises:
        TimeoutExpired: It took longer.
    """
    deadline = time.monotonic() + most_seconds
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
    ) as running:
        while True:
            try:
                out, err = running.communicate(timeout=LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                if stop.is_set() or time.monotonic() >= deadline:
                    running.kill()
                    if not stop.is_set():
                        raise
                continue
            return running.returncode, out, err


def _environment() -> dict[str, str]:
    # With a backtrace asked for, each read that fails costs a second or two.
    return {name: value for name, value in os.environ.items() if name != "RUST_BACKTRACE"}


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "py-spy said nothing; run it by hand to see why"


def _log_counters(target: Target, folder: Path, over: threading.Event, problems: list[str]) -> None:
    """Write host and process counters ten times a second, as the topics carry them."""
    reader = HostReader(target.host)
    try:
        with (folder / "counters.jsonl").open("wb") as file:
            publisher = StreamPublisher(file)
            while not over.wait(COUNTER_PERIOD_SECONDS):
                hosts, processes = reader.read({target.engine_id: target.engine})
                records: list[Record] = [*hosts, *processes]
                for record in records:
                    publisher.publish(record)
    except OSError as err:
        problems.append(f"counters.jsonl is cut: {err.strerror}")


def _log_iterations(
    target: Target,
    folder: Path,
    over: threading.Event,
    settings: CollectSettings,
    attach_sampler: Callable[..., Sampler],
    problems: list[str],
) -> None:
    """Write each iteration of the core, by a sampler of our own at a higher rate."""
    core = target.engine.core
    try:
        with (folder / "iterations.jsonl").open("wb") as file:
            reader = RankReader(
                engine_id=target.engine_id,
                process_start_ns=start_ns(core),
                process=core,
                candidates=target.engine.candidates,
                families=target.framework.families(
                    "engine_core", target.framework.version(target.engine)
                ),
                publisher=StreamPublisher(file),
                settings=settings,
                attach_sampler=attach_sampler,
            )
            reader.attach(POLL_HZ, min(4 * STACK_HZ, POLL_HZ))
            if reader.run(over) == "refused":
                problems.append(f"iterations.jsonl is cut: {reader.failure}")
    except (SamplerUnavailable, AttachRefused, ProcessLookupError) as err:
        problems.append(f"no iterations: {err}")
    except OSError as err:
        problems.append(f"iterations.jsonl is cut: {err.strerror}")
