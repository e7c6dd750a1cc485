"""What a worker that tells people does when it starts, when it dies and when others are away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

pytest.importorskip("faust", reason="no faust: pip install 'latencyprism[stream]'")

from schemas.records import Acknowledgement, Alert, Capture, Notification, Record, Silence
from schemas.settings import KafkaSettings
from streams import notices
from streams.app import Worker
from streams.capture_policy import CapturePolicy, CaptureSettings
from streams.correlate import Correlator
from streams.notices import Desk
from tests.streams.made_alerts import Trouble, at


@dataclass(slots=True, eq=False)
class Event:
    """A message that was read from Kafka."""

    record: Record
    acknowledged: bool = False

    def ack(self) -> None:
        self.acknowledged = True


@dataclass(slots=True)
class World:
    """A worker with all that is around it, which may be away."""

    topic: list[Record] = field(default_factory=list)
    put_away: list[Notification] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    now: float = 0.0
    broker_away: int = 0
    disk_full: bool = False
    comes_at_once: bool = False
    loses_all: bool = False
    desk: Desk = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a worker anew."""
        self.desk = Desk(
            cast(Worker, self),
            Correlator(),
            CapturePolicy(CaptureSettings(severities=("page",))),
            self,
            lambda: at(self.now),
        )

    async def read(self, event: Event, record_type: type[Any]) -> Any:
        assert isinstance(event.record, record_type)
        return event.record

    async def send_and_wait(self, record: Record) -> None:
        if self.broker_away > 0:
            self.broker_away -= 1
            raise ConnectionError("no broker")
        self.topic.append(record)
        self.log.append("published")
        if self.loses_all:
            self.desk.end()
        if self.comes_at_once and isinstance(record, Notification):
            await self.desk.take_notification(Event(record))

    def put(self, notification: Notification) -> None:
        if self.disk_full:
            raise OSError("no space left on device")
        self.put_away.append(notification)
        self.log.append("put")

    async def take(self, *alerts: Alert) -> list[Event]:
        events = []
        for alert in alerts:
            self.now = max(self.now, (alert.at_ns - at(0)) / 1e9)
            event = Event(alert)
            await self.desk.take_alert(event)
            self.desk.hold(event)
            events.append(event)
        return events

    @property
    def states(self) -> list[str]:
        return [one.state for one in self.put_away]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "RETRY_SECONDS", 0.001)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    class Hearing:
        """Hears the world's topic."""

        def __init__(self, *_: object) -> None:
            self.place = 0

        def read(self, _: float) -> list[Record]:
            new = world.topic[self.place :]
            self.place = len(world.topic)
            return new

        def ends(self) -> dict[tuple[str, int], int]:
            return {("all", 0): len(world.topic)}

        def has_reached(self, ends: dict[tuple[str, int], int]) -> bool:
            return self.place >= ends["all", 0]

    monkeypatch.setattr(notices, "Hearing", Hearing)
    return world


def run(world: World, life: Callable[[], Awaitable[None]], *, active: bool = True) -> None:
    """Let a worker live."""

    async def both() -> None:
        hearing = asyncio.create_task(world.desk.hear(KafkaSettings(), lambda: False))
        if active:
            world.desk.begin()
        await asyncio.wait_for(life(), 10)
        hearing.cancel()

    asyncio.run(both())


def test_an_alert_is_read_once_it_is_told(world: World) -> None:
    one, two = Trouble("h1:1", 1), Trouble("h1:2", 1)

    async def life() -> None:
        [first, second] = await world.take(one.fire(2.0), two.fire(2.1))
        assert (first.acknowledged, second.acknowledged) == (True, False)
        await world.desk.tick()
        assert not second.acknowledged
        world.now = 3.1
        await world.desk.tick()
        assert second.acknowledged

    run(world, life)
    assert world.states == ["firing", "updated"]
    assert world.log == ["published", "put"] * 2


