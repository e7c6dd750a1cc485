"""Find batches, incidents and what they add up to in ClickHouse."""

from __future__ import annotations

import re
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from latencyprism.batches import NEAR_NS, Seen, Wanted
from latencyprism.errors import CommandError
from latencyprism.rows import (
    Row,
    acknowledgement_of,
    alert_of,
    batch_of,
    capture_of,
    silence_of,
    word_of_row,
)
from latencyprism.spans import OPEN_NS, WORST, Asked, Span, Sums, overlapping
from latencyprism.told import Told, ids_of, last_states, newest_of, silence_ids
from schemas.incidents import Incident, fold
from schemas.records import Alert, Batch
from streams.sinks.clickhouse import first_line

IDS_GIVEN = 100
# Of ClickHouse's ErrorCodes: UNKNOWN_IDENTIFIER and UNKNOWN_TABLE.
UNKNOWN = frozenset({"47", "60"})
# The batches before the span are in place -1, those in no incident in place 0.
SUMS = """\
SELECT
    if(begin_ns < {begin:Int64}, -1, arrayFirstIndex(
        (one, end) -> begin_ns >= one AND begin_ns < end,
        {begins:Array(Int64)}, {ends:Array(Int64)}
    )) AS place,
    sum(greatest(iterations, 1)) AS number,
    sumIf(greatest(iterations, 1), expected_ns IS NOT NULL) AS judged,
    sum(missed) AS untimed,
    sumIf(duration_ns * greatest(iterations, 1), expected_ns IS NOT NULL) AS observed,
    sum(ifNull(expected_ns, 0) * greatest(iterations, 1)) AS expected,
    sumIf(
        greatest(ifNull(gap_ns, 0) - ifNull(expected_gap_ns, 0), 0), has(slow_parts, 'gap')
    ) AS gaps,
    sumMap(map(verdict, toInt64(greatest(iterations, 1)))) AS verdicts,
    sumMapIf(
        mapApply((name, value) -> (name, value * greatest(iterations, 1)), terms_ns),
        expected_ns IS NOT NULL
    ) AS terms
FROM batches FINAL
WHERE engine_id = {engine:String} AND begin_ns >= {before:Int64} AND begin_ns < {end:Int64}
GROUP BY place
"""


