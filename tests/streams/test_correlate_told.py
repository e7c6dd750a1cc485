"""What is told of incidents that come and go, are silenced, or are taken care of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import Acknowledgement, Capture
from tests.schemas.samples import minimal
from tests.streams.correlating import World, engines, flap, silence, states
from tests.streams.made_alerts import Trouble, at


@pytest.mark.parametrize("cause", ["host_cpu_contention", "unknown", "cpu_quota"])
def test_what_comes_and_goes_is_told_to_flap_and_then_only_to_be_over(cause: str) -> None:
    world = World()
    troubles = flap(world, Trouble("h1:1", 0, cause=cause), [0, 60, 120, 180, 240, 300])
    world.pass_time(900)
    assert not world.correlator.due or states(world.told)[-1] != "resolved"
    world.pass_time(912)
    told = [(one.incident_id, one.state, one.flapping) for one in world.delivered]
    quiet = [
        (one.incident_id, state, False) for one in troubles[:3] for state in ("firing", "resolved")
    ]
    last = troubles[3].incident_id
    assert told == [*quiet, (last, "firing", True), (last, "resolved", True)]
    assert "4th time" in world.delivered[-2].summary
    assert world.delivered[-1].at_ns == at(910)
    assert world.delivered[-1].end_ns == at(310)
    assert engines(world.delivered[-1]) == ["h1:1"]


def test_a_host_flaps_whichever_of_its_engines_is_first() -> None:
    world = World()
    for number in range(5):
        flap(world, Trouble(f"h1:{number}", 0), [60.0 * number])
    assert [one.flapping for one in world.delivered] == [False] * 6 + [True]


def test_three_times_or_slowly_is_no_flapping() -> None:
    world = World()
    flap(world, Trouble("h1:1", 0), [0, 250, 500, 750, 1000])
    assert not any(one.flapping for one in world.told)


def test_other_causes_are_other_incidents() -> None:
    world = World()
    for number, cause in enumerate(["cpu_quota", "load", "compilation", "kv_exhaustion"]):
        flap(world, Trouble("h1:1", 0, cause=cause), [60.0 * number])
    assert not any(one.flapping for one in world.told)


def test_flapping_that_gets_worse_is_told() -> None:
    world = World()
    flap(world, Trouble("h1:1", 0), [0, 60, 120, 180])
    flap(world, Trouble("h1:1", 0, severity="page"), [240])
    assert [(one.state, one.severity) for one in world.delivered[-2:]] == [
        ("firing", "ticket"),
        ("firing", "page"),
    ]


def test_what_is_silenced_is_published_and_not_delivered() -> None:
    world, one = World(), Trouble("h1:1", 10)
    world.correlator.hear(silence(0, 100, host="h*"))
    world.take(one.fire(), one.resolve(20))
    assert states(world.told) == ["firing", "resolved"]
    assert [found.silenced_by for found in world.told] == ["s1", "s1"]
    assert world.delivered == []


def test_a_silence_that_ends_within_an_incident_lets_it_fire() -> None:
    world, one = World(), Trouble("h1:1", 10)
    world.correlator.hear(silence(0, 100, engine_id="h1:1"))
    world.take(one.fire())
    world.pass_time(101)
    world.take(one.resolve(120))
    assert [(found.state, found.at_ns) for found in world.delivered] == [
        ("firing", at(100)),
        ("resolved", at(120)),
    ]


def test_a_silence_that_is_taken_back_ends_at_once() -> None:
    world, one = World(), Trouble("h1:1", 10)
    world.correlator.hear(silence(0, 100, engine_id="h1:1"))
    world.take(one.fire())
    world.correlator.hear(replace(silence(0, 100, engine_id="h1:1"), at_ns=at(15), end_ns=at(15)))
    world.pass_time(16)
    assert [found.at_ns for found in world.delivered] == [at(15)]


def test_who_was_told_of_an_incident_is_told_of_its_end_whatever_is_silenced_since() -> None:
    world, one = World(), Trouble("h1:1", 10)
    world.take(one.fire())
    world.correlator.hear(silence(12, 100, cause="host_*"))
    world.take(one.update(15), one.resolve(20))
    assert states(world.delivered) == ["firing", "resolved"]
    assert [found.silenced_by for found in world.told] == [None, "s1", "s1", None]


def test_an_incident_is_told_if_one_of_its_engines_is_not_silenced() -> None:
    world = World()
    world.correlator.hear(silence(0, 100, engine_id="h1:1"))
    world.take(Trouble("h1:1", 1).fire(), Trouble("h1:2", 2).fire(4))
    assert [(one.state, engines(one)) for one in world.delivered] == [("firing", ["h1:1", "h1:2"])]


def test_that_an_incident_is_acknowledged_is_told_once_and_then_only_its_end() -> None:
    world, one, other = World(), Trouble("h1:1", 10), Trouble("h1:2", 20)
    world.take(one.fire())
    world.correlator.hear(Acknowledgement(incident_id=one.incident_id, at_ns=at(12), by="ada"))
    world.take(other.fire(), one.resolve(30), other.resolve(32))
    assert states(world.delivered) == ["firing", "updated", "resolved"]
    assert [found.just_acknowledged for found in world.delivered] == [False, True, False]
    assert {found.acknowledged_by for found in world.told[1:]} == {"ada"}


def test_what_gets_worse_is_told_though_it_was_acknowledged() -> None:
    world, one = World(), Trouble("h1:1", 10)
    world.take(one.fire())
    world.correlator.hear(Acknowledgement(incident_id=one.incident_id, at_ns=at(12), by="ada"))
    world.take(one.update(15, severity="page"))
    assert [(found.state, found.severity, found.acknowledged_by) for found in world.delivered] == [
        ("firing", "ticket", None),
        ("updated", "ticket", "ada"),
        ("firing", "page", None),
    ]


def test_a_capture_that_is_done_is_linked() -> None:
    world, one = World(), Trouble("h1:1", 10)
    capture: Capture = replace(
        minimal(Capture), capture_id="c", incident_id=one.incident_id, state="done", folder="/c"
    )
    world.correlator.hear(replace(capture, state="running", capture_id="not yet"))
    world.take(one.fire())
    world.correlator.hear(capture)
    world.pass_time(12)
    assert [found.folder for found in world.told[-1].captures] == ["/c"]
    assert len(world.pass_time(20)) == 0


def test_the_end_of_what_nobody_was_told_of_is_not_told_either() -> None:
    world, one = World(), Trouble("h1:1", 10)
    world.correlator.hear(silence(0, 20, host="h1"))
    alerts = [one.fire(), one.resolve(20)]
    for alert in alerts:
        world.told += world.correlator.add(alert, alert.at_ns)
    assert states(world.told) == ["firing", "resolved"]
    assert world.delivered == []
