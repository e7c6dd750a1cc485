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
    """

    number: int
    episode: Episode
    told: Told
    rows: Ints
    hits: Flags
    begin_ns: int
    end_ns: int
    state: FaultState | None = None
    ratios: dict[int, list[float]] = field(default_factory=dict)

    def add(self, rows: Ints, ratios: Floats) -> None:
        """Take in how many times as long batches of engines took because of it."""
        for row, ratio in zip(rows.tolist(), ratios.tolist(), strict=True):
            sums = self.ratios.setdefault(row, [0.0, 0.0])
            sums[0] += ratio
            sums[1] += 1

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
        sums = [self.ratios[row] for row in engines if row in self.ratios]
        batches = sum(count for _, count in sums)
        ratio = sum(total for total, _ in sums) / batches if batches else None
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
