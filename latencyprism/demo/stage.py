"""Put everything on stage: broker, engine, agent, workers and receiver, each a real process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from collectors.stacks import native_version
from latencyprism.commands.stream import ROLES
from latencyprism.demo.machine import Machine
from latencyprism.demo.receiver import Receiver
from latencyprism.errors import CommandError
from latencyprism.lifeline import SUPERVISOR
from schemas.codec import DecodeError, decode
from schemas.records import Batch, Engine
from schemas.topics import BATCHES, ENGINES, TOPICS
from simulator.replica.process import ReplicaProcess, ReplicaStartError
from streams.embedded import PARTITIONS, EmbeddedBroker

CONFIGURATION = """\
# Written by 'latencyprism demo'.
[kafka]
bootstrap_servers = "{bootstrap}"

[collect]
host = "demo"
ports = [{port}]
{metrics}
[stream]
embedded = true
# The embedded broker answers a waiting fetch only when the wait is over.
fetch_wait_ms = 10
data_dir = "{folder}/faust"

[store]
dsn = "chdb://{folder}/clickhouse"

[notify]
url = "{webhook}"
allow_private = true
spool_folder = "{folder}/notify"
# The story makes more trouble within a minute than an engine should in a day.
flap_count = 100

[captures]
# Taking stacks costs the engine, whose batches are being measured, and its host CPU time.
enabled = false
"""

WORKERS_READY_SECONDS = 30.0
STOP_SECONDS = 15.0


class Monitor:
    """Follow the public topics, as anyone could, to show what is going on."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.batches = 0
        self.recent: deque[Batch] = deque(maxlen=200)
        self.engine: Engine | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(5.0)

    def error_ratio(self) -> float | None:
        """Give the median relative error of the recent judged batches."""
        errors = sorted(
            abs(batch.duration_ns / batch.expected_ns - 1)
            for batch in list(self.recent)
            if batch.expected_ns
        )
        return errors[len(errors) // 2] if errors else None

    def _run(self) -> None:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        consumer: Any = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "demo-monitor",
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        consumer.assign(
            [
                TopicPartition(topic.name, partition, OFFSET_BEGINNING)
                for topic in (BATCHES, ENGINES)
                for partition in range(PARTITIONS)
            ]
        )
        while not self._stop.is_set():
            for message in consumer.consume(500, timeout=0.2):
                if message.error() is None:
                    self._take(message)
        consumer.close()

    def _take(self, message: Any) -> None:
        with contextlib.suppress(DecodeError):
            if message.topic() == ENGINES.name:
                self.engine = decode(Engine, message.value())
                return
            batch = decode(Batch, message.value())
            self.batches += 1
            self.recent.append(batch)


class Stage:
    """Everything that the demonstration runs, started in order and stopped in order.

    Args:
        folder: Where logs, database and the engine's own record go; emptied first.

        work_ratio: Size of the replica's model; smaller is faster.

        worker: The role of the stream workers, or ``all`` of them.

        options: More options of the replica.
    """

    def __init__(
        self,
        folder: Path,
        work_ratio: float = 1.0,
        worker: str = "all",
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.config = self.folder / "latencyprism.toml"
        self.truth = self.folder / "truth.csv"
        self.receiver = Receiver()
        self.replica = ReplicaProcess(truth=self.truth, work_ratio=work_ratio, options=options)
        self.broker = EmbeddedBroker()
        self._worker = worker
        self.machine = Machine()
        # The replica runs on the Python that this does.
        self.can_read_counters = native_version() is not None and sys.version_info[:2] == (3, 11)
        self.monitor: Monitor | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def stop_pipeline(self) -> None:
        """Stop agent and workers, in this order, so that everything seen is stored."""
        self._stop("collect")
        # The store writes twice a second at least; what it has not read yet is on the broker.
        time.sleep(2.0)
        self._stop("stream")

    def dead(self) -> str | None:
        """Give the name of a process that ended before its time."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                return name
        return None if self.replica.is_running else "replica"

    def _start(self) -> None:
        if self.folder.exists():
            if any(self.folder.iterdir()) and not self._is_ours():
                raise CommandError(
                    f"{self.folder} is not empty and not of an earlier demo: choose another --data"
                )
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self.broker.start()
        self._closing.callback(self.broker.stop)
        self.broker.create_topics(list(TOPICS))
        self.receiver.start()
        self._closing.callback(self.receiver.stop)
        try:
            self.replica.start()
        except ReplicaStartError as err:
            raise CommandError(str(err)) from err
        self._closing.callback(self.replica.stop)
        port = int(self.replica.base_url.rpartition(":")[2])
        self.config.write_text(
            CONFIGURATION.format(
                bootstrap=self.broker.bootstrap,
                port=port,
                folder=self.folder,
                webhook=self.receiver.url,
                # Interval means only: short ones, or the story is over before they are enough.
                metrics="" if self.can_read_counters else "metrics_period_seconds = 0.25\n",
            )
        )
        self._launch("stream", "stream", self._worker)
        self._wait_for_workers()
        self._launch("collect", "collect")
        self.machine.start()
        self._closing.callback(self.machine.stop)
        self.monitor = Monitor(self.broker.bootstrap)
        self.monitor.start()
        self._closing.callback(self.monitor.stop)

    def _is_ours(self) -> bool:
        """Tell a folder of an earlier demo from one that somebody needs."""
        try:
            return self.config.read_text().startswith(CONFIGURATION.partition("\n")[0])
        except OSError:
            return False

    def _launch(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-P", "-m", "latencyprism", *command, "--config", str(self.config)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            # A Ctrl-C at the terminal is ours to pass on, in the right order.
            start_new_session=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                SUPERVISOR: str(os.getpid()),
            },
        )
        log.close()
        self._closing.callback(self._stop, name)

    def _wait_for_workers(self) -> None:
        """Wait until each worker has its partitions: it says so in the log."""
        deadline = time.monotonic() + WORKERS_READY_SECONDS
        log = self.folder / "stream.log"
        workers = len(ROLES) if self._worker == "all" else 1
        while time.monotonic() < deadline:
            if log.read_text().count(" is ready ") >= workers:
                return
            if self._processes["stream"].poll() is not None:
                break
            time.sleep(0.1)
        raise CommandError(f"the stream workers did not come up: see {log}")

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
