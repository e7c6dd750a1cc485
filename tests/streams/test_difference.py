from __future__ import annotations

from dataclasses import replace

from schemas.records import Alert, Batch, Norms
from streams.difference import Difference, compare
from streams.offline import Offline
from streams.outcome import Outcome
from tests.streams.feed import Feed


def results() -> list[Batch | Alert]:
    feed, offline = Feed(), Offline()
    records = [
        feed.engine(),
        *feed.batches(500),
        *feed.batches(100, factor=2.0, others=0.8),
        *feed.batches(500),
    ]
    found = [result for record in records for result in offline.feed(record)]
    return [one for one in found if not isinstance(one, Norms)]


RESULTS = results()
ALERTS = [one for one in RESULTS if isinstance(one, Alert)]
BATCHES = [one for one in RESULTS if isinstance(one, Batch)]


def outcome(records: list[Batch] | list[Alert] | list[Batch | Alert]) -> Outcome:
    found = Outcome()
    for record in records:
        found.add(record)
    return found


def against(there: list[Batch | Alert]) -> Difference:
    return compare(outcome(RESULTS), outcome(there))


def test_the_same_results_are_equal() -> None:
    difference = against(RESULTS)
    assert difference.equal
    assert len(difference.pairs) == 1
    assert difference.verdicts.total() == len(BATCHES)


def test_an_incident_that_one_lacks_is_told() -> None:
    difference = against([*BATCHES])
    assert [one.incident_id for one in difference.only_here] == [ALERTS[0].incident_id]
    assert not difference.equal
    other_way = compare(outcome([*BATCHES]), outcome(RESULTS))
    assert [one.incident_id for one in other_way.only_there] == [ALERTS[0].incident_id]
    assert not other_way.equal


def test_another_cause_is_told() -> None:
    changed = [replace(one, cause="memory_pressure") for one in ALERTS]
    (pair,) = against([*BATCHES, *changed]).pairs
    assert pair.cause_changed
    assert not pair.equal


def test_an_incident_of_another_id_is_found_by_its_time_and_its_shift_is_measured() -> None:
    later = [one for one in BATCHES if one.begin_ns > ALERTS[0].begin_ns][:3][-1]
    moved = [replace(one, incident_id="other", begin_ns=later.begin_ns) for one in ALERTS]
    (pair,) = against([*BATCHES, *moved]).pairs
    assert pair.begin_shift_batches == -3
    assert pair.begin_shift_ns == ALERTS[0].begin_ns - later.begin_ns
    assert not pair.equal


def test_incidents_at_other_times_or_of_other_engines_are_not_the_same() -> None:
    elsewhere = [replace(one, engine_id="host:9") for one in ALERTS]
    hour_ns = 3_600_000_000_000
    another = [
        replace(
            one,
            incident_id="other",
            begin_ns=one.begin_ns + hour_ns,
            end_ns=None if one.end_ns is None else one.end_ns + hour_ns,
        )
        for one in ALERTS
    ]
    for there in (elsewhere, another):
        difference = against([*BATCHES, *there])
        assert not difference.pairs
        assert (len(difference.only_here), len(difference.only_there)) == (1, 1)


def test_verdicts_are_counted_by_both() -> None:
    there = [replace(one, verdict="normal") if one.verdict == "slow" else one for one in BATCHES]
    slow = sum(one.verdict == "slow" for one in BATCHES)
    difference = against([*there[1:], *ALERTS])
    assert difference.verdicts["normal", "slow"] == slow > 0
    assert (difference.batches_only_here, difference.batches_only_there) == (1, 0)
    assert not difference.equal


def test_alerts_alone_can_be_compared() -> None:
    assert against([*ALERTS]).equal