def test_what_was_told_before_is_heard_before_the_first_alert(world: World) -> None:
    one = Trouble("h1:1", 1)
    alerts = [one.fire(), one.resolve(20)]

    async def first() -> None:
        await world.take(alerts[0])

    async def second() -> None:
        await world.take(*alerts)
        for record in world.topic[1:]:
            await world.desk.take_notification(Event(record))

    run(world, first)
    world.start()
    run(world, second)
    assert [one.revision for one in world.put_away] == [0, 1]
    assert world.states == ["firing", "resolved"]


def test_a_worker_that_stands_by_tells_nothing_and_takes_no_alert(world: World) -> None:
    async def life() -> None:
        await world.desk.tick()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.take(Trouble("h1:1", 1).fire()), 0.2)

        assert world.desk.has_heard

    run(world, life, active=False)
    assert world.topic == []


def test_what_is_published_and_not_handed_over_is_handed_over_by_the_next_worker(
    world: World,
) -> None:
    one = Trouble("h1:1", 1)
    world.disk_full = True

    async def first() -> None:
        await world.take(one.fire())

    async def second() -> None:
        world.disk_full = False
        for record in list(world.topic):
            await world.desk.take_notification(Event(record))
            await world.desk.take_notification(Event(record))

    run(world, first)
    assert world.put_away == []
    world.start()
    run(world, second)
    assert world.states == ["firing"]


def test_while_a_disk_is_full_the_order_is_kept(world: World) -> None:
    one = Trouble("h1:1", 1)

    async def life() -> None:
        world.disk_full = True
        await world.take(one.fire())
        delivery = asyncio.create_task(world.desk.take_notification(Event(world.topic[0])))
        await asyncio.sleep(0.01)
        assert not delivery.done()
        world.disk_full = False
        await world.take(one.resolve(20))
        await delivery
        for record in world.topic:
            await world.desk.take_notification(Event(record))

    run(world, life)
    assert world.states == ["firing", "resolved"]


def test_what_kafka_does_not_take_is_published_again(world: World) -> None:
    world.broker_away = 3

    async def life() -> None:
        [event] = await world.take(Trouble("h1:1", 1).fire())
        assert event.acknowledged

    run(world, life)
    assert world.log == ["published", "put"]


def test_what_is_silenced_is_published_only(world: World) -> None:
    silence = Silence(
        silence_id="s", at_ns=at(0), begin_ns=at(0), end_ns=at(99), matchers={"host": "h1"}
    )
    world.topic.append(silence)

    async def life() -> None:
        await world.take(Trouble("h1:1", 1).fire())

    run(world, life)
    assert world.put_away == []
    assert [type(one) for one in world.topic] == [Silence, Notification]


def test_an_acknowledgement_is_heard_and_told_to_the_topic(world: World) -> None:
    one = Trouble("h1:1", 1)

    async def life() -> None:
        await world.take(one.fire())
        said = Acknowledgement(incident_id=one.incident_id, at_ns=at(2), by="ada")
        world.topic.append(said)
        world.now = 5.0
        while not any(getattr(one, "acknowledged_by", None) for one in world.topic):
            await asyncio.sleep(0.01)
            await world.desk.tick()

    run(world, life)
    assert world.states == ["firing", "updated"]


def test_what_is_held_is_not_read_when_the_partitions_are_lost(world: World) -> None:
    async def life() -> None:
        events = await world.take(Trouble("h1:1", 1).fire(2.0), Trouble("h1:2", 1).fire(2.1))
        world.desk.end()
        world.now = 5.0
        await world.desk.tick()
        assert world.states == ["firing"]
        world.desk.begin()
        while len(world.states) < 2:
            await asyncio.sleep(0.01)
            await world.desk.tick()
        assert [one.acknowledged for one in events] == [True, False]

    run(world, life)


def test_an_incident_that_is_bad_enough_asks_for_a_capture(world: World) -> None:
    alert = replace(Trouble("h1:1", 1, severity="page").fire())

    async def life() -> None:
        await world.take(alert, alert)

    run(world, life)
    assert [type(one) for one in world.topic] == [Notification, Capture]


