"""Run the stream workers: judge batches, store rows, send alerts.

'analyze' joins and judges, 'store' writes to ClickHouse, 'notify' posts to the webhook; each is a
consumer group of its own, so a slow database never delays an alert. 'all' runs one of each and
restarts what stops. Start more 'analyze' workers to share more engines.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from latencyprism.errors import CommandError, need
from latencyprism.lifeline import SUPERVISOR
from latencyprism.logs import add_log_level, start_logging
from schemas.settings import KafkaSettings, read_settings, section

log = logging.getLogger("latencyprism.stream")

ROLES = ("analyze", "store", "notify")
# A worker that dies young is restarted with growing pauses up to this one.
LONGEST_PAUSE_SECONDS = 30.0
STOP_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("role", choices=(*ROLES, "all"), help="which worker to run")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    add_log_level(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run one role in this process, or all of them in three."""
    start_logging(arguments.log_level)
    if arguments.role == "all":
        return supervise(worker_commands(arguments.config, arguments.log_level))
    return run_role(arguments.role, arguments.config)


def run_role(role: str, config: Path | None) -> int:
    """Run one worker until it is told to stop.

    Raises:
        CommandError: The brokers refuse what the worker needs.
    """
    for module in ("faust", "confluent_kafka", "river", "clickhouse_connect"):
        need(module, "stream")
    from streams.app import run_worker
    from streams.broker import wait_for_topics
    from streams.config import StreamSettings

    settings = read_settings(config)
    kafka = section(settings, "kafka", KafkaSettings)
    stream = section(settings, "stream", StreamSettings)
    # Joined topics and the changelog need as many partitions as the brokers really have.
    found = wait_for_topics(kafka, embedded=stream.embedded)
    check_changelog(f"{stream.application}-analyze-analyses-changelog", found)
    worker = build_role(role, settings, kafka, stream, found)
    log.info("%s: reading from Kafka at %s.", role, kafka.bootstrap_servers)
    run_worker(worker)
    return 0


def check_changelog(name: str, found: dict[str, int]) -> None:
    """Refuse to run where the state's topic and the iterations were cut differently.

    Raises:
        CommandError: They have different numbers of partitions.
    """
    from schemas.topics import ITERATIONS

    wanted = found[ITERATIONS.name]
    if found.get(name, wanted) != wanted:
        raise CommandError(
            f"{name} has {found[name]} partitions and {ITERATIONS.name} has {wanted}: stop all "
            "workers and delete the first (baselines are then learnt anew)"
        )


def build_role(
    role: str, settings: dict[str, Any], kafka: KafkaSettings, stream: Any, found: dict[str, int]
) -> Any:
    """Build the worker of a role from the sections that it reads."""
    import msgspec

    from schemas.topics import ITERATIONS
    from streams.capture_policy import CaptureSettings
    from streams.delivery import NotifySettings
    from streams.sinks.clickhouse import ClickHouseSettings
    from streams.workers import analyze, notify, store

    store_settings = section(settings, "store", ClickHouseSettings)
    notify_settings = section(settings, "notify", NotifySettings)
    capture_settings = section(settings, "captures", CaptureSettings)
    kafka = msgspec.structs.replace(kafka, partitions=found[ITERATIONS.name])
    try:
        if role == "analyze":
            return analyze.build(kafka, stream)
        if role == "store":
            return store.build(kafka, stream, store_settings)
        return notify.build(kafka, stream, notify_settings, capture_settings)
    except ValueError as err:
        raise CommandError(str(err)) from err


def worker_commands(config: Path | None, log_level: str) -> dict[str, list[str]]:
    """Give the command line of each role."""
    options = ["--log-level", log_level] + (["--config", str(config)] if config else [])
    return {
        role: [sys.executable, "-P", "-m", "latencyprism", "stream", role, *options]
        for role in ROLES
    }


def supervise(commands: dict[str, list[str]], stop: threading.Event | None = None) -> int:
    """Run commands side by side and restart each that ends, until a signal or ``stop``."""
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
    started = {role: time.monotonic() for role in commands}
    pauses = dict.fromkeys(commands, 0.5)
    # Workers that outlived us would keep the database's folder and their partitions.
    environment = os.environ | {SUPERVISOR: str(os.getpid())}

    def start(role: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(commands[role], env=environment)

    processes = {role: start(role) for role in commands}
    due: dict[str, float] = {}
    while not stop.wait(0.2):
        now = time.monotonic()
        for role, process in processes.items():
            if role not in due and process.poll() is not None:
                pauses[role] = (
                    0.5
                    if now - started[role] > 60
                    else min(pauses[role] * 2, LONGEST_PAUSE_SECONDS)
                )
                due[role] = now + pauses[role]
                log.error(
                    "%s ended with status %s; starting it again in %.0f s.",
                    role,
                    process.returncode,
                    pauses[role],
                )
            if role in due and now >= due[role]:
                del due[role]
                started[role] = now
                processes[role] = start(role)
    for process in processes.values():
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for role, process in processes.items():
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop within %.0f s and is killed.", role, STOP_SECONDS)
            process.kill()
            process.wait()
    return 0
