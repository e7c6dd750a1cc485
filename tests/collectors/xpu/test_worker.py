"""The worker's choice of a way, without a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from collectors.xpu.base import (
    SLOW_LOOKS,
    NotPermitted,
    ParseError,
    Vendor,
    Way,
    XpuError,
    plausible,
)
from collectors.xpu.worker import MOST_FAILURES, Look, Worker
from schemas.records import XpuDevice

DEVICE = XpuDevice(device_id="A-1", vendor="fake", utilization_ratio=0.5)
Answer = Callable[[], list[XpuDevice]]


class Given(Way):
    def __init__(self, name: str, answer: Answer, why_not: str | None = None) -> None:
        self.name = name
        self._answer = answer
        self._why_not = why_not
        self.reads = self.closes = 0

    def why_not(self) -> str | None:
        return self._why_not

    def read(self) -> list[XpuDevice]:
        self.reads += 1
        return self._answer()

    def close(self) -> None:
        self.closes += 1


class Fake(Vendor):
    title = "Fake"

    def __init__(self, *ways: Way) -> None:
        self._ways = list(ways)

    def ways(self) -> list[Way]:
        return self._ways


class Desk:
    """A worker and what it wrote."""

    def __init__(self, *ways: Way, avoid: tuple[str, ...] = ()) -> None:
        self.lines: list[bytes] = []
        self.worker = Worker(Fake(*ways), self.lines.append, 1.0, frozenset(avoid))

    def look(self) -> list[Look]:
        self.lines.clear()
        self.worker.look()
        return [msgspec.json.decode(line, type=Look) for line in self.lines]


def good() -> list[XpuDevice]:
    return [DEVICE]


def failing(err: Exception) -> Answer:
    def answer() -> list[XpuDevice]:
        raise err

    return answer


def test_before_a_way_is_tried_it_is_said_and_then_it_is_kept() -> None:
    way = Given("best", good)
    desk = Desk(way, Given("next", good))
    asking, done = desk.look()
    assert (asking.state, asking.tool) == ("asking", "best")
    assert (done.state, done.tool, done.devices) == ("done", "best", (DEVICE,))
    assert done.end_ns >= done.begin_ns > 0
    assert done.next_seconds == 1.0
    assert [look.state for look in desk.look()] == ["done"]
    assert way.reads == 2


def test_a_way_that_is_not_open_is_told_with_the_reason() -> None:
    desk = Desk(Given("best", good, "install it"), Given("next", good))
    assert desk.look()[-1].closed == {"best": "install it"}


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        (NotPermitted("run as root"), "not_permitted"),
        (ParseError("run it by hand"), "parse_error"),
        (XpuError("install it"), "not_supported"),
        (KeyError("surprise"), "parse_error"),
        (RecursionError("deep"), "parse_error"),
    ],
)
def test_what_a_way_raises_is_a_reason_and_never_the_workers_end(
    err: Exception, reason: str
) -> None:
    desk = Desk(Given("only", failing(err)))
    look = desk.look()[-1]
    assert (look.reason, look.devices) == (reason, ())
    assert str(err).strip("'") in (look.error or "")
    assert look.next_seconds > 1.0, "what fails is asked less often"


def test_a_way_that_fails_is_no_news_while_there_is_another() -> None:
    looks = Desk(Given("a", failing(NotPermitted("run as root"))), Given("b", good)).look()
    assert [(look.state, look.tool) for look in looks] == [
        ("asking", "a"),
        ("asking", "b"),
        ("done", "b"),
    ]
    assert looks[-1].closed == {"a": "run as root"}


def test_when_all_ways_fail_the_best_ones_reason_is_told() -> None:
    desk = Desk(
        Given("a", failing(NotPermitted("run as root"))), Given("b", failing(ParseError("update")))
    )
    look = desk.look()[-1]
    assert (look.tool, look.reason, look.error) == ("a", "not_permitted", "run as root; update")


def test_when_no_way_is_open_all_reasons_are_told() -> None:
    desk = Desk(Given("a", good, "install a"), Given("b", good, "install b"))
    [look] = desk.look()
    assert look.error == "install a; install b"
    assert look.next_seconds == SLOW_LOOKS


def test_a_way_that_worked_may_fail_a_few_times_before_it_is_left() -> None:
    answers: list[Answer] = [good]
    first = Given("first", lambda: answers[0]())
    desk = Desk(first, Given("second", good))
    desk.look()
    answers[0] = failing(XpuError("driver gone: restart it"))
    tools = [desk.look()[-1].tool for _ in range(MOST_FAILURES)]
    assert tools == ["first"] * MOST_FAILURES
    assert first.closes == 1
    look = desk.look()[-1]
    assert (look.tool, look.error) == ("second", None)
    assert "restart it" in look.closed["first"]


def test_ways_that_hung_are_left_out_unless_there_is_no_other() -> None:
    first, second = Given("first", good), Given("second", good)
    assert Desk(first, second, avoid=("first",)).look()[-1].tool == "second"
    assert Desk(first, second, avoid=("first", "second")).look()[-1].tool == "first"


def test_a_slow_way_is_asked_at_a_tenth_of_the_rate() -> None:
    way = Given("slow", good)
    way.slow = True
    assert Desk(way).look()[-1].next_seconds == SLOW_LOOKS
    assert way.period_seconds == SLOW_LOOKS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("utilization_ratio", 1.2),
        ("utilization_ratio", float("nan")),
        ("power_watts", -7.0),
        ("memory_used_bytes", -1),
        ("temperature_celsius", 6553.5),
        ("core_clock_hz", float("inf")),
    ],
)
def test_what_cannot_be_is_suspect_and_no_value(field: str, value: float) -> None:
    device = plausible(replace(DEVICE, **{field: value}))  # type: ignore[arg-type]
    assert getattr(device, field) is None
    assert device.missing == {field: "suspect"}


def test_what_can_be_stays() -> None:
    device = XpuDevice(
        device_id="A", vendor="v", temperature_celsius=-5.0, utilization_ratio=1.0, power_watts=0.0
    )
    assert plausible(device) is device
