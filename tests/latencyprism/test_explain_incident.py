"""An incident explained, from a recording and from a real ClickHouse engine in this process."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("river", reason="no river: pip install 'latencyprism[stream]'")

from latencyprism.explained.incident import lines_of
from latencyprism.recorded import Recorded
from latencyprism.times import shown
from latencyprism.told import Incidents, Told
from schemas.incidents import fold
from schemas.records import (
    Acknowledgement,
    Alert,
    Batch,
    Capture,
    CaptureLink,
    Member,
    Notification,
    Record,
    Silence,
)
from tests.latencyprism.explaining import (
    PLACES,
    explain,
    kept_in,
    lent_by,
    recorded,
    refused,
    results,
    stored_in,
)
from tests.schemas.samples import full
from tests.streams.feed import SECOND_NS

Output = pytest.CaptureFixture[str]
# The session's database has incidents of other tests, too.
ENGINE, NEIGHBOUR = "incident:1", "incident:2"
ALIKE = ("feed0001", "feed0002")


def said_about(alerts: list[Alert], neighbours: list[Alert]) -> list[Record]:
    """Give what was told, said and done about two incidents that are one to people."""
    first, other = alerts[0], neighbours[0]
    members = tuple(
        Member(
            engine_id=one.engine_id,
            incident_id=one.incident_id,
            revision=one.revision,
            state=one.state,
            begin_ns=one.begin_ns,
            ratio=one.evidence.ratio,
        )
        for one in (first, other)
    )
    notification = Notification(
        incident_id=first.incident_id,
        revision=0,
        state="firing",
        severity=first.severity,
        cause=first.cause,
        confidence=first.confidence,
        summary=first.summary,
        next_step=first.next_step,
        begin_ns=first.begin_ns,
        at_ns=first.at_ns,
        end_ns=None,
        alert=first,
    )
    capture = Capture(
        capture_id="capture-1",
        engine_id=ENGINE,
        at_ns=first.at_ns,
        state="requested",
        seconds=10.0,
        incident_id=first.incident_id,
    )
    return [
        notification,
        replace(
            notification,
            revision=1,
            members=members,
            shared="host:inference-7",
            silenced_by="night-shift",
            captures=(CaptureLink(capture_id="capture-2", engine_id=ENGINE),),
        ),
        Silence(
            silence_id="night-shift",
            at_ns=first.at_ns,
            begin_ns=first.at_ns,
            end_ns=first.at_ns + 3600 * SECOND_NS,
            matchers={"host": "inference-*"},
            reason="deployment",
            by="grace",
        ),
        Acknowledgement(incident_id=first.incident_id, at_ns=first.at_ns + SECOND_NS, by="ada"),
        # Somebody else's, and a capture for nobody.
        Acknowledgement(incident_id=ALIKE[0], at_ns=first.at_ns, by="linus"),
        replace(capture, capture_id="capture-3", incident_id=None, folder="/nobody's"),
        capture,
        replace(
            capture,
            state="done",
            at_ns=first.at_ns + 12 * SECOND_NS,
            host="inference-7",
            folder="/captures/capture-1",
        ),
        replace(capture, capture_id="capture-2", incident_id=None, state="failed", error="no room"),
    ]


JUDGED = [*results(ENGINE, 1), *results(NEIGHBOUR, 2)]
ALERTS = [one for one in JUDGED if isinstance(one, Alert) and one.engine_id == ENGINE]
NEIGHBOURS = [one for one in JUDGED if isinstance(one, Alert) and one.engine_id == NEIGHBOUR]
INCIDENT = fold(ALERTS)
ID = INCIDENT.incident_id
RECORDS: list[Record] = [
    *JUDGED,
    *said_about(ALERTS, NEIGHBOURS),
    *(replace(ALERTS[0], incident_id=one, engine_id="incident:3") for one in ALIKE),
]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return recorded(tmp_path / "stream.gz", RECORDS)


@pytest.fixture(scope="module")
def database(chdb: Any) -> Any:
    return stored_in(chdb, RECORDS)


@pytest.fixture(params=PLACES)
def incidents(request: pytest.FixtureRequest) -> Incidents:
    """The same incidents in each place where they are kept."""
    kept: Incidents = kept_in(request)
    return kept


def lines_with(told: Told, text: str) -> list[str]:
    return [line for line in lines_of(told) if text in line]


# Where it is kept.


def test_all_about_an_incident_is_found(incidents: Incidents) -> None:
    told = incidents.told(ID)
    assert told is not None
    assert [one.revision for one in told.alerts] == [one.revision for one in ALERTS]
    assert told.incident == INCIDENT
    assert [one.revision for one in told.words] == [0, 1]
    assert [one.incident_id for one in told.words[1].parts] == [ID, NEIGHBOURS[0].incident_id]
    assert [one.by for one in told.acknowledgements] == ["ada"]
    assert [one.silence_id for one in told.silences] == ["night-shift"]
    # Each capture as it was last, and none that somebody took for something else.
    captures = {one.capture_id: one.state for one in told.captures}
    assert captures == {"capture-1": "done", "capture-2": "failed"}
    assert told.unread == ()


def test_its_batches_are_added_up(incidents: Incidents) -> None:
    told = incidents.told(ID)
    assert told is not None
    assert told.sums is not None
    batches = [
        one
        for one in JUDGED
        if isinstance(one, Batch)
        and one.engine_id == ENGINE
        and INCIDENT.begin_ns <= one.begin_ns < (INCIDENT.end_ns or 0)
    ]
    assert told.sums.batches == len(batches) > 50
    assert told.sums.observed_ns == sum(one.duration_ns for one in batches)
    assert told.sums.lost_ns > 0.8 * sum(one.expected_ns or 0 for one in batches)


def test_a_member_is_told_as_a_part_of_the_whole(incidents: Incidents) -> None:
    told = incidents.told(NEIGHBOURS[0].incident_id)
    assert told is not None
    assert told.incident.engine_id == NEIGHBOUR
    assert lines_with(told, f"part of    {ID}")
    # Whoever takes care of the whole takes care of its parts.
    assert lines_with(told, "ada takes care of it")


def test_an_unknown_incident_is_none(incidents: Incidents) -> None:
    assert incidents.told("none such") is None
    assert incidents.ids("none such") == []


def test_ids_are_found_by_how_they_begin(incidents: Incidents) -> None:
    assert incidents.ids(ID[:6]) == [ID]
    assert incidents.ids("feed000") == [*ALIKE]


def test_the_newest_come_first(incidents: Incidents) -> None:
    newest = incidents.newest(5, ENGINE)
    assert newest == [INCIDENT]
    many = incidents.newest(3)
    assert len(many) == 3
    assert [one.begin_ns for one in many] == sorted((one.begin_ns for one in many), reverse=True)


def test_an_alert_that_only_a_notification_has_counts(tmp_path: Path) -> None:
    told = Recorded(recorded(tmp_path / "told", said_about(ALERTS, NEIGHBOURS))).told(ID)
    assert told is not None
    assert told.alerts == (ALERTS[0],)
    assert told.sums is None
    assert lines_with(told, "lost       unknown: its batches are not kept here")


@pytest.mark.pipeline
def test_a_database_of_before_is_read_as_far_as_it_goes(database: Any) -> None:
    from latencyprism.stored import Stored

    class Older:
        """Has no tables for what people are told, and none of the newer columns."""

        def query(self, query: str, **options: Any) -> Any:
            for table in ("notifications", "acknowledgements", "silences"):
                query = query.replace(f"FROM {table}", "FROM no_such_table")
            return database.query(query, **options)

    told = Stored(Older()).told(ID)
    assert told is not None
    assert told.incident == INCIDENT
    unread = lines_with(told, "run 'latencyprism migrate'")
    assert len(unread) == 3
    assert lines_with(told, "people     nothing is kept")


# What is said.


def test_a_sleepy_reader_is_told_all_best_first(recording: Path, capsys: Output) -> None:
    told = explain(capsys, "incident", ID, "--recording", recording)
    assert told.startswith(
        f"{ENGINE} was slow for 1.1 s: other processes take the host's CPUs (nearly sure, 0.9"
    )
    in_order = (
        "batches take",
        "do first   find the process with 'top'",
        f"began {shown(INCIDENT.begin_ns)}, ended {shown(INCIDENT.end_ns or 0)}",
        "ms is expected (",
        f"{INCIDENT.ratio:.2f} times as slow over",
        "where their work explains",
        "cause      host_cpu_contention: other processes take the host's CPUs; nearly sure (0.9",
        "why        others_cpu 10 % -> 80 %: pressure 0.78 of 1, and 0.10 is its gate",
        "times as long as its work explains",
        "workload   ",
        "phases     forward",
        "counters   others_cpu  10 % -> 80 %",
        "members    2 engines, which share host inference-7",
        f"{NEIGHBOUR}, ",
        "people     ada takes care of it, ",
        "silence night-shift keeps it from being delivered; deployment by grace, until ",
        "captures   /captures/capture-1 on inference-7 (10 s)",
        "capture-2 of incident:1 is failed: no room",
        "timeline   ",
        "firing    forward_slower",
        "updated   host_cpu_contention",
        "resolved  host_cpu_contention",
        'batches    latencyprism sql "SELECT ',
    )
    places = [told.find(text) for text in in_order]
    assert -1 not in places, in_order[places.index(-1)]
    assert places == sorted(places)


def test_an_incident_that_is_not_over_says_so(tmp_path: Path, capsys: Output) -> None:
    path = recorded(tmp_path / "open", [one for one in ALERTS if one.state != "resolved"])
    told = explain(capsys, "incident", ID, "--recording", path)
    assert told.startswith(f"{ENGINE} is slow, and it is not over: ")
    assert ", is not over" in told


# The query.


@pytest.mark.pipeline
def test_the_query_runs_as_it_is_printed(recording: Path, database: Any, capsys: Output) -> None:
    told = explain(capsys, "incident", ID, "--recording", recording)
    (line,) = [one for one in told.splitlines() if "latencyprism sql" in one]
    program, command, query = shlex.split(line.split(maxsplit=1)[1])
    assert (program, command) == ("latencyprism", "sql")
    found = database.query(query).result_rows
    assert {row[4] for row in found} >= {"slow", "normal"}


# For programs.


@pytest.mark.pipeline
def test_programs_get_all_of_it_as_one_object(
    recording: Path, database: Any, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = json.loads(explain(capsys, "incident", ID, "--json", "--recording", recording))
    assert plain["incident"]["incident_id"] == ID
    assert plain["judgement"]["cause"] == plain["incident"]["cause"] == "host_cpu_contention"
    assert [one["state"] for one in plain["alerts"]] == ["firing", "updated", "resolved"]
    assert plain["told"][1]["shared"] == "host:inference-7"
    assert plain["batches"]["lost_ns"] == (
        plain["batches"]["observed_ns"] - plain["batches"]["expected_ns"]
    )
    assert shlex.split(plain["command"])[2] == plain["sql"]
    lent_by(monkeypatch, database)
    from_database = json.loads(explain(capsys, "incident", ID, "--json"))
    # A map that ClickHouse adds up leaves out what is 0.
    for one in (plain, from_database):
        terms = one["batches"]["terms_ns"]
        one["batches"]["terms_ns"] = {name: value for name, value in terms.items() if value}
    assert from_database == plain
    text = explain(capsys, "incident", ID)
    assert text == explain(capsys, "incident", ID, "--recording", recording)


# Which one.


def test_an_id_may_be_shortened_as_long_as_it_is_the_only_one(
    recording: Path, capsys: Output
) -> None:
    assert explain(capsys, "incident", ID[:5], "--recording", recording).startswith(ENGINE)
    told = refused(capsys, "incident", "feed", "--recording", recording)
    assert f"'feed' begins the ids of several incidents: give more of one of {ALIKE[0]}" in told


def test_an_unknown_id_is_told_the_newest_incidents(recording: Path, capsys: Output) -> None:
    told = refused(capsys, "incident", "nonesuch", "--recording", recording)
    assert f"choose of the newest, {INCIDENT.incident_id} ({ENGINE}, host_cpu_contention, " in told
    assert "'latencyprism explain incidents' lists more" in told
    empty = recorded(recording.parent / "none", [full(Batch)])
    assert "there are none here yet" in refused(capsys, "incident", "x", "--recording", empty)


def test_incidents_are_listed(recording: Path, capsys: Output) -> None:
    told = explain(capsys, "incidents", ENGINE, "--recording", recording)
    assert told.split()[:2] == [ID, shown(INCIDENT.begin_ns)]
    assert told.count("\n") == 1
    every = explain(capsys, "incidents", "--recording", recording)
    assert len(every.splitlines()) == 4
    (plain,) = json.loads(
        explain(capsys, "incidents", "--most", 1, ENGINE, "--json", "--recording", recording)
    )
    assert plain["cause"] == "host_cpu_contention"
    assert "No incident of incident:9 is kept here." in explain(
        capsys, "incidents", "incident:9", "--recording", recording
    )
    assert "give a number above 0" in refused(
        capsys, "incidents", "--most", 0, "--recording", recording
    )