class Stored:
    """What `latencyprism stream store` wrote.

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
        # As `recorded.Recorded` ranks them.
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
        found = self._incidents([incident_id])
        return found[0] if found else None

    def seen(self) -> dict[str, Seen]:
        """Give what there is by engine."""
        rows = self._rows(
            "SELECT engine_id, count() AS batches, min(sequence) AS first_sequence, "
            "max(sequence) AS last_sequence, min(b.begin_ns) AS begin_ns, max(b.end_ns) AS end_ns "
            "FROM batches AS b FINAL GROUP BY engine_id ORDER BY engine_id"
        )
        return {row.pop("engine_id"): Seen(**row) for row in rows}

    def ids(self, prefix: str) -> list[str]:
        """Give the ids of incidents that begin so."""
        rows = self._rows(
            "SELECT DISTINCT incident_id FROM alerts WHERE startsWith(incident_id, {prefix:String})"
            f" ORDER BY incident_id LIMIT {IDS_GIVEN}",
            prefix=prefix,
        )
        return [row["incident_id"] for row in rows]

    def newest(self, most: int, engine_id: str | None = None) -> list[Incident]:
        """Give the incidents that began last, newest first."""
        rows = self._rows(
            "SELECT incident_id FROM alerts WHERE {engine:String} IN ('', engine_id) "
            f"GROUP BY incident_id ORDER BY min(begin_ns) DESC LIMIT {int(most)}",
            engine=engine_id or "",
        )
        found = self._incidents([row["incident_id"] for row in rows])
        return sorted(found, key=lambda one: -one.begin_ns)

    def told(self, incident_id: str) -> Told | None:
        """Give all about an incident."""
        alerts = sorted(self._alerts([incident_id]), key=lambda one: one.revision)
        if not alerts:
            return None
        beside = _Beside(self)
        words = [
            word_of_row(row)
            for row in beside.rows(
                "notifications",
                "{incident:String} = incident_id OR has(member_incident_ids, {incident:String}) "
                "ORDER BY at_ns, revision",
                incident=incident_id,
            )
        ]
        ids = sorted(ids_of(words, incident_id))
        linked = sorted({one for word in words for one in word.capture_ids})
        captures = beside.rows(
            "captures",
            "incident_id IN {ids:Array(String)} OR capture_id IN {linked:Array(String)} "
            "ORDER BY at_ns",
            ids=ids,
            linked=linked,
        )
        acknowledgements = beside.rows(
            "acknowledgements", "incident_id IN {ids:Array(String)} ORDER BY at_ns", ids=ids
        )
        silences = beside.rows(
            "silences",
            "silence_id IN {silences:Array(String)}",
            silences=sorted(silence_ids(words)),
        )
        incident = fold(alerts)
        asked = Asked(
            engine_id=incident.engine_id, begin_ns=incident.begin_ns, end_ns=incident.end_ns
        )
        span = self.span(asked)
        return Told(
            alerts=tuple(alerts),
            words=tuple(words),
            acknowledgements=tuple(acknowledgement_of(row) for row in acknowledgements),
            silences=newest_of(silence_of(row) for row in silences),
            captures=last_states(capture_of(row) for row in captures),
            sums=span.whole if span is not None else None,
            unread=tuple(beside.unread),
        )

    def span(self, asked: Asked) -> Span | None:
        """Add up a time of an engine."""
        newest = self._rows(
            "SELECT max(end_ns) AS newest FROM batches WHERE engine_id = {engine:String}",
            engine=asked.engine_id,
        )
        begin_ns, end_ns = asked.bounds_ns(newest[0]["newest"])
        incidents = overlapping(self._around(asked.engine_id, begin_ns, end_ns), begin_ns, end_ns)
        rows = self._rows(
            SUMS,
            engine=asked.engine_id,
            before=2 * begin_ns - end_ns,
            begin=begin_ns,
            end=end_ns,
            begins=[one.begin_ns for one in incidents],
            ends=[one.end_ns or OPEN_NS for one in incidents],
        )
        by_place = {int(row["place"]): _sums(row) for row in rows}
        if not by_place.keys() - {-1}:
            return None
        return Span(
            engine_id=asked.engine_id,
            begin_ns=begin_ns,
            end_ns=end_ns,
            incidents=incidents,
            during=tuple(by_place.get(place + 1, Sums()) for place in range(len(incidents))),
            outside=by_place.get(0, Sums()),
            before=by_place.get(-1, Sums()),
            worst=self._worst(asked.engine_id, begin_ns, end_ns),
        )

    def _worst(self, engine_id: str, begin_ns: int, end_ns: int) -> tuple[Batch, ...]:
        rows = self._rows(
            "SELECT * FROM batches FINAL WHERE engine_id = {engine:String} "
            "AND begin_ns >= {begin:Int64} AND begin_ns < {end:Int64} AND expected_ns IS NOT NULL "
            f"ORDER BY duration_ns - expected_ns DESC LIMIT {WORST}",
            engine=engine_id,
            begin=begin_ns,
            end=end_ns,
        )
        return tuple(batch_of(row) for row in rows)

    def _around(self, engine_id: str, begin_ns: int, end_ns: int) -> list[Incident]:
        """Give the incidents of an engine that may overlap a time."""
        rows = self._rows(
            "SELECT incident_id FROM alerts FINAL WHERE engine_id = {engine:String} "
            "GROUP BY incident_id HAVING min(alerts.begin_ns) < {end:Int64} "
            "AND (countIf(state = 'resolved') = 0 OR max(alerts.end_ns) > {begin:Int64})",
            engine=engine_id,
            begin=begin_ns,
            end=end_ns,
        )
        return self._incidents([row["incident_id"] for row in rows])

    def _alerts(self, incident_ids: list[str]) -> list[Alert]:
        rows = self._rows(
            "SELECT * FROM alerts FINAL WHERE incident_id IN {ids:Array(String)}", ids=incident_ids
        )
        return [alert_of(row) for row in rows]

    def _incidents(self, incident_ids: list[str]) -> list[Incident]:
        by_id: dict[str, list[Alert]] = {}
        for alert in self._alerts(incident_ids):
            by_id.setdefault(alert.incident_id, []).append(alert)
        return [fold(alerts) for alerts in by_id.values()]

    def _rows(self, query: str, **parameters: Any) -> list[Row]:
        try:
            return self.rows(query, parameters)
        except (ClickHouseError, OSError) as err:
            raise CommandError(
                f"ClickHouse cannot be asked: {first_line(err)}; check that 'latencyprism migrate' "
                "was run, or give a recording with --recording"
            ) from err

    def rows(self, query: str, parameters: dict[str, Any]) -> list[Row]:
        """Ask, and give the answer as it is, errors included."""
        found = self._client.query(query, parameters=parameters)
        return [dict(zip(found.column_names, row, strict=True)) for row in found.result_rows]


class _Beside:
    """Tables that an explanation can do without."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self.unread: list[str] = []

    def rows(self, table: str, where: str, **parameters: Any) -> list[Row]:
        """Give rows; where the database has no such table or column, note that."""
        try:
            return self._stored.rows(f"SELECT * FROM {table} FINAL WHERE {where}", parameters)
        except (ClickHouseError, OSError) as err:
            code = re.search(r"Code: (\d+)", str(err))
            if code is None or code[1] not in UNKNOWN:
                raise CommandError(f"ClickHouse cannot be asked: {first_line(err)}") from err
            self.unread.append(
                f"{table}: the database has none, or an older form: run 'latencyprism migrate'"
            )
            return []


def _sums(row: Row) -> Sums:
    return Sums(
        batches=int(row["number"]),
        judged=int(row["judged"]),
        missed=int(row["untimed"]),
        observed_ns=int(row["observed"]),
        expected_ns=int(row["expected"]),
        gaps_ns=int(row["gaps"]),
        verdicts={name: int(count) for name, count in row["verdicts"].items()},
        terms_ns={name: int(value) for name, value in row["terms"].items()},
    )
