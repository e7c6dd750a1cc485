"""Repetition, disorder and restarts change nothing of what people are told."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from schemas.records import Acknowledgement, Alert, Notification
from streams.correlate import Correlator
from tests.streams.correlating import World, flap, restarted, silence, states
from tests.streams.made_alerts import SECOND_NS, Trouble, at


def test_a_worker_that_is_started_anew_knows_what_is_over() -> None:
    world, one = World(), Trouble("h1:1", 0)
    alerts = [one.fire(), one.resolve(20)]
    world.take(*alerts)
    again = restarted(world)
    assert again.correlator.incidents() == []
    assert again.take(*alerts) == []
    found = again.correlator.find(one.incident_id)
    assert found is not None
    assert found.state == "resolved"


def test_a_worker_that_is_started_anew_knows_what_goes_on() -> None:
    world, one = World(), Trouble("h1:1", 0)
    alerts = [one.fire(), one.update(5, cause="disk_pressure")]
    world.take(*alerts)
    again = restarted(world)
    assert again.take(*alerts) == []
    assert again.pass_time(20) == []


def test_a_worker_that_is_started_anew_knows_what_flaps() -> None:
    world = World()
    flap(world, Trouble("h1:1", 0), [0, 60])
    again = restarted(world)
    flap(again, Trouble("h1:1", 0), [120, 180])
    third = restarted(again)
    assert flap(third, Trouble("h1:1", 0), [240])
    assert [one.flapping for one in third.delivered] == [False] * 6 + [True]
    third.pass_time(900)
    assert (third.delivered[-1].state, third.delivered[-1].at_ns) == ("resolved", at(850))


def test_a_worker_that_is_started_anew_knows_what_got_worse_after_an_acknowledgement() -> None:
    world, one = World(), Trouble("h1:1", 10)
    said = Acknowledgement(incident_id=one.incident_id, at_ns=at(12), by="ada")
    world.take(one.fire())
    world.correlator.hear(said)
    world.take(one.update(15, severity="page"))
    again = restarted(world)
    again.correlator.hear(said)
    assert states(again.take(one.update(20, cause="disk_pressure"))) == ["updated"]
    assert again.told[-1].acknowledged_by is None


def test_a_worker_that_is_started_anew_knows_who_was_told() -> None:
    world, one = World(), Trouble("h1:1", 10)
    world.take(one.fire())
    again = restarted(world)
    again.correlator.hear(silence(12, 100, host="h1"))
    again.take(one.resolve(20))
    assert states(again.delivered) == ["firing", "resolved"]


def two_hosts() -> list[Alert]:
    """Give what four engines on two hosts go through, one of them with flapping."""
    alerts: list[Alert] = []
    for number in range(4):
        one = Trouble(f"h{number % 2}:{number}", number * 5, host=f"h{number % 2}", cause="unknown")
        alerts += [one.fire(), one.update(number * 5 + 3, cause="host_cpu_contention")]
        alerts.append(one.resolve(40 + number))
    for begin in range(50, 350, 50):
        one = Trouble("h9:1", begin, host="h9", cause="cpu_quota")
        alerts += [one.fire(), one.resolve(begin + 20)]
    return alerts


def check_each_once(alerts: list[Alert], told: list[Notification]) -> None:
    """Check that members are each part of one incident, and incidents are each told to end once."""
    part_of: dict[str, set[str]] = {}
    for one in told:
        for member in one.members:
            part_of.setdefault(member.incident_id, set()).add(one.incident_id)
    assert set(part_of) == {one.incident_id for one in alerts}
    assert {len(found) for found in part_of.values()} == {1}
    names = [(one.incident_id, one.revision) for one in told]
    assert len(set(names)) == len(names)
    ends = Counter(one.incident_id for one in told if one.state == "resolved")
    assert ends == Counter({one.incident_id for one in told})
    newest = {one.incident_id: one for one in told}
    assert {one.state for one in newest.values()} == {"resolved"}


@pytest.mark.parametrize("seed", range(60))
def test_in_any_order_and_repetition_each_member_is_in_one_incident_that_ends_once(
    seed: int,
) -> None:
    random_ = random.Random(seed)
    alerts = two_hosts()
    shaken = [*alerts, *random_.choices(alerts, k=20)]
    random_.shuffle(shaken)
    correlator, told, now_ns = Correlator(), list[Notification](), at(0)
    for alert in shaken:
        now_ns += random_.randrange(2 * SECOND_NS)
        told += correlator.add(alert, now_ns)
        told += correlator.tick(now_ns)
    while correlator.due:
        now_ns += 30 * SECOND_NS
        told += correlator.tick(now_ns)
    check_each_once(alerts, told)


@pytest.mark.parametrize("seed", range(60))
def test_another_worker_goes_on_wherever_one_stops(seed: int) -> None:
    """Workers die between any two steps; the next has heard what was told and gets alerts again."""
    random_ = random.Random(seed)
    alerts = sorted(two_hosts(), key=lambda one: one.at_ns)
    topic: list[Notification] = []
    correlator, committed, place, now_ns = Correlator(), 0, 0, at(0)
    while place < len(alerts):
        if random_.random() < 0.2:
            correlator, place = Correlator(), committed
            for one in topic:
                correlator.hear(one)
        now_ns = max(now_ns, alerts[place].at_ns)
        topic += correlator.add(alerts[place], now_ns)
        place += 1
        now_ns += random_.randrange(SECOND_NS)
        topic += correlator.tick(now_ns)
        if not correlator.unsaid and random_.random() < 0.7:
            committed = place
    while correlator.due:
        now_ns += SECOND_NS
        topic += correlator.tick(now_ns)
    check_each_once(alerts, topic)


def test_a_worker_that_only_listens_knows_what_the_other_knows() -> None:
    active, standby = World(), Correlator()
    active.correlator.hear(silence(0, 1000, model="gemma"))
    for alert in sorted(two_hosts(), key=lambda one: one.at_ns):
        for one in active.take(alert):
            standby.hear(one)
            standby.hear(one)
        assert standby.incidents() == active.correlator.incidents()
        assert standby.tick(alert.at_ns) == []
    assert active.told[0].incident_id == "h0:0@0"
