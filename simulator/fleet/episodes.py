"""What happens to a fleet and when: faults and negative controls, from text or at random."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, cast, get_args

from schemas.records import FaultKind, FaultSeverity, HostReading, ProcessReading, XpuReading
from simulator import controls, faults
from simulator.fleet.effect import Change, Effect
from simulator.fleet.setting import Setting

SEVERITIES: tuple[FaultSeverity, ...] = ("light", "medium", "heavy")
# What a baseline needs before anything may happen, and how long things last.
FIRST_SECONDS = 60.0
LAST_SECONDS = 10.0
EPISODE_SECONDS = (20.0, 45.0)
PAUSE_SECONDS = (40.0, 90.0)

_SEVERITY_OF: dict[str | None, FaultSeverity] = {name: name for name in SEVERITIES}
_TEXT = re.compile(
    r"(?P<name>\w+)(:(?P<strength>[\w.]+))?@(?P<begin>[\d.]+)-(?P<end>[\d.]+)"
    r"(/(?P<first>\d+)(-(?P<last>\d+))?)?"
)


class Control(Protocol):
    """A negative control as the fleet uses it: `simulator.controls` has them."""

    def at(self, progress: float, setting: Setting) -> Setting:
        """Give the setting at some point of the episode, from 0 to 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A fault or control for some time.

    Attributes:
        name: Of a fault in `simulator.faults` or a control in `simulator.controls`.

        begin_seconds: Since the simulation began; likewise ``end_seconds``.

        severity: Of a fault; None where ``intensity`` says how hard.

        engines: Numbers of the engines; None for all. A fault of a host hits all that share it.
    """

    name: str
    begin_seconds: float
    end_seconds: float
    severity: FaultSeverity | None = None
    intensity: float | None = None
    engines: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.begin_seconds < self.end_seconds:
            raise ValueError(
                f"{self.name}: from {self.begin_seconds:g} to {self.end_seconds:g} seconds is no "
                "time: let it begin at 0 or later, and before it ends"
            )
        if self.kind == "control" and (self.severity or self.intensity is not None):
            raise ValueError(f"{self.name} is a control and has no severity: leave it out")

    @property
    def kind(self) -> FaultKind:
        """Which of the two it is.

        Raises:
            ValueError: Nothing of that name.
        """
        if self.name in faults.available():
            return "fault"
        if self.name in control_names():
            return "control"
        raise ValueError(
            f"no fault or control {self.name!r}: choose one of "
            f"{', '.join([*faults.available(), *control_names()])}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an episode means, looked up once.

    Attributes:
        causes: Right answers; none for a control.

        effect: None for a control.

        control: None for a fault.

        host_wide: All engines of a host feel it.

        needs_device: Engines without an accelerator cannot feel it.
    """

    severity: FaultSeverity | None
    intensity: float
    causes: tuple[str, ...]
    intermittent: bool
    host_wide: bool
    needs_device: bool = False
    effect: Effect | None = None
    control: Control | None = None


def tell(episode: Episode) -> Told:
    """Look an episode's fault or control up.

    Raises:
        ValueError: There is none of that name, or its intensity is out of its limits.
    """
    if episode.kind == "control":
        return Told(
            severity=None,
            intensity=1.0,
            causes=(),
            intermittent=False,
            host_wide=False,
            control=load_control(episode.name),
        )
    injector = faults.load(episode.name)
    severity = episode.severity
    if severity is None and episode.intensity is None:
        severity = "medium"
    intensity = episode.intensity
    if intensity is None:
        intensity = injector.levels.of(severity or "medium")
    low, high = injector.limits
    if not low <= intensity <= high:
        raise ValueError(
            f"{episode.name}: intensity {intensity:g} is out of its limits: give {low:g} to "
            f"{high:g} {injector.unit}"
        )
    effect = injector.effect(intensity)
    check(episode.name, effect)
    return Told(
        severity=severity,
        intensity=intensity,
        causes=injector.causes,
        intermittent=injector.intermittent,
        host_wide=injector.is_host_wide(intensity),
        needs_device=bool(injector.needs.vendors),
        effect=effect,
    )


