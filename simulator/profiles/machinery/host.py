"""The processes of a profile: forked from one another, each with its title, all ending together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from simulator.profiles.machinery.metrics import serve_metrics
from simulator.profiles.machinery.recorder import Counters, Recorder
from simulator.profiles.machinery.title import set_title
from simulator.profiles.machinery.torch.cuda.streams import Stream
from simulator.profiles.machinery.traffic import Request, Traffic
from simulator.replica.lifeline import die_with_parent


class Options:
    """What the command line says about a run."""

    def __init__(
        self,
        *,
        truth: Path | None = None,
        period_seconds: float = 0.02,
        busy: bool = False,
        seed: int = 1,
        port: int = 0,
    ) -> None:
        self.truth = truth
        self.period_seconds = period_seconds
        self.busy = busy
        self.seed = seed
        self.port = port


class Host:
    """What a profile's processes need from the machinery; forked along with them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.counters = Counters()
        self._recorder: Recorder | None = None
        self.children: list[int] = []
        self._has_threads = False
        self._ready_reader, self._ready_writer = os.pipe()
        # Bound before the titles are written, because they name the port.
        self._listener = socket.socket()
        # One that was killed leaves connections behind, and may start again on its port.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", options.port))
        self.port = int(self._listener.getsockname()[1])

    def start_serving(
        self, target: Callable[[], None], page: tuple[str, Mapping[str, str]], *title: str
    ) -> int:
        """Run a function in a child process that serves the metrics page; its pid."""

        def serve_and_run() -> None:
            self.serve_metrics(*page)
            target()

        return self.start(serve_and_run, *title, keep_port=True)

    def start(self, target: Callable[[], None], *title: str, keep_port: bool = False) -> int:
        """Run a function in a child process with this command line; its pid."""
        parent_pid = os.getpid()
        titled_reader, titled_writer = os.pipe()
        # A signal between the fork and our own code could not be turned into a tidy end.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid:
            self.children.append(pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.close(titled_writer)
            # Nobody shall find a process of ours that still bears our own title.
            os.read(titled_reader, 1)
            os.close(titled_reader)
            return pid
        os.close(titled_reader)
        self.children = []
        if not keep_port:
            self._listener.close()
        # SIGTERM, not SIGKILL: the end of the truth is still in memory.
        die_with_parent(parent_pid, signal.SIGTERM)
        self._live(target, titled_writer, *title)

    def _live(self, target: Callable[[], None], titled_writer: int, *title: str) -> NoReturn:
        status = 1
        try:
            exit_on_signals()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            set_title(*title)
            os.close(titled_writer)
            target()
        except SystemExit:
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            self.close()
            os._exit(status)

    def start_thread(self, target: Callable[[], None]) -> None:
        """Run a function in a thread of this process, which is then the engine's own."""
        self._has_threads = True
        threading.Thread(target=target, daemon=True).start()

    def become(self, *title: str) -> None:
        """Give this process its command line; the port is added."""
        set_title(*title, "--port", str(self.port))

    def ready(self, label: str) -> None:
        """Tell the first process that this one is about to iterate."""
        os.write(self._ready_writer, f"{label} {os.getpid()}\n".encode())

    def await_ready(self, labels: tuple[str, ...]) -> dict[str, int]:
        """Wait for all processes; their pids by label."""
        if not self._has_threads:
            os.close(self._ready_writer)
        pids: dict[str, int] = {}
        with os.fdopen(self._ready_reader, encoding="ascii") as lines:
            for line in lines:
                label, _, pid = line.partition(" ")
                pids[label] = int(pid)
                if len(pids) == len(labels):
                    return pids
        missing = ", ".join(sorted(set(labels) - set(pids)))
        raise RuntimeError(f"a process of the profile ended early ({missing}): see above")

    def recorder(self, *, truth: bool = True) -> Recorder:
        """Start the thread that writes the truth of this process."""
        self._recorder = Recorder(self.options.truth if truth else None, self.counters)
        self._recorder.start()
        return self._recorder

    def stream(self) -> Stream:
        """Make a device."""
        return Stream(period_seconds=self.options.period_seconds, busy=self.options.busy)

    def traffic(self, put: Callable[[list[Request]], object], name: str = "Traffic") -> Traffic:
        """Make the thread that sends requests; the caller starts it."""
        return Traffic(
            put, period_seconds=self.options.period_seconds, seed=self.options.seed, name=name
        )

    def serve_metrics(self, path: str, rows: Mapping[str, str]) -> None:
        """Serve the metrics page on the profile's port."""
        serve_metrics(self._listener, path, rows, self.counters)

    def close(self) -> None:
        """Write out the truth and end the children of this process."""
        if self._recorder is not None:
            self._recorder.drain(last=True)
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for pid in self.children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.children = []


def exit_on_signals(*, interrupt: bool = False) -> None:
    """Turn SIGTERM into SystemExit, and SIGINT in the first process, which ends the others."""
    signal.signal(signal.SIGTERM, _raise_exit)
    signal.signal(signal.SIGINT, _raise_exit if interrupt else signal.SIG_IGN)


def _raise_exit(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    # A second one must not interrupt the writing of the truth.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(0)


def wait_forever() -> None:
    """Keep the main thread while another one works."""
    threading.Event().wait()