def test_what_was_published_before_a_crash_is_not_overtaken_by_the_next_worker(
    world: World,
) -> None:
    one = Trouble("h1:1", 1)

    async def first() -> None:
        world.disk_full = True
        await world.take(one.fire())

    async def second() -> None:
        world.disk_full = False
        await world.take(one.resolve(20))
        assert world.states == []
        for record in list(world.topic):
            await world.desk.take_notification(Event(record))

    run(world, first)
    world.start()
    run(world, second)
    assert [one.revision for one in world.put_away] == [0, 1]


def test_what_waits_for_a_full_disk_is_not_overtaken_after_a_rebalance(world: World) -> None:
    one = Trouble("h1:1", 1)

    async def life() -> None:
        world.disk_full = True
        await world.take(one.fire())
        world.desk.end()
        world.desk.begin()
        world.disk_full = False
        await world.take(one.resolve(20))
        assert world.states == []
        for record in list(world.topic):
            await world.desk.take_notification(Event(record))

    run(world, life)
    assert [one.revision for one in world.put_away] == [0, 1]


def test_a_disk_that_was_full_keeps_back_no_later_incident(world: World) -> None:
    one, two, three = (Trouble(f"h{n}:1", 100 * n, host=f"h{n}") for n in (1, 2, 3))

    async def life() -> None:
        world.disk_full = True
        await world.take(one.fire())
        world.disk_full = False
        world.comes_at_once = True
        await world.take(two.fire(201))
        world.comes_at_once = False
        await world.desk.take_notification(Event(world.topic[0]))
        await world.take(three.fire(301))

    run(world, life)
    engines = [member.engine_id for one in world.put_away for member in one.members]
    assert engines == ["h2:1", "h1:1", "h3:1"]


def test_a_worker_that_lost_its_partitions_while_it_waited_publishes_no_more(world: World) -> None:
    one = Trouble("h1:1", 1)

    async def life() -> None:
        world.broker_away = 1_000_000
        taken = asyncio.create_task(world.take(one.fire()))
        await asyncio.sleep(0.05)
        assert world.broker_away < 1_000_000
        world.desk.end()
        world.broker_away = 0
        [event] = await taken
        await world.desk.tick()
        assert (world.topic, world.put_away, event.acknowledged) == ([], [], False)
        # Nobody else told it: it is told once the partitions are back.
        world.desk.begin()
        while not world.topic:
            await asyncio.sleep(0.01)
            await world.desk.tick()

    run(world, life)
    assert world.log == ["published", "put"]


def test_what_another_worker_told_meanwhile_is_not_told_again(world: World) -> None:
    one = Trouble("h1:1", 1)

    async def life() -> None:
        world.broker_away = 1_000_000
        alert = one.fire()
        taken = asyncio.create_task(world.take(alert))
        await asyncio.sleep(0.05)
        world.desk.end()
        world.broker_away = 0
        await taken
        world.topic += Correlator().add(alert, alert.at_ns)
        world.desk.begin()
        await world.take(alert)
        await world.desk.tick()

    run(world, life)
    assert len(world.topic) == 1


def test_what_is_published_while_the_partitions_are_lost_is_left_to_the_next_worker(
    world: World,
) -> None:
    async def life() -> None:
        world.loses_all = True
        await world.take(Trouble("h1:1", 1).fire())

    run(world, life)
    assert (world.log, world.put_away) == (["published"], [])


@pytest.mark.parametrize("what", ["alert", "tick"])
def test_a_worker_that_lost_its_partitions_while_another_step_ran_begins_no_step(
    world: World, what: str
) -> None:
    one, two = Trouble("h1:1", 1), Trouble("h2:1", 2.5, host="h2")

    async def life() -> None:
        await world.take(one.fire(2.0), one.alert("updated", 2.1))
        world.now = 9.0
        # Another step has its turn.
        await world.desk._turn.acquire()
        step = world.take(two.fire(3)) if what == "alert" else world.desk.tick()
        waits = asyncio.ensure_future(step)
        await asyncio.sleep(0.01)
        world.desk.end()
        world.desk._turn.release()
        await asyncio.sleep(0.05)
        assert [one.state for one in world.put_away] == ["firing"]
        assert not world.desk.correlator.find("h2:1@2.5")
        waits.cancel()

    run(world, life)
    assert len(world.topic) == 1