def check(name: str, effect: Effect) -> None:
    """Refuse an effect on counters that no record has."""
    for changes, record in (
        (effect.host, HostReading),
        (effect.process, ProcessReading),
        (effect.device, XpuReading),
    ):
        known = {one.name for one in fields(record) if _is_number(one.type)}
        for field in changes:
            if field not in known:
                raise ValueError(
                    f"the effect of {name} changes {field}: name a number of {record.__name__}"
                )


def control_names() -> tuple[str, ...]:
    """List the negative controls."""
    return controls.available()


def load_control(name: str) -> Control:
    """Give a negative control by name."""
    return cast(Control, controls.load(name))


def parse_episodes(text: str) -> list[Episode]:
    """Read episodes such as ``cpu_squeeze:medium@60-90,cpu_squeeze:0.7@120-150/0-7``.

    A name, for a fault how hard (a severity or a number), seconds since the begin, and numbers of
    engines where not all are meant.

    Raises:
        ValueError: One of them reads otherwise; the text quotes it.
    """
    return [_parse(part.strip()) for part in text.split(",") if part.strip()]


def random_episodes(
    seed: int,
    hosts: Sequence[Sequence[int]],
    seconds: float,
    names: Sequence[str] = (),
) -> list[Episode]:
    """Let something happen on each host now and then, by chance.

    Args:
        seed: Decides what and when.

        hosts: Numbers of the engines on each host.

        seconds: Length of the simulation.

        names: Faults and controls to choose from; all there are if it is empty.
    """
    choice = list(names) or [*faults.available(), *control_names()]
    found: list[Episode] = []
    for number, engines in enumerate(hosts):
        chance = random.Random(f"{seed}/{number}")
        at = FIRST_SECONDS + chance.uniform(0.0, PAUSE_SECONDS[1] - PAUSE_SECONDS[0])
        while at + EPISODE_SECONDS[1] + LAST_SECONDS <= seconds:
            length = chance.uniform(*EPISODE_SECONDS)
            name = chance.choice(choice)
            severity = chance.choice(SEVERITIES) if name in faults.available() else None
            found.append(
                Episode(
                    name=name,
                    severity=severity,
                    begin_seconds=round(at, 3),
                    end_seconds=round(at + length, 3),
                    engines=(chance.choice(list(engines)),),
                )
            )
            at += length + chance.uniform(*PAUSE_SECONDS)
    return found


def changed(changes: dict[str, Change], name: str, value: float, share: float) -> float:
    """Give a counter's mean over an interval of which the episode covers a share."""
    change = changes.get(name)
    return value if change is None else value + share * (change.of(value) - value)


def _is_number(kind: object) -> bool:
    return bool({int, float} & {kind, *get_args(kind)})


def _parse(text: str) -> Episode:
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(
            f"cannot read {text!r}: write name:severity@begin-end, such as cpu_squeeze:medium@60-90"
            ", with /0-7 behind it for the engines 0 to 7"
        )
    strength = found["strength"]
    severity = _SEVERITY_OF.get(strength)
    engines = None
    if found["first"] is not None:
        first = int(found["first"])
        engines = tuple(range(first, int(found["last"] or first) + 1))
    try:
        intensity = None if strength is None or severity else float(strength)
        begin_seconds, end_seconds = float(found["begin"]), float(found["end"])
    except ValueError as err:
        raise ValueError(
            f"cannot read {text!r}: a severity is {', '.join(SEVERITIES)} or a number"
        ) from err
    return Episode(
        name=found["name"],
        severity=severity,
        intensity=intensity,
        begin_seconds=begin_seconds,
        end_seconds=end_seconds,
        engines=engines,
    )
