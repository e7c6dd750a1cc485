"""Find one batch among those in ClickHouse."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson
from clickhouse_connect.driver.exceptions import ClickHouseError

from latencyprism.batches import NEAR_NS, Seen, Wanted
from latencyprism.errors import CommandError
from schemas.codec import DecodeError, from_raw
from schemas.incidents import Incident, fold
from schemas.records import Alert, Batch, Record, Workload
from streams.sinks.clickhouse import first_line

R = TypeVar("R", bound=Record)


class Stored:
    """The batches that `latencyprism stream store` wrote.

    Args:
        client: A client of ClickHouse; it stays the caller's.
    """

    keeps_samples = False

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, wanted: Wanted) -> Batch | None:
        """Give the batch."""
        where = ["engine_id = {engine:String}"]
        if wanted.last_ns is not None:
            newest = "SELECT max(end_ns) FROM batches WHERE engine_id = {engine:String}"
            where.append(f"begin_ns >= ({newest}) - {{last:Int64}}")
        # As `batches.Recorded` ranks them.
        order = "duration_ns / nullIf(expected_ns, 0) DESC NULLS LAST, duration_ns DESC"
        if wanted.sequence is not None:
            where.append("sequence = {sequence:Int64}")
            order = "process_start_ns DESC"
        elif wanted.at_ns is not None:
            where.append("begin_ns <= {at:Int64} + {near:Int64}")
            where.append("end_ns >= {at:Int64} - {near:Int64}")
            order = "greatest(begin_ns - {at:Int64}, {at:Int64} - end_ns, 0), begin_ns DESC"
        rows = self._rows(
            f"SELECT * FROM batches FINAL WHERE {' AND '.join(where)} ORDER BY {order} LIMIT 1",
            engine=wanted.engine_id,
            sequence=wanted.sequence or 0,
            at=wanted.at_ns or 0,
            near=NEAR_NS,
            last=wanted.last_ns or 0,
        )
        return batch_of(rows[0]) if rows else None

    def incident(self, incident_id: str) -> Incident | None:
        """Give an incident by its alerts."""
        rows = self._rows(
            "SELECT * FROM alerts FINAL WHERE incident_id = {incident:String}", incident=incident_id
        )
        return fold(alert_of(row) for row in rows) if rows else None

    def seen(self) -> dict[str, Seen]:
        """Give what there is by engine."""
        rows = self._rows(
            "SELECT engine_id, count() AS batches, min(sequence) AS first_sequence, "
            "max(sequence) AS last_sequence, min(b.begin_ns) AS begin_ns, max(b.end_ns) AS end_ns "
            "FROM batches AS b FINAL GROUP BY engine_id ORDER BY engine_id"
        )
        return {row.pop("engine_id"): Seen(**row) for row in rows}

    def _rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        try:
            found = self._client.query(query, parameters=parameters)
        except (ClickHouseError, OSError) as err:
            raise CommandError(
                f"ClickHouse cannot be asked: {first_line(err)}; check that 'latencyprism migrate' "
                "was run, or give a recording with --from"
            ) from err
        return [dict(zip(found.column_names, row, strict=True)) for row in found.result_rows]


def batch_of(row: dict[str, Any]) -> Batch:
    """Make a batch of its row again."""
    phases = zip(row["phase_names"], row["phase_durations_ns"], row["phase_estimated"], strict=True)
    return _record(
        Batch,
        row
        | {
            "workload": {name: row.get(name) for name in Workload.__dataclass_fields__},
            "phases": [
                {"phase": phase, "duration_ns": duration_ns, "samples": 0, "estimated": estimated}
                for phase, duration_ns, estimated in phases
            ],
            "reason": row["reason"] or None,
            "schema": "batch.v1",
        },
    )


def alert_of(row: dict[str, Any]) -> Alert:
    """Make an alert of its row again."""
    return _record(Alert, row | {"evidence": orjson.loads(row["evidence"]), "schema": "alert.v1"})


def _record(record_type: type[R], raw: dict[str, Any]) -> R:
    try:
        return from_raw(record_type, raw)
    except DecodeError as err:
        raise CommandError(
            f"a row in ClickHouse is {err}: was it written by another version? Upgrade this one"
        ) from err
