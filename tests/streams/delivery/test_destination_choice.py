"""What one destination is told, and how much of it."""

from __future__ import annotations

from typing import Any

import pytest

from streams.delivery import DestinationSettings
from streams.delivery.settings import DEFAULT
from tests.streams.delivery.notifications import keys, life, notification
from tests.streams.delivery.running import Make
from tests.streams.receiver import Receiver


def test_a_limit_per_minute_is_kept_and_updates_are_folded(receiver: Receiver, make: Make) -> None:
    run = make(per_minute=3)
    for n in range(4):
        run.put(notification(f"i{n}"))
    run.put(*(notification("i3", revision, "updated") for revision in range(1, 30)))
    run.run(59.0)
    assert keys(receiver) == ["i0-0", "i1-0", "i2-0"]
    run.run()
    assert keys(receiver) == ["i0-0", "i1-0", "i2-0", "i3-0", "i3-29"]
    assert run.destination.counts().dropped == 28


def test_an_incident_that_became_one_for_it_is_told_to_its_end(
    receiver: Receiver, make: Make
) -> None:
    run = make(severities=("page",))
    told = [
        notification("abc", 0, "firing", severity="ticket"),
        notification("abc", 1, "updated", severity="page"),
        notification("abc", 2, "updated", severity="ticket"),
        notification("abc", 3, "resolved", severity="ticket"),
        notification("other", 0, "resolved", severity="ticket"),
    ]
    for one in told:
        run.put(one)
        run.run()
        run.restart()
    assert keys(receiver) == ["abc-1", "abc-2", "abc-3"]


def test_an_incident_that_became_one_for_it_and_ended_meanwhile_is_told(
    receiver: Receiver, make: Make
) -> None:
    run = make(severities=("page",))
    run.put(notification("abc", 0, "firing", severity="ticket"))
    run.put(*(notification("abc", revision, "updated") for revision in (1, 2)))
    run.put(notification("abc", 3, "resolved"))
    run.restart()
    run.run()
    assert keys(receiver) == ["abc-1", "abc-3"]


@pytest.mark.parametrize(
    ("changes", "revisions"),
    [({"send_updates": False}, [0, 2]), ({"send_resolved": False}, [0, 1])],
)
def test_updates_and_ends_may_be_left_out(
    receiver: Receiver, make: Make, changes: dict[str, bool], revisions: list[int]
) -> None:
    run = make(**changes)
    for one in life():
        run.put(one)
        run.run()
    assert keys(receiver) == [f"abc-{revision}" for revision in revisions]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"severities": ("ticket",)}, False),
        ({"causes": ("host_*",)}, True),
        ({"causes": ("accelerator_*", "unknown")}, False),
        ({"engines": ("*:8000",)}, True),
        ({"engines": ("other*",)}, False),
        ({"hosts": ("inference-?",)}, True),
        ({"hosts": ("elsewhere",)}, False),
    ],
)
def test_a_destination_is_for_what_fits_all_its_patterns(
    changes: dict[str, Any], wanted: bool
) -> None:
    assert DestinationSettings(name=DEFAULT, **changes).wants(notification()) is wanted
