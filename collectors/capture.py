"""A deep look at one engine for some seconds: flame graphs, stack dumps, counters at full rate.

Stacks come from the ``py-spy`` command, which never stops the process (``--nonblocking``) and is
never asked for locals: no prompt or output can get into a file.
"""

import contextlib
import logging
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

from collectors.config import CollectSettings
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
# How long py-spy may take to write its file after it was told to stop.
WRITE_SECONDS = 20.0
DUMP_SECONDS = 15.0


class CaptureError(Exception):
    """A capture could not be taken; the text ends with what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """The engine to look at, and how its framework is read."""

    engine_id: str
    host: str
    engine: EngineProcess
    framework: Framework

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes whose stacks are taken: the core, its ranks, and the server."""
        pids = [self.engine.core.pid, *(rank.process.pid for rank in self.engine.ranks)]
        if self.engine.api_server is not None:
            pids.append(self.engine.api_server.pid)
        return tuple(dict.fromkeys(pids))

    def label(self, pid: int) -> str:
        """Name a process in the names of files, as ``engine_core-4711``."""
        return f"{self.engine.roles[pid]}-{pid}"


def find_py_spy() -> str | None:
    """Give the path of the py-spy command: beside this Python, or on the path."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


def request(engine_id: str, seconds: float, reason: str = "user") -> Capture:
    """Make the record that asks the agent of an engine's host for a capture."""
    return Capture(
        capture_id=uuid.uuid4().hex,
        engine_id=engine_id,
        at_ns=time.time_ns(),
        state="requested",
        seconds=seconds,
        reason=reason,
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
        raise CaptureError(
            f"the engine {target.engine_id} does not run any more: look for it with "
            "'latencyprism doctor'"
        )
    folder = Path(settings.capture_folder) / _folder_name(asked)
    seconds = min(asked.seconds, settings.capture_most_seconds)
    stop = stop or threading.Event()
    try:
        folder.mkdir(parents=True, mode=0o750)
    except OSError as err:
        raise CaptureError(
            f"the folder {folder} cannot be made: {err.strerror}; set [collect] capture_folder "
            "to one that the agent may write to"
        ) from err
    begin_ns = time.time_ns()
    problems: list[str] = []
    try:
        _look(target, folder, seconds, stop, settings, attach_sampler, problems)
    except OSError as err:
        raise CaptureError(
            f"the capture in {folder} broke off: {err.strerror}; make room there or set [collect] "
            "capture_folder to another disk"
        ) from err
    done = replace(
        asked,
        at_ns=time.time_ns(),
        state="done",
        seconds=seconds,
        begin_ns=begin_ns,
        end_ns=time.time_ns(),
        host=target.host,
        pids=target.pids,
        folder=str(folder),
        error="; ".join(problems) or None,
    )
    (folder / "capture.json").write_bytes(encode(done) + b"\n")
    return replace(
        done, files={path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    )


def prune(folder: Path, keep_bytes: int) -> int:
    """Delete the oldest captures until the rest is small enough; the newest one stays.

    Only folders that hold a ``capture.json`` are touched. Gives how many were deleted.
    """
    captures = sorted(
        (path.parent for path in folder.glob("*/capture.json")),
        key=lambda path: path.stat().st_mtime,
    )
    sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in captures]
    deleted = 0
    while len(captures) - deleted > 1 and sum(sizes[deleted:]) > keep_bytes:
        shutil.rmtree(captures[deleted], ignore_errors=True)
        deleted += 1
    return deleted


def _folder_name(asked: Capture) -> str:
    engine = "".join(letter if letter.isalnum() else "-" for letter in asked.engine_id)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return f"{moment}-{engine}-{asked.capture_id[:8]}"


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
        _dump(spy, target, folder, "begin", problems)
    recorders = [] if spy is None else _start_recording(spy, target, folder)
    over = threading.Event()
    counters = threading.Thread(target=_log_counters, args=(target, folder, over, problems))
    iterations = threading.Thread(
        target=_log_iterations, args=(target, folder, over, settings, attach_sampler, problems)
    )
    try:
        counters.start()
        iterations.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and is_running(target.engine.core):
            if stop.wait(0.1):
                break
    finally:
        over.set()
        _stop_recording(recorders, problems)
        counters.join()
        iterations.join()
    if spy is not None:
        _dump(spy, target, folder, "end", problems)


def _start_recording(
    spy: str, target: Target, folder: Path
) -> list[tuple[subprocess.Popen[bytes], Path]]:
    recorders = []
    for pid in target.pids:
        for kind, suffix in FORMATS.items():
            path = folder / f"{kind}-{target.label(pid)}.{suffix}"
            command = [
                *(spy, "record", "--nonblocking", "--idle", "--threads", "--function"),
                *("--rate", str(STACK_HZ), "--duration", "unlimited"),
                *("--format", kind, "--output", str(path), "--pid", str(pid)),
            ]
            recorder = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(),
            )
            recorders.append((recorder, path))
    return recorders


def _stop_recording(
    recorders: list[tuple[subprocess.Popen[bytes], Path]], problems: list[str]
) -> None:
    for recorder, _ in recorders:
        with contextlib.suppress(ProcessLookupError):
            # Its duration counts samples, not time; an interrupt makes it write what it has.
            recorder.send_signal(signal.SIGINT)
    for recorder, path in recorders:
        try:
            _, said = recorder.communicate(timeout=WRITE_SECONDS)
        except subprocess.TimeoutExpired:
            recorder.kill()
            _, said = recorder.communicate()
        if not path.exists():
            problems.append(f"no {path.name}: {_last_line(said)}")


def _dump(spy: str, target: Target, folder: Path, moment: str, problems: list[str]) -> None:
    for pid in target.pids:
        try:
            done = subprocess.run(
                [spy, "dump", "--nonblocking", "--json", "--pid", str(pid)],
                capture_output=True,
                check=False,
                timeout=DUMP_SECONDS,
                env=_environment(),
            )
        except subprocess.TimeoutExpired:
            problems.append(f"no dump of {pid}: py-spy took longer than {DUMP_SECONDS:.0f} s")
            continue
        if done.returncode != 0:
            problems.append(f"no dump of {pid}: {_last_line(done.stderr)}")
            continue
        (folder / f"dump-{moment}-{target.label(pid)}.json").write_bytes(done.stdout)


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
