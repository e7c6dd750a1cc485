from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from schemas.records import Alert, Batch, Engine, Fault, Iteration, Record, Workload
from schemas.tables import migrations, split_statements
from schemas.topics import key_of, topic_of
from streams.sinks.clickhouse import TABLES, ClickHouse, migrate, row_of
from tests.schemas.samples import MOMENT_NS, RECORD_TYPES, full, minimal

pytestmark = pytest.mark.pipeline

STORED = [record_type for record_type in RECORD_TYPES if record_type is not Iteration]
# Records that people query through a view; the others are read from their tables.
VIEWS = {"batches": "batches_view"}

stored = pytest.mark.parametrize("record_type", STORED)


@pytest.fixture
def sink(chdb: Any) -> Iterator[ClickHouse]:
    # It logs a traceback for each row that does not fit.
    log = logging.getLogger("clickhouse_connect")
    before, log.level = log.level, logging.CRITICAL
    yield ClickHouse(lambda: chdb)
    log.level = before


def own(record: Any, name: str) -> Any:
    """Give the record a key that no other test uses."""
    return replace(record, **{topic_of(record).key: name})


def rows_of(chdb: Any, record: Record) -> list[dict[str, Any]]:
    """Read back what is stored under the record's key, in the record's columns."""
    table = TABLES[type(record)]
    source = VIEWS.get(table, f"{table} FINAL")
    names = list(row_of(record))
    found = chdb.query(
        f"SELECT {', '.join(names)} FROM {source} WHERE {topic_of(record).key} = {{key:String}}",
        parameters={"key": key_of(record).decode()},
    )
    return [dict(zip(names, row, strict=True)) for row in found.result_rows]


def test_every_record_but_the_raw_iteration_has_a_table() -> None:
    assert set(TABLES) == set(STORED)


@stored
def test_the_columns_are_the_fields_of_the_record(chdb: Any, record_type: type[Any]) -> None:
    found = chdb.query(f"DESCRIBE TABLE {TABLES[record_type]}").result_rows
    assert {row[0] for row in found} == set(row_of(full(record_type)))


@stored
@pytest.mark.parametrize("make", [full, minimal])
def test_a_record_is_read_back_as_it_was_written(
    chdb: Any, sink: ClickHouse, record_type: type[Any], make: Any
) -> None:
    record = own(make(record_type), f"back-{make.__name__}")
    assert sink.write([record]) == []
    assert rows_of(chdb, record) == [row_of(record)]


@stored
def test_a_record_written_twice_is_one_row(
    chdb: Any, sink: ClickHouse, record_type: type[Any]
) -> None:
    record = own(full(record_type), "twice")
    sink.write([record])
    sink.write([record, record])
    assert rows_of(chdb, record) == [row_of(record)]


def test_an_amended_batch_replaces_its_row_whatever_comes_last(chdb: Any, sink: ClickHouse) -> None:
    first: Batch = own(replace(full(Batch), revision=0), "amended")
    amended = replace(first, revision=1, ranks=2)
    sink.write([amended])
    sink.write([first])
    assert [row["ranks"] for row in rows_of(chdb, first)] == [2]


@pytest.mark.parametrize(
    "bad",
    [
        {"begin_ns": 2**63},
        {"ranks": 70_000},
        {"ranks": -1},
        {"workload": Workload(requests=-5)},
        {"residual": 1e300},
        {"terms_ns": {"weights": 2**64}},
        {"reason": "\ud800"},
        {"counters": {"others_cpu_ratio": None}},
    ],
    ids=str,
)
def test_a_row_that_does_not_fit_is_rejected_alone(
    chdb: Any, sink: ClickHouse, bad: dict[str, Any]
) -> None:
    name = f"bad {sorted(bad)} {id(bad)}"
    good: list[Record] = [own(replace(full(Batch), sequence=n), name) for n in range(1000)]
    stranger: Batch = own(replace(full(Batch), sequence=5000, **bad), name)
    rejected = sink.write([*good[:700], stranger, *good[700:]])
    assert [one.record for one in rejected] == [stranger]
    assert rejected[0].error
    assert sorted(row["sequence"] for row in rows_of(chdb, good[0])) == list(range(1000))


