"""Where an engine's time went, from a recording and from a real ClickHouse in this process."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("river", reason="no river: pip install 'latencyprism[stream]'")

from latencyprism.explained.span import lines_of
from latencyprism.recorded import Recorded
from latencyprism.spans import Asked, Spans, Sums
from latencyprism.times import shown
from schemas.incidents import fold
from schemas.records import Alert, Batch, Record
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
# The session's database has batches of other tests, too.
ENGINE, AMENDED = "range:1", "range:2"
JUDGED = results(ENGINE, 3)
BATCHES = [one for one in JUDGED if isinstance(one, Batch)]
INCIDENT = fold(one for one in JUDGED if isinstance(one, Alert))
FIRST_NS, NEWEST_NS = BATCHES[0].begin_ns, max(one.end_ns for one in BATCHES)


def amended() -> list[Batch]:
    """Give batches one of which was amended, one written twice, and one that stands for many."""
    one: Batch = replace(
        full(Batch),
        engine_id=AMENDED,
        process_start_ns=1,
        sequence=1,
        revision=0,
        begin_ns=FIRST_NS,
        end_ns=FIRST_NS + 10,
        duration_ns=10,
        expected_ns=8,
        iterations=1,
        missed=0,
        verdict="normal",
        terms_ns={"kv": 5, "weights": 2},
        slow_parts=(),
    )
    return [
        one,
        replace(one, revision=1, duration_ns=30, verdict="slow"),
        replace(one, sequence=2, begin_ns=FIRST_NS + 10),
        replace(one, sequence=2, begin_ns=FIRST_NS + 10),
        replace(one, sequence=3, begin_ns=FIRST_NS + 20, iterations=10, missed=4),
        replace(
            one,
            sequence=4,
            begin_ns=FIRST_NS + 30,
            expected_ns=None,
            terms_ns={},
            verdict="unknown",
        ),
        replace(
            one,
            sequence=5,
            begin_ns=FIRST_NS + 40,
            gap_ns=50,
            expected_gap_ns=20,
            slow_parts=("gap",),
        ),
    ]


RECORDS: list[Record] = [*JUDGED, *amended()]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return recorded(tmp_path / "stream.gz", RECORDS)


@pytest.fixture(scope="module")
def database(chdb: Any) -> Any:
    return stored_in(chdb, [one for one in RECORDS if isinstance(one, Batch | Alert)])


@pytest.fixture(params=PLACES)
def spans(request: pytest.FixtureRequest) -> Spans:
    """The same batches in each place where they are kept."""
    kept: Spans = kept_in(request)
    return kept


def between(begin_ns: int, end_ns: int) -> list[Batch]:
    return [one for one in BATCHES if begin_ns <= one.begin_ns < end_ns]


def sums_of(batches: list[Batch]) -> Sums:
    sums = Sums()
    for one in batches:
        sums.add(one)
    return sums


def without_zeros(sums: Sums) -> Sums:
    """Give sums as ClickHouse adds maps up."""
    terms = {name: value for name, value in sums.terms_ns.items() if value}
    return replace(sums, terms_ns=terms)


# What is added up.


def test_a_time_is_split_by_what_was_on(spans: Spans) -> None:
    begin_ns, end_ns = INCIDENT.begin_ns - SECOND_NS, (INCIDENT.end_ns or 0) + SECOND_NS // 2
    span = spans.span(Asked(engine_id=ENGINE, begin_ns=begin_ns, end_ns=end_ns))
    assert span is not None
    assert span.incidents == (INCIDENT,)
    during = between(INCIDENT.begin_ns, INCIDENT.end_ns or 0)
    assert without_zeros(span.during[0]) == without_zeros(sums_of(during))
    outside = [one for one in between(begin_ns, end_ns) if one not in during]
    assert without_zeros(span.outside) == without_zeros(sums_of(outside))
    before = between(2 * begin_ns - end_ns, begin_ns)
    assert without_zeros(span.before) == without_zeros(sums_of(before))
    assert span.whole.batches == len(during) + len(outside)
    assert span.whole.lost_ns == span.outside.lost_ns + span.during[0].lost_ns
    worst = sorted(during, key=lambda one: (one.expected_ns or 0) - one.duration_ns)[:5]
    assert [one.sequence for one in span.worst] == [one.sequence for one in worst]


def test_the_last_of_an_engine_ends_with_its_newest_batch(spans: Spans) -> None:
    span = spans.span(Asked(engine_id=ENGINE, last_ns=SECOND_NS))
    assert span is not None
    assert span.end_ns == NEWEST_NS + 1
    assert span.whole.batches == len(between(NEWEST_NS + 1 - SECOND_NS, NEWEST_NS + 1))
    assert span.incidents == ()


def test_a_batch_counts_once_and_as_it_was_amended(spans: Spans) -> None:
    span = spans.span(Asked(engine_id=AMENDED, begin_ns=FIRST_NS, end_ns=FIRST_NS + 100))
    assert span is not None
    assert span.whole == Sums(
        batches=14,
        judged=13,
        missed=4,
        observed_ns=30 + 10 + 100 + 10,
        expected_ns=8 * 13,
        gaps_ns=30,
        verdicts={"slow": 1, "normal": 12, "unknown": 1},
        terms_ns={"kv": 5 * 13, "weights": 2 * 13},
    )
    # What the terms of an older version lack is what was learnt.
    assert span.whole.made_of() == {"kv": 65, "weights": 26, "memory": 13}


def test_a_time_without_batches_is_none(spans: Spans) -> None:
    assert spans.span(Asked(engine_id=ENGINE, begin_ns=1, end_ns=SECOND_NS)) is None
    assert spans.span(Asked(engine_id="range:9", last_ns=SECOND_NS)) is None


def test_an_incident_that_is_open_lasts_to_the_end(tmp_path: Path) -> None:
    still_open = [one for one in JUDGED if not isinstance(one, Alert) or one.state != "resolved"]
    spans = Recorded(recorded(tmp_path / "open", still_open))
    begin_ns = INCIDENT.begin_ns + 10 * SECOND_NS
    span = spans.span(Asked(engine_id=ENGINE, begin_ns=INCIDENT.begin_ns, end_ns=begin_ns))
    assert span is not None
    assert span.outside.batches == 0
    assert span.during[0].batches == len(between(INCIDENT.begin_ns, begin_ns))


# What is said.


def test_where_the_time_went_is_said(recording: Path, capsys: Output) -> None:
    end_ns = (INCIDENT.end_ns or 0) + SECOND_NS
    begin_ns = INCIDENT.begin_ns - SECOND_NS
    times = ("--from", begin_ns / 1e9, "--to", end_ns / 1e9)
    told = explain(capsys, "range", ENGINE, *times, "--recording", recording)
    for text in (
        f"{ENGINE} from {shown(begin_ns)} to {shown(end_ns)} (",
        " slow (",
        "their work explains ",
        "that it does not explain",
        "host_cpu_contention  other processes take the host's CPUs; 1 incident",
        "no incident",
        "weights",
        f"incidents  {INCIDENT.incident_id}  {shown(INCIDENT.begin_ns)}  ",
        "worst      ",
    ):
        assert text in told, text
    # All that was lost was lost to the incident, but for noise.
    share = re.search(r"lost to +\S+ m?s +(\S+) %", told)
    assert share is not None
    assert float(share[1]) == pytest.approx(100, abs=5)


def test_what_is_lost_adds_up_to_the_whole(recording: Path, capsys: Output) -> None:
    told = explain(capsys, "range", ENGINE, "--last", "1h", "--json", "--recording", recording)
    plain = json.loads(told)
    parts = [one["batches"] for one in plain["incidents"]] + [plain["outside_of_incidents"]]
    assert sum(one["lost_ns"] for one in parts) == plain["whole"]["lost_ns"]
    assert sum(plain["whole"]["terms_ns"].values()) == plain["whole"]["expected_ns"]
    assert plain["lost_ns_by_cause"] == {"host_cpu_contention": parts[0]["lost_ns"]}
    assert [one["engine_id"] for one in plain["worst"]] == [ENGINE] * 5


@pytest.mark.pipeline
def test_it_is_the_same_from_the_database(
    recording: Path, database: Any, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent_by(monkeypatch, database)
    from_file = explain(capsys, "range", ENGINE, "--last", "3s", "--recording", recording)
    assert explain(capsys, "range", ENGINE, "--last", "3s") == from_file


def test_more_work_is_told_from_what_it_does_not_explain(tmp_path: Path) -> None:
    """Twice the KV cache is read from the middle on, and each batch takes 1 ms longer besides."""
    ms = 1_000_000
    light: Batch = replace(
        amended()[0],
        duration_ns=10 * ms,
        expected_ns=10 * ms,
        terms_ns={"weights": 6 * ms, "kv": 4 * ms},
    )
    heavy = replace(
        light, duration_ns=15 * ms, expected_ns=14 * ms, terms_ns={"weights": 6 * ms, "kv": 8 * ms}
    )
    batches = [
        replace(
            heavy if number >= 50 else light, sequence=number, begin_ns=FIRST_NS + number * 20 * ms
        )
        for number in range(100)
    ]
    middle_ns = batches[50].begin_ns
    spans = Recorded(recorded(tmp_path / "heavier", [*batches]))
    span = spans.span(Asked(engine_id=AMENDED, begin_ns=middle_ns, end_ns=middle_ns + SECOND_NS))
    assert span is not None
    (line,) = [line for line in lines_of(span) if "before" in line]
    assert (
        "a batch took 10.0 ms in the 1.0 s before and 15.0 ms now: +4.00 ms by its work "
        "(KV read +4.00 ms), +1.00 ms that it does not explain"
    ) in line


def test_batches_of_which_nothing_was_expected_are_no_loss(tmp_path: Path, capsys: Output) -> None:
    unread = [replace(one, expected_ns=None, terms_ns={}, verdict="unknown") for one in amended()]
    path = recorded(tmp_path / "unread", [*unread])
    told = explain(capsys, "range", AMENDED, "--last", "1m", "--recording", path)
    assert "nothing was expected of any" in told
    assert "nothing to compare with in the 1 min before" in told
    assert "lost to" not in told


def test_quicker_batches_are_told_as_such(tmp_path: Path, capsys: Output) -> None:
    path = recorded(tmp_path / "quick", [replace(amended()[0], duration_ns=4)])
    told = explain(capsys, "range", AMENDED, "--last", "1m", "--recording", path)
    assert "they were quicker than expected" in told


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--from", "20", "--to", "10"], "--to 10 is not after --from 20: turn them round"),
        (["--from", "yesterday"], "--from is 'yesterday': give a time as"),
        (["--from", "10", "--until", "noon"], "--to is 'noon': give a time as"),
        (["--last", "5"], "--last is '5': give a length of time as"),
        (["--from", "10", "--to", "20"], f"{ENGINE} has no batch in that time: there are 900"),
        (["--last", "5m", "--config", "c.toml"], "--config says where ClickHouse is"),
    ],
)
def test_a_mistake_says_what_to_do(
    arguments: list[str], what: str, recording: Path, capsys: Output
) -> None:
    assert what in refused(capsys, "range", ENGINE, *arguments, "--recording", recording)


def test_an_unknown_engine_is_told_those_there_are(recording: Path, capsys: Output) -> None:
    told = refused(capsys, "range", "range:9", "--last", "5m", "--recording", recording)
    assert f"no engine 'range:9': choose of {ENGINE}, {AMENDED}" in told
