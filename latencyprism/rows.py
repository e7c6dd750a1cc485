"""Make records of rows in ClickHouse again; what an older table lacks is unknown."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson

from latencyprism.errors import CommandError
from latencyprism.told import Part, Word
from schemas.codec import DecodeError, from_raw
from schemas.records import (
    Acknowledgement,
    Alert,
    Batch,
    Capture,
    Record,
    Silence,
    Workload,
)

R = TypeVar("R", bound=Record)
Row = dict[str, Any]


def batch_of(row: Row) -> Batch:
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


def alert_of(row: Row) -> Alert:
    """Make an alert of its row again."""
    return _record(Alert, row | {"evidence": orjson.loads(row["evidence"]), "schema": "alert.v1"})


def silence_of(row: Row) -> Silence:
    """Make a silence of its row again."""
    return _record(Silence, row | {"schema": "silence.v1"})


def acknowledgement_of(row: Row) -> Acknowledgement:
    """Make an acknowledgement of its row again."""
    return _record(Acknowledgement, row | {"schema": "acknowledgement.v1"})


def capture_of(row: Row) -> Capture:
    """Make a capture of its row again."""
    return _record(Capture, row | {"schema": "capture.v1"})


def word_of_row(row: Row) -> Word:
    """Make of the row of a notification what people were told."""
    members = zip(
        row["member_engine_ids"], row["member_incident_ids"], row["member_ratios"], strict=True
    )
    return Word(
        incident_id=row["incident_id"],
        revision=row["revision"],
        state=row["state"],
        at_ns=row["at_ns"],
        parts=tuple(
            Part(engine_id=engine_id, incident_id=incident_id, ratio=ratio)
            for engine_id, incident_id, ratio in members
        ),
        shared=row["shared"],
        acknowledged_by=row["acknowledged_by"],
        silenced_by=row["silenced_by"],
        flapping=row["flapping"],
        capture_ids=tuple(row["capture_ids"]),
    )


def _record(record_type: type[R], raw: Row) -> R:
    try:
        return from_raw(record_type, raw)
    except DecodeError as err:
        raise CommandError(
            f"a row in ClickHouse is {err}: was it written by another version? Upgrade this one"
        ) from err
