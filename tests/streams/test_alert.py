"""From judged batches to incidents: what fires, what is part of one, when it ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import Alert, Batch, Verdict, Workload
from streams.alert import CALM_BATCHES, CALM_NS, SILENT_NS, SUSPICION, Incidents
from streams.explain import EvidenceKeeper
from tests.streams.feed import BEGIN_NS, ENGINE_ID, SECOND_NS

MS = 1_000_000
# A batch each 200 ms: enough of them are calm for long enough at once.
SPACING_NS = 200 * MS
CALM = max(CALM_BATCHES, CALM_NS // SPACING_NS)


class Told:
    """Incidents, fed with batches as a judge gives them."""

    def __init__(self) -> None:
        self.incidents = Incidents(ENGINE_ID, EvidenceKeeper(), clock_ns=lambda: 42)
        self.sequence = 0
        self.alerts: list[Alert] = []

    def batch(self, score: float, verdict: Verdict = "normal", **changes: object) -> Batch:
        """Make the next batch."""
        self.sequence += 1
        begin_ns = BEGIN_NS + self.sequence * SPACING_NS
        batch = Batch(
            engine_id=ENGINE_ID,
            process_start_ns=1,
            sequence=self.sequence,
            begin_ns=begin_ns,
            end_ns=begin_ns + (30 * MS if score >= 1 else 20 * MS),
            duration_ns=30 * MS if score >= 1 else 20 * MS,
            uncertainty_ns=0,
            source="counter",
            workload=Workload(requests=8),
            expected_ns=20 * MS,
            score=score,
            verdict=verdict,
        )
        return replace(batch, **changes)  # type: ignore[arg-type]  # test shorthand

    def take(self, *batches: Batch) -> list[Alert]:
        """Take batches in order; give what was told of these."""
        found = [alert for batch in batches for alert in self.incidents.add(batch)]
        self.alerts += found
        return found

    def slow(self, count: int = 1) -> list[Alert]:
        return self.take(*(self.batch(1.2, "slow") for _ in range(count)))

    def calm(self, count: int = 1) -> list[Alert]:
        return self.take(*(self.batch(0.0) for _ in range(count)))

    def outlier(self) -> list[Alert]:
        return self.take(self.batch(0.1, "slow"))


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_slow_batch_that_is_no_alarm_makes_no_incident(told: Told) -> None:
    for _ in range(100):
        assert told.outlier() == []
        assert not told.incidents.suspect
    assert told.incidents.outliers == 100


def test_an_alarm_fires_with_its_first_batch(told: Told) -> None:
    (alert,) = told.slow()
    assert alert.state == "firing"
    assert told.incidents.incident_id == alert.incident_id


def test_batches_that_led_up_to_an_alarm_are_part_of_the_incident(told: Told) -> None:
    first = told.batch(SUSPICION)
    told.take(first, told.batch(0.5), told.batch(0.8))
    (alert,) = told.slow()
    assert alert.begin_ns == first.begin_ns
    assert alert.evidence.slow_batches == 4


def test_suspicion_that_fades_tells_nobody(told: Told) -> None:
    told.take(told.batch(0.9), told.batch(0.1))
    assert not told.incidents.suspect
    second = told.batch(1.5, "slow")
    (alert,) = told.take(second)
    assert alert.begin_ns == second.begin_ns


def test_an_incident_ended_with_the_first_batch_that_was_fine_again(told: Told) -> None:
    told.slow(10)
    first = told.batch(0.0)
    assert told.take(first) == []
    (alert,) = told.calm(CALM)
    assert alert.state == "resolved"
    assert alert.end_ns == first.begin_ns
    # Sure of it we were only later.
    assert alert.batch_end_ns - alert.end_ns >= CALM_NS


def test_batches_after_its_end_are_no_part_of_it(told: Told) -> None:
    (alert,) = told.slow()
    assert told.incidents.incident_id == alert.incident_id
    told.calm()
    assert told.incidents.incident_id is None
    told.slow()
    assert told.incidents.incident_id == alert.incident_id


def test_trouble_that_comes_back_puts_the_end_off(told: Told) -> None:
    told.slow(10)
    told.calm(CALM - 1)
    told.slow()
    first = told.batch(0.0)
    told.take(first)
    (alert,) = told.calm(CALM)
    assert (alert.end_ns, len(told.alerts)) == (first.begin_ns, 2)


def test_a_lone_outlier_is_not_calm_and_does_not_put_the_end_off(told: Told) -> None:
    told.slow(10)
    first = told.batch(0.0)
    told.take(first)
    told.calm(CALM_BATCHES - 2)
    assert told.outlier() == []
    (alert,) = told.calm(2)
    assert (alert.state, alert.end_ns) == ("resolved", first.begin_ns)
    assert alert.evidence.slow_batches == 10


def test_only_outliers_never_end_an_incident(told: Told) -> None:
    told.slow(10)
    for _ in range(100):
        assert told.outlier() == []


def test_an_incident_that_fell_silent_ended_when_it_was_last_fine(told: Told) -> None:
    told.slow(10)
    first = told.batch(0.0)
    told.take(first)
    (alert,) = told.incidents.tick(first.end_ns + SILENT_NS + SECOND_NS)
    assert (alert.state, alert.end_ns) == ("resolved", first.begin_ns)


def test_gaps_that_cost_more_than_the_batches_are_what_is_told(told: Told) -> None:
    changes = {"gap_ns": 25 * MS, "expected_gap_ns": MS, "slow_parts": ("gap",)}
    slow = [
        replace(told.batch(1.2, "slow", **changes), duration_ns=20 * MS, end_ns=BEGIN_NS + n)
        for n in range(10)
    ]
    alert = told.take(*slow)[0]
    assert "the gap before a batch is up to 25.0 ms where 1.0 ms is usual" in alert.summary
    assert alert.evidence.ratio == pytest.approx(45 / 21, rel=1e-3)
    assert alert.cause == "engine_pause"
    assert 0 < alert.confidence < 0.9


def test_where_batches_themselves_are_slow_gaps_are_not_the_story(told: Told) -> None:
    changes = {"gap_ns": 3 * MS, "expected_gap_ns": MS, "slow_parts": ("gap",)}
    (alert,) = told.take(told.batch(1.2, "slow", **changes))
    assert "batches take 30.0 ms where 20.0 ms is expected" in alert.summary
    assert alert.cause == "unknown"
