from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import Silence
from streams.silences import KEPT_NS, MATCHABLE, Silences, ended, matches, new_silence
from tests.streams.made_alerts import at

LABELS: dict[str, str | None] = {
    "engine_id": "h1:8000",
    "host": "h1",
    "model": None,
    "framework": "vllm",
    "cause": "host_cpu_contention",
    "severity": "page",
}


def silence(begin: float = 0, end: float = 100, **matchers: str) -> Silence:
    made = new_silence(matchers or {"host": "h1"}, end - begin, "test", "ada", at(begin))
    return replace(made, silence_id="s")


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        ({"host": "h1"}, True),
        ({"host": "h?"}, True),
        ({"host": "H1"}, False),
        ({"host": "h"}, False),
        ({"host": "h[12]", "cause": "host_*"}, True),
        ({"host": "h1", "cause": "disk_*"}, False),
        ({"severity": "page", "framework": "*"}, True),
        # What is not known of an engine matches nothing.
        ({"model": "*"}, False),
        ({}, False),
    ],
)
def test_all_patterns_have_to_match(matchers: dict[str, str], expected: bool) -> None:
    assert matches(replace(silence(), matchers=matchers), LABELS) is expected


def test_every_label_of_an_incident_can_be_matched() -> None:
    assert set(LABELS) == set(MATCHABLE)


def test_a_silence_holds_from_its_begin_to_its_end() -> None:
    silences = Silences()
    silences.hear(silence(10, 20))
    found = [silences.match(LABELS, at(second)) for second in (9.9, 10, 19.9, 20)]
    assert found == [None, "s", "s", None]


def test_the_newest_record_counts_in_whatever_order_they_come() -> None:
    first, last = silence(0, 100), ended(silence(0, 100), at(50))
    for order in ([first, last], [last, first], [first, last, first]):
        silences = Silences()
        for one in order:
            silences.hear(one)
        assert silences.match(LABELS, at(51)) is None
        assert silences.in_force(at(51)) == []


def test_those_that_are_long_over_are_forgotten() -> None:
    silences = Silences()
    silences.hear(silence(0, 100))
    silences.forget(at(100) + KEPT_NS)
    assert silences.find("s") is not None
    silences.forget(at(101) + KEPT_NS)
    assert silences.find("s") is None
