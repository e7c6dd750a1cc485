"""One trouble is one incident, however many engines feel it and however often it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import Engine
from streams.correlate import correlated
from tests.schemas.samples import minimal
from tests.streams.correlating import World, engines, states
from tests.streams.made_alerts import Trouble, at


def test_a_firing_is_told_at_once_and_keeps_its_id_to_the_end() -> None:
    one = Trouble("h1:8000", 10)
    told = correlated([one.fire(), one.update(13, severity="page"), one.resolve(20)])
    assert states(told) == ["firing", "updated", "resolved"]
    assert [found.revision for found in told] == [0, 1, 2]
    assert {found.incident_id for found in told} == {one.incident_id}
    first, last = told[0], told[-1]
    assert (first.at_ns, first.end_ns, first.shared) == (at(10.5), None, None)
    assert first.summary == first.alert.summary
    assert (last.severity, last.begin_ns, last.end_ns) == ("page", at(10), at(20))


def test_engines_of_one_host_are_members_of_one_incident() -> None:
    world = World()
    troubles = [Trouble(f"h1:800{n}", n, ratio=1.4 + n / 10) for n in range(4)]
    for one in troubles:
        world.take(one.fire())
    world.pass_time(6)
    told = world.told
    assert states(told) == ["firing", "updated", "updated", "updated"]
    assert {one.incident_id for one in told} == {troubles[0].incident_id}
    assert engines(told[-1]) == [one.engine_id for one in troubles]
    assert told[-1].shared == "host:h1"
    assert told[-1].summary == (
        "4 engines on host h1 are slow: other processes took the host's CPUs: 12 % before, "
        "83 % now; worst: h1:8003 at 1.7 times"
    )
    for number, one in enumerate(troubles):
        world.take(one.resolve(20 + 2 * number))
    assert "1 of 4 engines on host h1 is still slow" in world.told[-2].summary
    last = world.told[-1]
    assert (last.state, last.end_ns) == ("resolved", at(26))
    assert "4 engines on host h1 are back to normal" in last.summary
    assert states(world.told).count("resolved") == 1


JOIN = [
    # cause, host, devices; seconds later: cause, host, devices; what they share
    (("host_cpu_contention", "h1"), 30, ("host_cpu_contention", "h1"), "host:h1"),
    (("host_cpu_contention", "h1"), 30, ("memory_pressure", "h1"), "host:h1"),
    (("host_cpu_contention", "h1"), 61, ("host_cpu_contention", "h1"), None),
    (("host_cpu_contention", "h1"), 1, ("host_cpu_contention", "h2"), None),
    (("host_cpu_contention", None), 1, ("host_cpu_contention", None), None),
    (("host_cpu_contention", "h1"), 30, ("unknown", "h1"), "host:h1"),
    (("forward_slower", "h1"), 30, ("host_cpu_contention", "h1"), "host:h1"),
    (("unknown", "h1"), 1.9, ("unknown", "h1"), "host:h1"),
    (("stall", "h1"), 1.9, ("stall", "h1"), "host:h1"),
    (("unknown", "h1"), 3, ("unknown", "h1"), None),
    (("unknown", "h1"), 1, ("unknown", "h2"), None),
    (("cpu_quota", "h1"), 1, ("cpu_quota", "h1"), None),
    (("kv_exhaustion", "h1"), 1, ("unknown", "h1"), None),
    (("accelerator_clock", "h1", "a", "b"), 30, ("accelerator_clock", "h1", "b"), "device:b"),
    (("accelerator_clock", "h1", "a"), 1, ("accelerator_clock", "h1", "b"), None),
    (("accelerator_clock", "h1", "a"), 1, ("accelerator_clock", "h1"), None),
    (("accelerator_contention", "h1", "a"), 30, ("forward_slower", "h1", "a"), "device:a"),
    (("accelerator_contention", "h1", "a"), 30, ("forward_slower", "h1", "b"), None),
    (("accelerator_contention", "h1", "a"), 1, ("host_cpu_contention", "h1", "a"), None),
    (("pcie_contention", "h1", "a"), 30, ("pcie_contention", "h1", "b"), "host:h1"),
]


@pytest.mark.parametrize(("one", "later", "other", "shared"), JOIN)
def test_who_joins_whom(
    one: tuple[str, ...], later: float, other: tuple[str, ...], shared: str | None
) -> None:
    first = Trouble("h1:1", 0, cause=one[0], host=one[1], device_ids=one[2:])
    second = Trouble("h1:2", later, cause=other[0], host=other[1], device_ids=other[2:])
    told = correlated([first.fire(), second.fire(later + 2)])
    assert len({found.incident_id for found in told}) == (1 if shared else 2)
    assert told[-1].shared == shared


def test_an_engine_does_not_join_what_is_over() -> None:
    first, second = Trouble("h1:1", 0), Trouble("h1:2", 10)
    told = correlated([first.fire(), first.resolve(9), second.fire()])
    assert [(one.incident_id, one.state) for one in told] == [
        (first.incident_id, "firing"),
        (first.incident_id, "resolved"),
        (second.incident_id, "firing"),
    ]


def test_the_inventory_tells_where_an_alert_does_not() -> None:
    world = World()
    inventory: Engine = minimal(Engine)
    for name in ("h1:1", "h1:2"):
        world.correlator.hear(replace(inventory, engine_id=name, host="h1"))
    world.take(Trouble("h1:1", 0, host=None).fire(), Trouble("h1:2", 1, host=None).fire())
    assert len(world.correlator.incidents()) == 1


def test_updates_are_told_once_a_second_and_nothing_of_them_is_lost() -> None:
    world = World()
    troubles = [Trouble(f"h1:{n}", n / 100) for n in range(50)]
    for one in troubles:
        world.take(one.fire(one.begin + 0.1))
    assert world.correlator.unsaid
    assert len(world.told) == 1
    world.pass_time(3)
    assert not world.correlator.unsaid
    assert states(world.told) == ["firing", "updated"]
    assert len(world.told[-1].members) == 50


def test_the_cause_is_the_one_that_most_speaks_for() -> None:
    causes = ("unknown", "memory_pressure", "host_cpu_contention", "host_cpu_contention", "unknown")
    troubles = [Trouble(f"h1:{n}", 0, cause=cause) for n, cause in enumerate(causes)]
    told = correlated([one.fire() for one in troubles])
    assert told[0].cause == "unknown"
    assert told[-1].cause == "host_cpu_contention"


def test_the_member_that_leads_is_the_first_whose_trouble_lasts() -> None:
    first, second = Trouble("h1:1", 0), Trouble("h1:2", 1)
    told = correlated([first.fire(), second.fire(), first.resolve(10), second.resolve(20)])
    assert [one.alert.engine_id for one in told] == ["h1:1", "h1:1", "h1:2", "h1:2"]


def test_alerts_that_come_again_change_nothing() -> None:
    world, one = World(), Trouble("h1:1", 0)
    alerts = [one.fire(), one.update(5, cause="memory_pressure"), one.resolve(20)]
    for count in (1, 2, 3):
        world.take(*alerts[:count], *alerts[:count])
    world.pass_time(30)
    assert states(world.told) == ["firing", "updated", "resolved"]
    assert world.told[1].cause == "memory_pressure"


def test_an_end_without_a_begin_is_told_all_the_same() -> None:
    one = Trouble("h1:1", 0)
    one.fire()
    assert states(correlated([one.resolve(5)])) == ["resolved"]


def test_a_new_incident_of_an_engine_ends_the_one_before_whose_end_nobody_told() -> None:
    lost, late = Trouble("h1:1", 0), Trouble("h1:1", 500)
    told = correlated([lost.fire(), late.fire(), late.resolve(520), lost.resolve(530)])
    assert [(one.incident_id, one.state, one.end_ns) for one in told] == [
        (lost.incident_id, "firing", None),
        (lost.incident_id, "resolved", at(500)),
        (late.incident_id, "firing", None),
        (late.incident_id, "resolved", at(520)),
    ]


def test_an_engine_that_comes_again_into_an_incident_is_in_it_once() -> None:
    one, other = Trouble("h1:1", 0), Trouble("h1:2", 1)
    again = one.again(20)
    alerts = [one.fire(), other.fire(3), one.resolve(10), again.fire(), again.update(40)]
    told = correlated(alerts)
    assert len({found.incident_id for found in told}) == 1
    assert [found.incident_id for found in told[-1].members] == ["h1:2@1", "h1:1@20"]