def test_the_tables_exist_before_the_first_row(chdb: Any) -> None:
    opened: list[Any] = []

    def open_client() -> Any:
        opened.append(chdb)
        return chdb

    assert ClickHouse(open_client).write([]) == []
    assert opened == [chdb]


def test_migrating_again_changes_nothing(chdb: Any) -> None:
    assert migrate(chdb) == []


def test_the_view_of_incidents_shows_their_newest_state(chdb: Any, sink: ClickHouse) -> None:
    firing: Alert = replace(
        full(Alert), incident_id="seen", revision=0, state="firing", end_ns=None, cause="unknown"
    )
    named = replace(firing, revision=1, state="updated", cause="memory_pressure", summary="why")
    resolved = replace(named, revision=2, state="resolved", end_ns=firing.begin_ns + 5, summary="")
    sink.write([resolved, firing, named, firing])
    found = chdb.query(
        "SELECT state, cause, summary, messages, isNull(end_time) FROM incidents_view "
        "WHERE incident_id = 'seen'"
    )
    assert found.result_rows == [("resolved", "memory_pressure", "why", 3, 0)]


def test_the_view_of_engines_shows_the_newest_record(chdb: Any, sink: ClickHouse) -> None:
    running: Engine = own(replace(full(Engine), state="running", at_ns=10), "seen")
    sink.write([replace(running, state="gone", at_ns=20), running])
    found = chdb.query("SELECT state, framework FROM engines_view WHERE engine_id = 'seen'")
    assert found.result_rows == [("gone", running.framework)]


def test_the_view_of_batches_speaks_of_times_and_ratios(chdb: Any, sink: ClickHouse) -> None:
    batch: Batch = own(replace(full(Batch), duration_ns=30_000_000, expected_ns=20_000_000), "view")
    sink.write([batch])
    found = chdb.query(
        "SELECT duration_ms, expected_ms, slowdown, toString(begin_time) FROM batches_view "
        "WHERE engine_id = 'view'"
    )
    assert found.result_rows == [(30.0, 20.0, 1.5, "2026-09-21 14:13:20.000000000")]


def test_the_view_of_faults_shows_the_whole_truth_in_one_row(chdb: Any, sink: ClickHouse) -> None:
    ended: Fault = replace(
        full(Fault), fault_id="seen", state="ended", intermittent=True, true_ratio=1.25, error="why"
    )
    begun = replace(ended, state="begun", end_ns=None, true_ratio=None, error=None)
    for records in ([begun], [ended]):
        sink.write([*records])
    found = chdb.query(
        "SELECT name, ended, intermittent, true_ratio, error, isNull(end_time) FROM faults_view "
        "WHERE fault_id = 'seen'"
    )
    assert found.result_rows == [(ended.name, 1, True, 1.25, "why", 0)]


def test_the_view_of_engines_shows_what_the_newest_record_knows(
    chdb: Any, sink: ClickHouse
) -> None:
    stuck: Engine = replace(
        own(full(Engine), "stuck"), running_requests=3, last_iteration_end_ns=MOMENT_NS
    )
    gone = replace(stuck, at_ns=stuck.at_ns + 1, running_requests=None, still_since_ns=None)
    sink.write([stuck, gone])
    found = chdb.query(
        "SELECT command_digest, running_requests, isNull(still_since_time), "
        "toString(last_iteration_time) FROM engines_view WHERE engine_id = 'stuck'"
    )
    assert found.result_rows == [
        (stuck.command_digest, None, 1, "2026-09-21 14:13:20.000000000"),
    ]


def test_migrations_are_numbered_without_gaps() -> None:
    numbers = [migration.number for migration in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_statements_end_with_a_semicolon_at_the_end_of_a_line() -> None:
    text = "-- a; comment;\nSELECT ';',\n 1;\n\n-- more\nSELECT 2;\n"
    assert split_statements(text) == ("SELECT ';',\n 1", "SELECT 2")
