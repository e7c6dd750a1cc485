"""Rows to ClickHouse: a server over HTTP or, for one machine, the engine in this process (chDB).

Inserts are columnar, one per table and call. A row that does not fit is found by halving and
given back; an unreachable or unwilling server is `SinkUnavailable`, and nothing is lost.
"""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import clickhouse_connect
import msgspec
import orjson
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError

from schemas.records import (
    Acknowledgement,
    Alert,
    Batch,
    Capture,
    DeadLetter,
    Engine,
    Fault,
    HostReading,
    NormCell,
    Norms,
    Notification,
    ProcessReading,
    Record,
    Silence,
    Workload,
    XpuReading,
)
from schemas.tables import migrations
from streams.sinks.base import Rejected, Sink, SinkUnavailable

log = logging.getLogger("latencyprism.clickhouse")

TABLES: dict[type[Any], str] = {
    Batch: "batches",
    ProcessReading: "processes",
    XpuReading: "xpus",
    HostReading: "hosts",
    Engine: "engines",
    Alert: "alerts",
    Notification: "notifications",
    Silence: "silences",
    Acknowledgement: "acknowledgements",
    Capture: "captures",
    Fault: "faults",
    Norms: "norms",
    DeadLetter: "deadletters",
}

# Server errors that one bad row can cause (ClickHouse's ErrorCodes): CANNOT_PARSE_*,
# TYPE_MISMATCH, CANNOT_CONVERT_TYPE, ARGUMENT_OUT_OF_BOUND, CANNOT_INSERT_NULL and kin.
ROW_ERRORS = frozenset({6, 26, 27, 38, 41, 43, 53, 69, 70, 72, 131, 349, 407})


def _fields(record: Record) -> dict[str, Any]:
    names = [name for name in type(record).__dataclass_fields__ if name != "schema"]
    values = {name: getattr(record, name) for name in names}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _batch_row(batch: Batch) -> dict[str, Any]:
    row = _fields(batch)
    workload: Workload = row.pop("workload")
    phases = batch.phases
    del row["phases"]
    for name in type(workload).__dataclass_fields__:
        row[name] = getattr(workload, name)
    row["phase_names"] = [time.phase for time in phases]
    row["phase_durations_ns"] = [time.duration_ns for time in phases]
    row["phase_estimated"] = [time.estimated for time in phases]
    row["reason"] = batch.reason or ""
    return row


def _alert_row(alert: Alert) -> dict[str, Any]:
    row = _fields(alert)
    row["evidence"] = orjson.dumps(alert.evidence).decode()
    return row


def _notification_row(told: Notification) -> dict[str, Any]:
    row = _fields(told)
    # The alert has a row of its own, found by what the leading member says.
    row["alert_incident_id"], row["alert_revision"] = told.alert.incident_id, told.alert.revision
    del row["alert"]
    members, captures = row.pop("members"), row.pop("captures")
    row["member_engine_ids"] = [one.engine_id for one in members]
    row["member_incident_ids"] = [one.incident_id for one in members]
    row["member_ratios"] = [one.ratio for one in members]
    row["capture_ids"] = [one.capture_id for one in captures]
    return row


def _process_row(reading: ProcessReading) -> dict[str, Any]:
    return _fields(reading) | {"device_ids": list(reading.device_ids or ())}


def _xpu_row(reading: XpuReading) -> dict[str, Any]:
    row = _fields(reading)
    processes = row.pop("processes") or []
    row["process_pids"] = [process.pid for process in processes]
    row["process_memory_used_bytes"] = [process.memory_used_bytes for process in processes]
    row["process_utilization_ratios"] = [process.utilization_ratio for process in processes]
    # No array is NULL in ClickHouse; `missing` tells unknown from none.
    row["throttle_reasons"] = row["throttle_reasons"] or []
    return row


def _norms_row(norms: Norms) -> dict[str, Any]:
    row = _fields(norms)
    cells = row.pop("cells")
    for name in NormCell.__dataclass_fields__:
        row[f"cell_{name}"] = [getattr(cell, name) for cell in cells]
    return row


ROWS: dict[type[Any], Callable[[Any], dict[str, Any]]] = {
    Batch: _batch_row,
    Alert: _alert_row,
    Notification: _notification_row,
    ProcessReading: _process_row,
    XpuReading: _xpu_row,
    Norms: _norms_row,
}


def row_of(record: Record) -> dict[str, Any]:
    """Flatten a record into the columns of its table."""
    make = ROWS.get(type(record))
    return _fields(record) if make is None else make(record)


class ClickHouseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[store]``.

    Attributes:
        dsn: ``clickhouse://user@host:8123/database`` for a server (https:// for TLS; the
            password comes from LATENCYPRISM_CLICKHOUSE_PASSWORD), ``chdb:///folder`` for the
            engine in this process.

        flush_seconds: Rows wait for company at most so long.

        flush_rows: Or until there are so many.

        timeout_seconds: How long one insert may take.
    """

    dsn: str = "clickhouse://default@127.0.0.1:8123/default"
    flush_seconds: float = 0.5
    flush_rows: int = 5000
    timeout_seconds: float = 30.0


def connect(settings: ClickHouseSettings, password: str = "") -> Any:
    """Open a client.

    Raises:
        SinkUnavailable: The server does not answer or refuses the login; for chDB, another
            process has the folder open.
    """
    try:
        if settings.dsn.startswith("chdb:"):
            return clickhouse_connect.get_client(dsn=settings.dsn)
        return clickhouse_connect.get_client(
            dsn=settings.dsn,
            password=password,
            connect_timeout=5,
            send_receive_timeout=settings.timeout_seconds,
        )
    except (ClickHouseError, OSError, RuntimeError) as err:
        raise SinkUnavailable(
            f"ClickHouse at {_without_password(settings.dsn)} does not open: {first_line(err)}; "
            "check [store] dsn and that the server runs (chDB: one process at a time)"
        ) from err


def migrate(client: Any) -> list[str]:
    """Create or update the tables; give the names of the migrations that were applied now."""
    client.command(
        "CREATE TABLE IF NOT EXISTS migrations (number UInt32, name String, "
        "applied DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY number"
    )
    done = {row[0] for row in client.query("SELECT number FROM migrations FINAL").result_rows}
    known = migrations()
    newer = done - {migration.number for migration in known}
    if newer:
        log.warning(
            "The database has migrations %s that this version does not know: upgrade this worker.",
            sorted(newer),
        )
    applied: list[str] = []
    for migration in known:
        if migration.number in done:
            continue
        for statement in migration.statements:
            client.command(statement)
        client.insert(
            "migrations", [[migration.number, migration.name]], column_names=["number", "name"]
        )
        applied.append(migration.name)
    return applied


class ClickHouse(Sink):
    """Insert records into the table of their type.

    Args:
        open_client: Makes a client; called again after the connection broke.

        create_tables: Whether to apply migrations at the first connection.
    """

    def __init__(self, open_client: Callable[[], Any], *, create_tables: bool = True) -> None:
        self._open_client = open_client
        self._create_tables = create_tables
        self._client: Any = None
        self.rows_written: dict[str, int] = {}

    def write(self, records: Sequence[Record]) -> list[Rejected]:
        """Insert all records, one insert per table; none at all still creates the tables."""
        self._ready_client()
        by_table: dict[str, list[Record]] = {}
        for record in records:
            by_table.setdefault(TABLES[type(record)], []).append(record)
        rejected: list[Rejected] = []
        for table, group in by_table.items():
            rejected += self._insert(table, group)
        return rejected

    def close(self) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ready_client(self) -> Any:
        if self._client is None:
            client = self._open_client()
            if self._create_tables:
                try:
                    applied = migrate(client)
                except (ClickHouseError, OSError) as err:
                    client.close()
                    raise SinkUnavailable(
                        f"the tables cannot be created: {first_line(err)}; run "
                        "'latencyprism migrate' with a user that may"
                    ) from err
                if applied:
                    log.info("Applied migrations %s.", ", ".join(applied))
            self._client = client
        return self._client

    def _insert(self, table: str, records: list[Record]) -> list[Rejected]:
        rows = [row_of(record) for record in records]
        names = list(rows[0])
        columns = [[row[name] for row in rows] for name in names]
        try:
            self._ready_client().insert(table, columns, column_names=names, column_oriented=True)
        except (ClickHouseError, OSError, ValueError, TypeError, AttributeError) as err:
            if not _is_row_error(err):
                self.close()
                raise SinkUnavailable(
                    f"ClickHouse did not take {len(records)} rows for {table}: {first_line(err)}"
                ) from err
            if len(records) == 1:
                return [Rejected(records[0], first_line(err))]
            middle = len(records) // 2
            return self._insert(table, records[:middle]) + self._insert(table, records[middle:])
        self.rows_written[table] = self.rows_written.get(table, 0) + len(records)
        return []


def _is_row_error(err: Exception) -> bool:
    if isinstance(err, DataError | ValueError | TypeError | AttributeError):
        return True
    code = re.search(r"Code: (\d+)", str(err))
    return code is not None and int(code[1]) in ROW_ERRORS


def first_line(err: Exception) -> str:
    """Give the first line of an error, for a log line."""
    return (str(err).splitlines() or [type(err).__name__])[0][:400]


def _without_password(dsn: str) -> str:
    return re.sub(r"//([^:@/]*):[^@/]*@", r"//\1:***@", dsn)
