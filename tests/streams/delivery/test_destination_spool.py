"""What one destination keeps, through restarts, and what it gives up."""

from __future__ import annotations

import os

import pytest

from schemas.codec import encode
from streams.delivery import SpoolFull
from tests.streams.delivery.notifications import keys, life, notification
from tests.streams.delivery.running import Make
from tests.streams.receiver import Answer, Receiver


def test_what_cannot_be_buried_is_kept(
    receiver: Receiver, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    run = make()
    run.cannot_bury = True
    receiver.always = Answer(400)
    run.put(notification())
    run.run(60.0)
    assert run.destination.counts().queued == 1
    assert "no dead letter could be written (no Kafka)" in caplog.text
    run.cannot_bury = False
    run.run()
    assert [name for name, _ in run.buried] == ["abc-0"]


def test_what_is_given_again_is_not_told_again(receiver: Receiver, make: Make) -> None:
    """Kafka gives a worker that was killed its last messages again."""
    run = make()
    for one in life():
        run.put(one)
        run.run()
    run.restart()
    run.put(*life())
    run.run()
    assert keys(receiver) == ["abc-0", "abc-1", "abc-2"]


def test_what_waits_outlives_the_worker(receiver: Receiver, make: Make) -> None:
    run = make()
    receiver.always = Answer(503)
    run.put(*life("one"), *life("two"))
    run.run(10.0)
    run.restart()
    run.put(*life("one"), notification("two", 3, "updated"))
    receiver.always = Answer()
    run.run()
    assert sorted(keys(receiver)) == ["one-0", "one-2", "two-0", "two-2", "two-3"]


def test_a_poisoned_entry_of_the_spool_is_set_aside(
    receiver: Receiver, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    run = make()
    run.put(notification("one"))
    spool = run.destination._spool
    for poison in (b"", b"{}", b"\xff", b'{"schema":"notification.v9"}', b"null"):
        spool.append(poison)
    run.put(notification("two"))
    run.restart()
    run.run()
    assert keys(receiver) == ["one-0", "two-0"]
    assert run.destination.counts().unreadable == 5
    assert "is kept in" in caplog.text
    run.restart()
    assert run.destination.counts().unreadable == 0


def test_a_spool_at_its_bound_gives_up_the_oldest(
    receiver: Receiver, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(spool_mib=1)
    receiver.always = Answer(503)
    for n in range(700):
        run.put(notification(f"i{n}"))
        run.run(1.0)
    buried = [name for name, _ in run.buried]
    assert 100 < len(buried) < 700
    assert buried == [f"i{n}-0" for n in range(len(buried))]
    assert "spool_mib" in run.buried[0][1]
    receiver.always = Answer()
    run.run()
    assert sorted(keys(receiver)) == sorted(f"i{n}-0" for n in range(len(buried), 700))


def test_where_not_even_that_is_possible_the_notification_is_not_taken(
    receiver: Receiver, make: Make
) -> None:
    run = make(spool_mib=1)
    run.cannot_bury = True
    receiver.always = Answer(503)

    def fill() -> None:
        for n in range(700):
            run.put(notification(f"i{n}"))
            run.run(1.0)

    with pytest.raises(SpoolFull):
        fill()
    assert run.destination.counts().full == 1
    receiver.always = Answer()
    run.run()
    run.put(notification("same"))
    run.run()
    assert keys(receiver)[-1] == "same-0"
    assert run.buried == []


def test_what_the_disk_did_not_take_is_not_kept_and_may_come_again(
    receiver: Receiver, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    entry = run.destination.put(notification())
    assert entry is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(SpoolFull, match="Input/output error"):
            run.destination.sync(entry)
    counts = run.destination.counts()
    assert (counts.queued, counts.full) == (0, 1)
    entry = run.destination.put(notification())
    assert entry is not None
    run.destination.sync(entry)
    run.run()
    assert keys(receiver) == ["abc-0"]


def test_what_was_delivered_but_is_still_in_the_spool_after_a_power_cut_is_left_out(
    receiver: Receiver, make: Make
) -> None:
    run = make()
    run.put(notification())
    run.run()
    run.destination._spool.append(encode(notification()))
    run.restart()
    assert run.destination.counts().queued == 0
