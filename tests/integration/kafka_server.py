"""One Apache Kafka node (KRaft, broker and controller in one) as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

HERE = Path(__file__).resolve().parent
POM = HERE / "kafka" / "pom.xml"
JARS = HERE.parents[1] / ".cache" / "kafka"
COMPLETE = "complete"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=BROKER://127.0.0.1:{broker_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=BROKER://127.0.0.1:{broker_port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={log_dir}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# After a kill the old incarnation must time out before the new one may lead: seconds, not 9 s.
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
# Short sessions are asked for by tests that kill a consumer.
group.min.session.timeout.ms=1000
default.replication.factor=1
min.insync.replicas=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.segment.bytes=16777216
log.retention.bytes=67108864
log.retention.minutes=60
log.cleaner.dedupe.buffer.size=2097152
log.index.size.max.bytes=1048576
num.network.threads=2
num.io.threads=2
num.replica.fetchers=1
background.threads=2
"""

LOG4J = """\
<Configuration>
  <Appenders>
    <Console name="out"><PatternLayout pattern="%d %p %c: %m%n"/></Console>
  </Appenders>
  <Loggers>
    <Root level="warn"><AppenderRef ref="out"/></Root>
    <Logger name="kafka.server.KafkaRaftServer" level="info"/>
  </Loggers>
</Configuration>
"""

# A test broker lives for seconds: starting fast matters more than running fast.
JVM_OPTIONS = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


class KafkaUnavailableError(Exception):
    """No Kafka server can be started here; the message says what is missing."""


def kafka_jars(folder: Path = JARS) -> Path:
    """Return the folder with the server's jars, downloaded by Maven the first time."""
    pom = POM.read_text(encoding="utf-8")
    stamp = folder / COMPLETE
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pom:
        return folder
    if shutil.which("mvn") is None:
        raise KafkaUnavailableError(
            f"the jars of Apache Kafka are not in {folder} and there is no mvn to download them: "
            "install Maven (Debian and Ubuntu: apt install maven)"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = ["mvn", "--quiet", "--batch-mode", "--file", str(POM)]
    command += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={folder}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise KafkaUnavailableError(
            f"Maven could not download Apache Kafka:\n{done.stdout}{done.stderr}\n"
            "check that Maven Central can be reached (behind a proxy: ~/.m2/settings.xml)"
        )
    stamp.write_text(pom, encoding="utf-8")
    return folder


def free_ports(count: int) -> list[int]:
    """Return distinct loopback ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


class KafkaServer:
    """A Kafka server with its data and logs under `folder`; the ports stay over a restart."""

    def __init__(self, folder: Path, *, ready_timeout_seconds: float = 60.0) -> None:
        java = shutil.which("java")
        if java is None:
            raise KafkaUnavailableError(
                "no java to run Apache Kafka: install Java 17 or later "
                "(Debian and Ubuntu: apt install openjdk-17-jre-headless)"
            )
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        broker_port, controller_port = free_ports(2)
        self.bootstrap = f"127.0.0.1:{broker_port}"
        self.log = folder / "server.log"
        self._folder = folder
        self._ready_timeout_seconds = ready_timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "server.properties"
        self._config.write_text(
            PROPERTIES.format(
                broker_port=broker_port, controller_port=controller_port, log_dir=folder / "data"
            ),
            encoding="utf-8",
        )
        log4j = folder / "log4j2.xml"
        log4j.write_text(LOG4J, encoding="utf-8")
        self._java = [java, *JVM_OPTIONS, f"-Dlog4j2.configurationFile={log4j}"]
        self._java += ["-cp", f"{kafka_jars()}{os.sep}*"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the server and return when it answers; a no-op when it runs already."""
        if self._process is not None:
            return
        if not (self._folder / "data" / "meta.properties").exists():
            self._format_storage()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut down in order; killed when that takes more than 30 seconds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again on the same port with the data kept, after a stop or a kill."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _format_storage(self) -> None:
        command = ["kafka.tools.StorageTool", "format", "--cluster-id", "latencyprism-tests-000"]
        done = subprocess.run(
            [*self._java, *command, "--config", str(self._config)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise KafkaUnavailableError(
                f"Kafka could not format its storage:\n{done.stdout}{done.stderr}\n"
                "check that java is 17 or later (java -version)"
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        # log_level 0: refused connections are what waiting looks like.
        admin = AdminClient(
            {"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200}
        )
        deadline = time.monotonic() + self._ready_timeout_seconds
        while True:
            try:
                admin.list_topics(timeout=1.0)
                return
            except KafkaException as err:
                if process.poll() is not None:
                    raise KafkaUnavailableError(
                        f"Kafka ended with status {process.returncode} on its start: see {self.log}"
                    ) from err
                if time.monotonic() > deadline:
                    raise KafkaUnavailableError(
                        f"Kafka did not answer within {self._ready_timeout_seconds:g} seconds: "
                        f"see {self.log}"
                    ) from err
