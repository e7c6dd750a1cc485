"""What engines must share for a cause of the one to be the cause of the other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Scope = Literal["host", "device", "engine", "vague"]
"""``host``: all engines there may feel it; ``device``: those on one accelerator; ``engine``: it is
this engine's own; ``vague``: where to look, not what it is."""

SCOPES: dict[str, Scope] = {
    "host_cpu_contention": "host",
    "host_cpu_steal": "host",
    "host_cpu_frequency": "host",
    "run_queue_delay": "host",
    "interrupt_load": "host",
    "memory_bandwidth": "host",
    "memory_pressure": "host",
    "disk_pressure": "host",
    "network_delay": "host",
    # The links are the host's, whichever of its accelerators they join.
    "pcie_contention": "host",
    "fabric_contention": "host",
    "accelerator_clock": "device",
    "accelerator_contention": "device",
    "accelerator_memory": "device",
    # A quota is that of one control group, which is one engine's.
    "cpu_quota": "engine",
    "kv_exhaustion": "engine",
    "compilation": "engine",
    "frontend_slower": "engine",
    "clients_slow": "engine",
    "load": "engine",
}
"""The scope of each cause that has one; the others are vague."""


def scope_of(cause: str) -> Scope:
    """Give a cause's scope; one that was named only lately has that of its resource.

    >>> scope_of("memory_pressure"), scope_of("accelerator_power"), scope_of("forward_slower")
    ('host', 'device', 'vague')
    """
    if cause in SCOPES:
        return SCOPES[cause]
    for prefix, scope in PREFIXES.items():
        if cause.startswith(prefix):
            return scope
    return "vague"


PREFIXES: dict[str, Scope] = {"host_": "host", "accelerator_": "device", "cpu_quota": "engine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an engine's trouble is, and since when; ``host`` is None where it is not known."""

    engine_id: str
    cause: str
    begin_ns: int
    host: str | None = None
    device_ids: tuple[str, ...] = ()

    def shared_names(self) -> list[str]:
        """Name what all engines share that may feel this cause, the engine itself included."""
        names = [f"engine:{self.engine_id}"]
        scope = scope_of(self.cause)
        if scope == "host" and self.host is not None:
            names.append(f"host:{self.host}")
        if scope == "device":
            names += [f"device:{one}" for one in self.device_ids]
        return names


class Whereabouts:
    """Which incidents have engines on a host, on a device, or a certain engine."""

    def __init__(self) -> None:
        # As ordered sets.
        self._ids: dict[str, dict[str, None]] = {}
        self._names: dict[str, set[str]] = {}

    def add(self, place: Place, incident_id: str) -> None:
        """Note that an incident has an engine there."""
        for name in _names_of(place):
            self._ids.setdefault(name, {})[incident_id] = None
            self._names.setdefault(incident_id, set()).add(name)

    def forget(self, incident_id: str) -> None:
        """Drop an incident that is over."""
        for name in self._names.pop(incident_id, ()):
            del self._ids[name][incident_id]
            if not self._ids[name]:
                del self._ids[name]

    def near(self, place: Place) -> list[str]:
        """Give the incidents that have something in common with a place."""
        found = (one for name in _names_of(place) for one in self._ids.get(name, ()))
        return list(dict.fromkeys(found))

    def with_engine(self, engine_id: str) -> list[str]:
        """Give the incidents that have this engine."""
        return list(self._ids.get(f"engine:{engine_id}", ()))


def _names_of(place: Place) -> list[str]:
    devices = [f"device:{one}" for one in place.device_ids]
    host = [] if place.host is None else [f"host:{place.host}"]
    return [f"engine:{place.engine_id}", *host, *devices]


def shared_by(one: Place, other: Place, at_once_ns: int) -> str | None:
    """Name what two engines share that makes their trouble one, or give None.

    Args:
        one: Any of the two.

        other: The other one.

        at_once_ns: What begins within so long of each other on one host is one trouble even
            where nobody can name it.
    """
    scopes = {scope_of(one.cause), scope_of(other.cause)}
    if "engine" in scopes:
        return None
    host = f"host:{one.host}" if one.host is not None and one.host == other.host else None
    if scopes == {"host"}:
        return host
    if "device" in scopes and "host" not in scopes:
        device = _first_shared(one.device_ids, other.device_ids)
        if device is not None or scopes == {"device"}:
            return device
    if scopes == {"host", "vague"}:
        return host
    at_once = abs(one.begin_ns - other.begin_ns) <= at_once_ns
    return host if "vague" in scopes and at_once else None


def _first_shared(ids: Iterable[str], others: Iterable[str]) -> str | None:
    both = sorted(set(ids) & set(others))
    return f"device:{both[0]}" if both else None
