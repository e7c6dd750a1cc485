"""Where engines live: their hosts, ports, processes and accelerators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import Role
from simulator.fleet.setting import Setting

FIRST_PORT = 8000
MOST_RANKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an engine lives.

    Attributes:
        host_number: Of its host; ``slot`` is its place there, from 0.
    """

    engine_id: str
    host: str
    host_number: int
    slot: int
    port: int

    @property
    def server_pid(self) -> int:
        """The process that clients talk to."""
        return 2000 + 100 * self.slot

    @property
    def core_pid(self) -> int:
        """The process that iterates."""
        return self.server_pid + 10

    def processes(self, setting: Setting) -> list[tuple[int, Role, int | None]]:
        """List pid, role and rank."""
        found: list[tuple[int, Role, int | None]] = [
            (self.server_pid, "api_server", None),
            (self.core_pid, "engine_core", 0),
        ]
        if setting.ranks > 1:
            role: Role = setting.rank_role
            first = 0 if role == "worker" else 1
            for rank in range(first, setting.ranks):
                found.append((self.core_pid + 1 + rank, role, rank))
        elif setting.worker_apart:
            found.append((self.core_pid + 1, "worker", 0))
        return found

    def device_ids(self, setting: Setting) -> tuple[str, ...]:
        """Name the accelerators, one for each rank."""
        if setting.device is None:
            return ()
        return tuple(
            f"GPU-{self.host}-{self.device_index(rank):03d}" for rank in range(setting.ranks)
        )

    def device_index(self, rank: int) -> int:
        """Give a rank's accelerator; an engine that gets more ranks takes none of another's."""
        return MOST_RANKS * self.slot + rank


def places_of(settings: Sequence[Setting], host_prefix: str) -> list[Place]:
    """Put engines that follow each other onto hosts until those are full."""
    places: list[Place] = []
    host_number, slot, room = 0, 0, 0
    for row, setting in enumerate(settings):
        fitting = setting.engines_per_host
        if setting.device is not None:
            fitting = min(fitting, max(setting.devices_per_host // setting.ranks, 1))
        is_other = row > 0 and setting.host != settings[row - 1].host
        if row == 0 or slot >= min(room, fitting) or is_other:
            host_number, slot, room = host_number + (row > 0), 0, fitting
        host = f"{host_prefix}-{host_number:04d}"
        port = FIRST_PORT + slot
        places.append(
            Place(
                engine_id=f"{host}:{port}",
                host=host,
                host_number=host_number,
                slot=slot,
                port=port,
            )
        )
        slot += 1
    return places
