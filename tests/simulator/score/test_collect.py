"""What a process keeps of its records, and how parts become one."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from schemas.records import Record
from simulator.score import Collector, collect, merge, score, score_observed, to_json
from tests.simulator.score.tape import (
    OTHER_ID,
    STRICT,
    alert,
    batch,
    batches,
    control,
    engine,
    fault,
    incident,
)


def records_of(engine_id: str, slow: float) -> list[Record]:
    return [
        *batches(0, 60, slow=[(slow, slow + 8)], engine_id=engine_id),
        *incident(slow, slow + 9, engine_id=engine_id),
        engine(engine_id),
    ]


TRUTH: list[Record] = [fault(10, 20, engine_ids=()), control(30, 40)]


def test_parts_that_travelled_give_the_score_of_the_whole() -> None:
    one, other = records_of("host:8000", 11), records_of(OTHER_ID, 12)
    parts = [pickle.loads(pickle.dumps(collect(part))) for part in (one, other, TRUTH)]
    whole = score([*one, *other, *TRUTH], STRICT)
    assert to_json(score_observed(merge(parts), STRICT)) == to_json(whole)


def test_a_batch_travels_in_few_bytes() -> None:
    few, many = (len(pickle.dumps(collect(batches(0, end)))) for end in (100, 1100))
    assert (many - few) / 10_000 < 40


def test_the_same_engine_in_two_parts_is_refused() -> None:
    for twice in (batches(0, 5), [alert(3)]):
        with pytest.raises(ValueError, match=r"two parts have results of host:8000.*one analysis"):
            merge([collect(batches(0, 5)), collect(twice)])


def test_the_truth_may_come_in_two_parts() -> None:
    begun, ended = replace(fault(10, None), fault_id="one"), replace(fault(10, 20), fault_id="one")
    for order in ([begun, ended], [ended, begun]):
        (episode,) = merge(collect([part]) for part in order).episodes
        assert episode.finished


def test_of_an_amended_batch_the_last_word_is_kept_in_any_order() -> None:
    told = [batch(1.5, "slow", revision=2), batch(1.5, revision=1), batch(1.5), batch(1.4)]
    for order in (told, told[::-1]):
        collector = Collector()
        for record in order:
            collector.add(record)
        points = collector.observed().points["host:8000"]
        assert [point.verdict for point in points] == ["normal", "slow"]


def test_what_is_unknown_stays_unknown() -> None:
    (point,) = collect([batch(1.0, expected_seconds=None, requests=None)]).points["host:8000"]
    assert (point.expected_ns, point.requests) == (None, None)
