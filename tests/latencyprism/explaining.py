"""What is explained in the tests of it, and the command that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latencyprism.__main__ import main
from latencyprism.recorded import Recorded
from schemas.recording import RecordingWriter
from schemas.records import Record
from streams.offline import Offline
from tests.streams.feed import Feed

Capture = pytest.CaptureFixture[str]


def results(engine_id: str, seed: int) -> list[Record]:
    """Give what an analysis says of an engine that is slow for a while."""
    feed, offline = Feed(seed=seed, engine_id=engine_id), Offline()
    records: list[Record] = [
        feed.engine(),
        *feed.batches(400),
        *feed.batches(100, factor=2.0, others=0.8),
        *feed.batches(400),
    ]
    return [*records, *(result for record in records for result in offline.feed(record))]


def recorded(path: Path, records: list[Record]) -> Path:
    with RecordingWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


def explain(capsys: Capture, *arguments: object) -> str:
    """Give what 'latencyprism explain' prints."""
    assert main(["explain", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: Capture, *arguments: object) -> str:
    """Give the one line in which it says what is wrong."""
    assert main(["explain", *map(str, arguments)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def lent_by(monkeypatch: pytest.MonkeyPatch, database: Any) -> None:
    """Let the command ask the session's database, which stays open."""
    from streams.sinks import clickhouse

    class Lent:
        query = database.query

        def close(self) -> None:
            pass

    monkeypatch.setattr(clickhouse, "connect", lambda *_: Lent())


def stored_in(chdb: Any, records: list[Record]) -> Any:
    """Write what has a table into the session's database; give it."""
    from streams.sinks.clickhouse import TABLES, ClickHouse

    assert ClickHouse(lambda: chdb).write([one for one in records if type(one) in TABLES]) == []
    return chdb


PLACES = ["recording", pytest.param("database", marks=pytest.mark.pipeline)]


def kept_in(request: pytest.FixtureRequest) -> Any:
    """Give what can be asked of the place that a fixture of one of `PLACES` names."""
    if request.param == "recording":
        return Recorded(request.getfixturevalue("recording"))
    from latencyprism.stored import Stored

    return Stored(request.getfixturevalue("database"))
