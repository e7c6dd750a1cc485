"""The truth about the episodes of a simulation, as `Fault` records."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.records import Fault, FaultState
from simulator.fleet.batching import Flags
from simulator.fleet.draws import Floats, Ints
from simulator.fleet.episodes import Episode, Told


@dataclass(slots=True)
class Running:
    """An episode in a simulation.

    Attributes:
        number: Its place in the schedule; decides its random numbers.

        rows: Numbers of the engines that it hits, sorted; ``hits`` says so for every engine.

        sums_ms: By engine: how long its batches took meanwhile, and would have without it.
    """

    number: int
    episode: Episode
    told: Told
    rows: Ints
    hits: Flags
    begin_ns: int
    end_ns: int
    state: FaultState | None = None
    sums_ms: dict[int, list[float]] = field(default_factory=dict)

    def add(self, rows: Ints, took_ms: Floats, without_ms: Floats) -> None:
        """Take in how long batches of engines took, and would have taken without it."""
        for row, took, without in zip(
            rows.tolist(), took_ms.tolist(), without_ms.tolist(), strict=True
        ):
            sums = self.sums_ms.setdefault(row, [0.0, 0.0])
            sums[0] += took
            sums[1] += without

    def faults(self, state: FaultState, by_host: dict[str, dict[int, str]]) -> list[Fault]:
        """Give the truth, one record for each host.

        Args:
            state: Whether it begins or ends now.

            by_host: Names of the engines on each host, by number.
        """
        return [
            self._fault(
                state, host, {row: names[row] for row in self.rows.tolist() if row in names}
            )
            for host, names in by_host.items()
            if any(row in names for row in self.rows.tolist())
        ]

    def _fault(self, state: FaultState, host: str, engines: dict[int, str]) -> Fault:
        told = self.told
        sums = [self.sums_ms[row] for row in engines if row in self.sums_ms]
        without_ms = sum(without for _, without in sums)
        ratio = sum(took for took, _ in sums) / without_ms if without_ms else None
        ended = state == "ended"
        return Fault(
            fault_id=f"{self.episode.name}-{self.number}-{host}",
            name=self.episode.name,
            kind=self.episode.kind,
            state=state,
            intensity=told.intensity,
            host=host,
            begin_ns=self.begin_ns,
            end_ns=self.end_ns if ended else None,
            severity=told.severity,
            causes=told.causes,
            engine_ids=tuple(engines.values()),
            intermittent=told.intermittent,
            simulated=True,
            true_ratio=round(ratio, 5) if ended and ratio is not None else None,
        )
