"""Role ``analyze``: iterations and counters in, judged batches and alerts out."""

import asyncio
import logging
import time
from typing import Any

import orjson

from schemas.records import Alert, Engine, HostReading, Iteration, ProcessReading, XpuReading
from schemas.settings import KafkaSettings
from schemas.topics import (
    ALERTS,
    BATCHES,
    ENGINES,
    HOSTS,
    ITERATIONS,
    NORMS,
    PROCESSES,
    XPUS,
)
from streams.analyze import Analysis, Result
from streams.app import Worker, build_worker
from streams.broker import BrokerError
from streams.config import StreamSettings
from streams.norms import NormsReader
from streams.peers import Peers

log = logging.getLogger("latencyprism.analyze")

# After so long without a word from an engine its open incident is looked at by the clock.
SILENCE_SECONDS = 30.0
# So often the log says how each engine's judges are calibrated.
CALIBRATION_SECONDS = 600.0
# Between two attempts to hear what other engines say of themselves.
RETRY_SECONDS = 10.0

TOPICS = {
    topic.name: topic
    for topic in (ITERATIONS, HOSTS, PROCESSES, XPUS, ENGINES, NORMS, BATCHES, ALERTS)
}


def build(kafka: KafkaSettings, stream: StreamSettings) -> Worker:
    """Build the worker."""
    worker = build_worker("analyze", kafka, stream, TOPICS)
    app = worker.app
    table: Any = app.Table(
        "analyses",
        default=bytes,
        key_type=bytes,
        value_type=bytes,
        partitions=kafka.partitions,
    )
    analyses: dict[str, Analysis] = {}
    peers = Peers()
    heard_seconds: dict[str, float] = {}
    # Their incidents ended by silence, which the table does not know yet.
    unsaved: set[str] = set()

    def analysis_of(engine_id: str) -> Analysis:
        heard_seconds[engine_id] = time.monotonic()
        analysis = analyses.get(engine_id)
        if analysis is None:
            state = table.get(engine_id.encode())
            analysis = analyses[engine_id] = restore(engine_id, state, stream, peers)
        return analysis

    def checkpoint(analysis: Analysis) -> None:
        table[analysis.engine_id.encode()] = orjson.dumps(analysis.to_state())

    async def publish(analysis: Analysis, results: list[Result]) -> None:
        alerted = False
        for result in results:
            await worker.send(result)
            alerted = alerted or isinstance(result, Alert)
        # An incident that opened or closed must survive this worker; a baseline may lose a few
        # batches.
        if (
            alerted
            or analysis.engine_id in unsaved
            or (results and analysis.batches % stream.checkpoint_batches == 0)
        ):
            checkpoint(analysis)
            unsaved.discard(analysis.engine_id)

    @app.timer(SILENCE_SECONDS / 6, name="silence")
    async def end_silent_incidents() -> None:
        # With its agent gone nothing arrives that could end an engine's incident. Only then does
        # this clock count: while a backlog is read, the time is that of the messages.
        for engine_id, analysis in list(analyses.items()):
            if time.monotonic() - heard_seconds[engine_id] > SILENCE_SECONDS:
                for alert in analysis.tick(time.time_ns()):
                    unsaved.add(engine_id)
                    await worker.send(alert)

    @app.timer(CALIBRATION_SECONDS, name="calibration")
    async def tell_calibrations() -> None:
        for engine_id, analysis in list(analyses.items()):
            if time.monotonic() - heard_seconds[engine_id] < CALIBRATION_SECONDS:
                for line in calibration_lines(analysis):
                    log.info("%s", line)

    @app.task
    async def hear_peers() -> None:
        reader = NormsReader(kafka)
        while not app.should_stop:
            try:
                # In a thread, for it waits; what it gives is taken in here, between two batches.
                for norms in await asyncio.to_thread(reader.read):
                    peers.add(norms)
            except BrokerError as err:
                log.warning("Engines are not compared with their peers: %s", err)
                await asyncio.sleep(RETRY_SECONDS)

    @app.on_partitions_revoked.connect
    async def forget(*_: Any, **__: Any) -> None:
        # Another worker may have gone on with these engines by the time they come back: what
        # counts then is the table. It may lack the last few batches of a baseline, no incident.
        analyses.clear()

    async def take_iteration(event: Any) -> None:
        iteration = await worker.read(event, Iteration)
        if iteration is not None:
            analysis = analysis_of(iteration.engine_id)
            await publish(analysis, analysis.add_iteration(iteration))

    async def take_host(event: Any) -> None:
        reading = await worker.read(event, HostReading)
        if reading is not None:
            analysis = analysis_of(reading.engine_id)
            await publish(analysis, [*analysis.add_host(reading)])

    async def take_process(event: Any) -> None:
        reading = await worker.read(event, ProcessReading)
        if reading is not None:
            analysis = analysis_of(reading.engine_id)
            await publish(analysis, [*analysis.add_process(reading)])

    async def take_xpu(event: Any) -> None:
        reading = await worker.read(event, XpuReading)
        if reading is not None:
            analysis = analysis_of(reading.engine_id)
            await publish(analysis, [*analysis.add_xpu(reading)])

    async def take_engine(event: Any) -> None:
        engine = await worker.read(event, Engine)
        if engine is not None:
            analysis = analysis_of(engine.engine_id)
            await publish(analysis, [*analysis.add_engine(engine)])

    for topic, take in (
        (ITERATIONS, take_iteration),
        (HOSTS, take_host),
        (PROCESSES, take_process),
        (XPUS, take_xpu),
        (ENGINES, take_engine),
    ):
        worker.attach(topic, take)
    return worker


def calibration_lines(analysis: Analysis) -> list[str]:
    """Say how an engine's thresholds came about, one line for each judge."""
    return [
        f"{analysis.engine_id}: {kind} batches: threshold {found.threshold:.1f}, tail exponent "
        f"{found.exponent:.2f}, {found.expected_per_week:.2g} false incidents a week foreseen "
        f"where {found.budget_per_week:g} are allowed; {found.batches} batches learnt, "
        f"{analysis.outliers} lone outliers"
        for kind, found in analysis.calibrations().items()
    ]


def restore(
    engine_id: str, state: bytes | None, stream: StreamSettings, peers: Peers | None = None
) -> Analysis:
    """Go on with an engine where the checkpoint says; learn it anew where there is none."""
    if not state:
        return Analysis(engine_id, settings=stream, peers=peers)
    try:
        analysis = Analysis.from_state(engine_id, orjson.loads(state), settings=stream, peers=peers)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
        log.warning("%s: its checkpoint is not usable (%s); learning it anew.", engine_id, err)
        return Analysis(engine_id, settings=stream, peers=peers)
    log.info("%s: going on after %d batches.", engine_id, analysis.batches)
    return analysis
