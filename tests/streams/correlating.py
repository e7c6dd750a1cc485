"""A correlator in a made-up world: what tests of it share."""

from __future__ import annotations

from schemas.records import Alert, Notification, Silence
from streams.correlate import Correlator
from streams.correlated import is_delivered
from tests.streams.made_alerts import SECOND_NS, Trouble, at


class World:
    """A correlator whose clock is that of the alerts; `told` is all that it said."""

    def __init__(self, correlator: Correlator | None = None) -> None:
        self.correlator = correlator or Correlator()
        self.told: list[Notification] = []
        self.second = 0

    def take(self, *alerts: Alert) -> list[Notification]:
        """Let alerts come at their times."""
        new: list[Notification] = []
        for alert in alerts:
            new += self.pass_time((alert.at_ns - at(0)) / SECOND_NS)
            found = self.correlator.add(alert, alert.at_ns)
            self.told += found
            new += found
        return new

    def pass_time(self, until: float) -> list[Notification]:
        """Let the clock tick up to then."""
        new: list[Notification] = []
        while self.second + 1 <= until:
            self.second += 1
            new += self.correlator.tick(at(self.second))
        self.told += new
        return new

    @property
    def delivered(self) -> list[Notification]:
        """What people got to see."""
        return [one for one in self.told if is_delivered(one)]


def engines(notification: Notification) -> list[str]:
    """Give the engines of a notification's members."""
    return [one.engine_id for one in notification.members]


def states(notifications: list[Notification]) -> list[str]:
    """Give the states that were told."""
    return [one.state for one in notifications]


def flap(world: World, trouble: Trouble, begins: list[float], lasts: float = 10) -> list[Trouble]:
    """Let a trouble come and go."""
    found = [trouble.again(begin) for begin in begins]
    for one in found:
        world.take(one.fire(), one.resolve(one.begin + lasts))
    return found


def silence(begin: float, end: float, **matchers: str) -> Silence:
    """Make a silence."""
    return Silence(
        silence_id="s1", at_ns=at(begin), begin_ns=at(begin), end_ns=at(end), matchers=matchers
    )


def restarted(world: World) -> World:
    """Give a world whose correlator has heard what that of another told, twice."""
    again = World()
    again.told, again.second = world.told, world.second
    for one in [*world.told, *world.told]:
        again.correlator.hear(one)
    return again
