"""Which of what waits is next."""

from __future__ import annotations

import pytest

from streams.delivery.backlog import Backlog, Entry
from streams.sinks.retry import Backoff
from tests.streams.delivery.notifications import life, notification


def entry(number: int, incident_id: str, revision: int = 0) -> Entry:
    return Entry.of(number, life(incident_id)[revision])


@pytest.fixture
def backlog() -> Backlog:
    return Backlog(lambda: Backoff(10.0, 60.0))


def test_who_failed_comes_behind_the_others(backlog: Backlog) -> None:
    one, two = entry(1, "one"), entry(2, "two")
    backlog.add(one, False)
    backlog.add(two, False)
    assert backlog.take(0.0) is one
    backlog.failed(one, 0.0, None)
    assert backlog.take(1000.0) is two
    backlog.failed(two, 0.0, None)
    assert backlog.take(1000.0) is one


def test_who_failed_waits_and_those_of_its_incident_with_it(backlog: Backlog) -> None:
    first = entry(1, "one")
    backlog.add(first, False)
    backlog.add(entry(3, "one", 2), False)
    backlog.take(0.0)
    backlog.failed(first, 0.0, None)
    assert backlog.take(4.9) is None
    assert 5.0 <= (backlog.pause(0.0) or 0.0) <= 10.0
    assert backlog.take(10.0) is first


def test_when_the_receiver_works_again_who_failed_is_tried_at_once_but_only_once_so(
    backlog: Backlog,
) -> None:
    """It may have failed because of the receiver; if it fails again, it is because of itself."""
    failing = entry(1, "failing")
    backlog.add(failing, False)
    for tries in range(2):
        other = entry(10 + tries, f"other {tries}")
        backlog.failed(failing, 0.0, None)
        backlog.add(other, False)
        assert backlog.take(0.0) is other
        backlog.delivered(other)
        assert (backlog.take(0.0) is failing) == (tries == 0)


def test_an_update_under_way_is_not_overtaken(backlog: Backlog) -> None:
    first, second, third = (Entry.of(n, notification("one", n, "updated")) for n in range(3))
    backlog.add(first, False)
    assert backlog.take(0.0) is first
    assert backlog.add(second, False) == []
    assert backlog.add(third, False) == [second]
    assert not backlog.forget(first)
    backlog.delivered(first)
    assert backlog.take(0.0) is third
    assert len(backlog) == 1


def test_what_waits_no_more_cannot_be_held(backlog: Backlog) -> None:
    update = Entry.of(1, notification("one", 1, "updated"))
    backlog.add(update, False)
    assert backlog.hold(update)
    backlog.remove([update])
    assert not backlog.hold(update)
    assert backlog.pause(0.0) is None


@pytest.mark.parametrize("is_known", [False, True])
def test_what_an_incident_begins_with_is_not_overtaken_though_it_is_an_update(
    backlog: Backlog, is_known: bool
) -> None:
    told = [Entry.of(n, notification("one", n, "updated")) for n in range(3)]
    told.append(Entry.of(3, notification("one", 3, "resolved")))
    overtaken = [one for entry in told for one in backlog.add(entry, is_known)]
    assert overtaken == (told[:3] if is_known else told[1:3])
    assert backlog.take(0.0) is told[3 if is_known else 0]
