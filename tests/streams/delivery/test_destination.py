"""One destination through bad hours of its receiver, with a clock that is moved by hand."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest

from schemas.records import Notification
from tests.streams.delivery.notifications import keys, life, notification
from tests.streams.delivery.running import Make, Run
from tests.streams.receiver import Answer, Receiver


def test_an_incident_is_told_in_its_order(receiver: Receiver, make: Make) -> None:
    run = make()
    for one in life():
        run.put(one)
        run.run()
    assert keys(receiver) == ["abc-0", "abc-1", "abc-2"]
    assert run.destination.counts().delivered == 3


def test_a_receiver_that_is_down_for_ten_minutes_gets_everything_once(
    receiver: Receiver, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = make()
    receiver.always = Answer(503)
    for n in range(20):
        run.put(*life(f"i{n}"))
        run.run(30.0)
    assert keys(receiver) == []
    assert run.destination.counts().queued == 40
    # Once a minute at most when it has been down for a while, not once for each that waits.
    assert len(receiver.deliveries) < 40

    receiver.always = Answer()
    run.run()

    found = keys(receiver)
    assert sorted(found) == sorted(f"i{n}-{revision}" for n in range(20) for revision in (0, 2))
    for n in range(20):
        assert found.index(f"i{n}-0") < found.index(f"i{n}-2")
    counts = run.destination.counts()
    assert (counts.queued, counts.delivered, counts.dropped, counts.dead) == (0, 40, 20, 0)
    assert caplog.text.count("Kept and tried again") == caplog.text.count("Delivered after") == 1


def test_once_it_works_again_nothing_waits_any_longer(receiver: Receiver, make: Make) -> None:
    run = make()
    receiver.always = Answer(503)
    run.put(*(notification(f"i{n}") for n in range(20)))
    run.run(600.0)
    receiver.always = Answer()
    run.run(61.0)
    assert len(keys(receiver)) == 20


def test_pauses_grow_and_are_never_longer_than_asked_for(receiver: Receiver, make: Make) -> None:
    run = make()
    receiver.always = Answer(500)
    run.put(notification())
    pauses = []
    for _ in range(12):
        pause = run.destination.step()
        assert pause is not None
        pauses.append(pause)
        run.clock.now += pause
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses[:7]))
    assert all(30 <= pause <= 60 for pause in pauses[8:])


@pytest.mark.parametrize(("header", "least"), [("20", 20.0), ("100000", 300.0)])
def test_retry_after_is_honoured_up_to_five_minutes(
    receiver: Receiver, make: Make, header: str, least: float
) -> None:
    run = make()
    receiver.answers = [Answer(429, {"Retry-After": header})]
    run.put(notification("one"), notification("two"))
    pause = run.destination.step()
    assert pause == pytest.approx(least)
    assert run.destination.step() is not None
    assert len(receiver.deliveries) == 1
    run.run()
    assert sorted(keys(receiver)) == ["one-0", "two-0"]


@pytest.mark.parametrize("answer", [Answer(500), Answer(missing_bytes=5), Answer(resets=True)])
def test_what_was_perhaps_taken_comes_again_under_the_same_key(
    receiver: Receiver, make: Make, answer: Answer
) -> None:
    run = make()
    receiver.answers = [answer]
    run.put(notification())
    run.run()
    first, second = receiver.deliveries
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == "abc-0"
    assert first.headers["X-LatencyPrism-Delivery"] == "abc-0"
    assert first.body == second.body


def test_a_notification_that_the_receiver_cannot_digest_holds_up_no_other(
    receiver: Receiver, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    taken = receiver._take

    def take(handler: Any) -> None:
        body = handler.rfile.peek(1 << 16)
        receiver.always = Answer(500 if b"poison" in body else 200)
        taken(handler)

    monkeypatch.setattr(receiver, "_take", take)
    run.put(notification("poison"))
    for n in range(50):
        run.put(notification(f"i{n}"))
        run.run(2.0)
    assert keys(receiver) == [f"i{n}-0" for n in range(50)]
    tries = sum(b"poison" in one.body for one in receiver.deliveries)
    assert 3 < tries < 15


def test_what_is_refused_is_dead_at_once_and_the_next_goes_on(
    receiver: Receiver, make: Make
) -> None:
    run = make()
    receiver.answers = [Answer(400)]
    run.put(notification("one"), notification("two"))
    run.run()
    [(name, error)] = run.buried
    assert (name, keys(receiver)) == ("one-0", ["two-0"])
    assert error.startswith(f"{receiver.address} answered 400")
    assert run.destination.counts().dead == 1


def test_a_mistake_of_ours_in_one_notification_holds_up_no_other(
    receiver: Receiver, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    requests = run.destination._requests
    post = requests.post

    def fails(what: Notification, at_seconds: float) -> None:
        if what.incident_id == "one":
            raise KeyError("a mistake")
        post(what, at_seconds)

    monkeypatch.setattr(requests, "post", fails)
    run.put(notification("one"), notification("two"))
    run.run()
    assert keys(receiver) == ["two-0"]
    assert run.buried == [("one-0", "KeyError: 'a mistake'")]


@pytest.mark.parametrize("restarts", [False, True])
def test_what_still_fires_is_told_however_long_the_receiver_was_down(
    receiver: Receiver, make: Make, restarts: bool
) -> None:
    run = make(max_age_seconds=600.0)
    receiver.always = Answer(503)
    run.put(notification("one"), notification("two"), notification("two", 1, "updated"))
    run.run(10_000.0)
    if restarts:
        run.restart()
    receiver.always = Answer()
    run.run()
    assert sorted(keys(receiver)) == ["one-0", "two-0", "two-1"]
    assert run.buried == []


@pytest.mark.parametrize("restarts", [False, True])
def test_the_end_of_what_was_told_is_told_however_late(
    receiver: Receiver, make: Make, restarts: bool
) -> None:
    run = make(max_age_seconds=600.0)
    run.put(notification())
    run.run(1.0)
    receiver.always = Answer(503)
    run.put(notification(revision=1, state="resolved"))
    if restarts:
        run.restart()
    run.run(10_000.0)
    receiver.always = Answer()
    run.run()
    assert keys(receiver) == ["abc-0", "abc-1"]
    assert run.buried == []


def test_what_was_over_before_anything_was_told_is_given_up_together(
    receiver: Receiver, make: Make
) -> None:
    run = make(max_age_seconds=600.0)
    receiver.always = Answer(503)
    run.put(*life("one"), *life("two"))
    run.run(599.0)
    assert run.buried == []
    run.run(100.0)
    assert sorted(name for name, _ in run.buried) == ["one-0", "one-2", "two-0", "two-2"]
    assert all(error.startswith("not delivered within the limit: ") for _, error in run.buried)
    tries = len(receiver.deliveries)
    run.run(10_000.0)
    assert len(receiver.deliveries) == tries
    assert run.destination.counts().queued == 0


def test_what_is_old_when_it_comes_is_tried_all_the_same(receiver: Receiver, make: Make) -> None:
    run = make(max_age_seconds=600.0)
    run.clock.now += 10_000
    run.put(notification())
    run.run()
    assert keys(receiver) == ["abc-0"]


def test_nothing_secret_is_told(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run = Run(receiver, tmp_path, url=f"{receiver.address}/hidden-one?key=hidden-two")
    receiver.answers = [Answer(500), Answer(400), Answer(302), Answer(resets=True)]
    run.put(notification("one"), notification("two"), notification("three"))
    run.run()
    receiver.stop()
    run.put(notification("four"))
    run.run(10.0)
    run.destination.close()
    told = caplog.text + str(run.buried) + repr(run.destination)
    assert "answered 400" in told
    assert "hidden" not in told


@pytest.mark.parametrize("seed", range(6))
def test_whatever_goes_wrong_each_incident_begins_and_ends_once_and_in_order(
    receiver: Receiver, make: Make, seed: int
) -> None:
    """Random answers, restarts, messages given again; the receiver tells doubles by their key."""
    chance = random.Random(seed)
    run = make()
    answers = [Answer(), Answer(500), Answer(503), Answer(429, {"Retry-After": "3"})]
    answers += [Answer(resets=True), Answer(missing_bytes=3), Answer(hangs_up=True)]
    lives = {f"i{n}": life(f"i{n}") for n in range(12)}
    left = {incident_id: list(told) for incident_id, told in lives.items()}
    while left:
        incident_id = chance.choice(list(left))
        run.put(left[incident_id].pop(0))
        if not left[incident_id]:
            del left[incident_id]
        receiver.answers = [chance.choice(answers) for _ in range(3)]
        run.run(chance.choice([0.0, 1.0, 30.0]))
        if chance.random() < 0.2:
            run.restart()
            # What Kafka gives again: everything up to here of one incident.
            done = len(lives[incident_id]) - len(left.get(incident_id, []))
            run.put(*lives[incident_id][:done])
    receiver.answers = []
    run.run()

    first_times = list(dict.fromkeys(keys(receiver)))
    for incident_id in lives:
        mine = [key for key in first_times if key.startswith(f"{incident_id}-")]
        assert mine[0] == f"{incident_id}-0"
        assert mine[-1] == f"{incident_id}-2"
        assert mine == sorted(mine)
    assert run.destination.counts().queued == 0
    assert run.buried == []
