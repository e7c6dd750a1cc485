"""The replica under load, and an agent in a process of its own, for the process tests."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.codec import DecodeError, decode
from schemas.records import Engine, HostReading, Iteration, ProcessReading, Record
from simulator.load import run_load
from simulator.workloads import Phase, Workload

ROOT = Path(__file__).resolve().parents[2]
READABLE: tuple[type[Record], ...] = (Iteration, Engine, HostReading, ProcessReading)
REQUIRED = os.environ.get("LATENCYPRISM_REQUIRE_NATIVE") == "1"


def native_is_there() -> bool:
    try:
        import latencyprism_native  # noqa: F401  # asked for only
    except ImportError:
        if REQUIRED:
            raise
        return False
    return True


needs_native = pytest.mark.skipif(
    not native_is_there(), reason="no native sampler: make native (needs Rust)"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], timeout_seconds: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_healthy(base_url: str) -> bool:
    with urllib.request.urlopen(f"{base_url}/health", timeout=30) as answer:
        return int(answer.status) == 200


@contextmanager
def load(base_url: str, *, concurrency: int = 4) -> Iterator[None]:
    """Keep clients busy for the length of the block."""
    phase = Phase(
        duration_seconds=600.0,
        concurrency=concurrency,
        prompt_tokens=(16, 160),
        output_tokens=(16, 96),
    )
    workload = Workload(name="test", summary="Clients.", phases=(phase,))
    loop = asyncio.new_event_loop()
    task = loop.create_task(run_load(base_url, workload, seed=3))

    def play() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


class Collector:
    """`latencyprism collect --stdout` in a process of its own: its records and its log lines.

    `before` is Python that runs first in that process: to block an import or give up root.
    """

    def __init__(self, config: Path, arguments: Sequence[str] = (), before: str = "") -> None:
        self.records: list[Record] = []
        self.lines: list[str] = []
        self._arrived: queue.Queue[None] = queue.Queue()
        code = f"{before}\nimport sys\nfrom latencyprism.__main__ import main\nsys.exit(main())"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-c", code, "collect", "--config", str(config)),
                *arguments,
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._threads = [
            threading.Thread(target=self._read_records),
            threading.Thread(target=self._read_lines),
        ]
        for thread in self._threads:
            thread.start()

    def _read_records(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            for record_type in READABLE:
                try:
                    self.records.append(decode(record_type, line))
                except DecodeError:
                    continue
                break

    def _read_lines(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode().rstrip("\n"))

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is not None:
            # pytest shows this with the failure: what the agent said tells what it waited for.
            sys.stderr.write("\n".join(map(str, (*self.lines, *self.engines[-3:]))) + "\n")

    def stop(self) -> int:
        """End it as an operator does, and give its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        for thread in self._threads:
            thread.join(20)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status

    @property
    def iterations(self) -> list[Iteration]:
        return [one for one in list(self.records) if isinstance(one, Iteration)]

    @property
    def engines(self) -> list[Engine]:
        return [one for one in list(self.records) if isinstance(one, Engine)]

    def told(self, text: str) -> list[str]:
        """Give the log lines with this text."""
        return [line for line in list(self.lines) if text in line]

    @property
    def complaints(self) -> list[str]:
        """Give the lines of warnings and errors."""
        return [line for line in list(self.lines) if " WARNING " in line or " ERROR " in line]


def write_config(folder: Path, port: int, **collect: object) -> Path:
    """Write a configuration that watches one port only."""
    options = {"host": '"h"', "ports": [port], "discovery_period_seconds": 0.3} | collect
    lines = [f"{key} = {value}" for key, value in options.items()]
    path = folder / "latencyprism.toml"
    path.write_text("[collect]\n" + "\n".join(lines) + "\n")
    # Whoever the agent runs as must be able to read it.
    path.chmod(0o644)
    return path
