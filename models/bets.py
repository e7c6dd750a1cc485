"""Turn how unusual single values are into evidence that something changed.

References:
    Shin, Ramdas, Rinaldo: E-detectors: a nonparametric framework for sequential change detection,
    New England Journal of Statistics in Data Science 2, 2023.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

# An alarm stands on at least this much time: a burst of requests or one collection of garbage may
# hold up some values in a row.
LEAST_ALARM_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Bet:
    """A bet that values are beyond what has the chance `bound`.

    Attributes:
        won: What is added to the evidence if one is; likewise ``lost`` if it is not.

        over: An alarm is over when so much is gone again.
    """

    bound: float
    won: float
    lost: float
    over: float

    @classmethod
    def of(cls, bound: float, share: float, lost_bets: int) -> "Bet":
        """Bet this share of the fortune each time; so many lost bets end an alarm."""
        lost = math.log(1 - share)
        return cls(bound, math.log(1 - share + share / bound), lost, (0.5 - lost_bets) * lost)


@dataclass(slots=True)
class Bets:
    """Bet again and again that values are longer than usual; the winnings are the evidence.

    Two sums of ln(winnings), each restarted at 0: ``steady`` bets on values beyond the usual one in
    twenty, ``sparse`` on those beyond one in a thousand. Where nothing changed no bet wins in the
    mean, so a sum reaches `limit` once in exp(limit) batches at most.

    Args:
        limit: The sum that is an alarm.
    """

    limit: float
    steady: float = 0.0
    sparse: float = 0.0
    since_ns: int = 0
    fired_by: str = ""

    STEADY: ClassVar[Bet] = Bet.of(0.05, 0.5, 5)
    SPARSE: ClassVar[Bet] = Bet.of(0.001, 0.1, 40)

    @property
    def score(self) -> float:
        """Evidence over its limit; 1 and above is an alarm."""
        score = max(self.steady, self.sparse) / self.limit
        return max(score, 1.0) if self.fired_by else min(score, 1 - 1e-9)

    def add(self, chance: float, at_ns: int) -> None:
        """Take in how usual the next value is."""
        if self.steady <= 0 and self.sparse <= 0:
            self.since_ns = at_ns
            if chance > self.STEADY.bound:
                return
        self.steady = self._added(self.steady, chance, self.STEADY)
        self.sparse = self._added(self.sparse, chance, self.SPARSE)
        if not self.fired_by and at_ns - self.since_ns < LEAST_ALARM_NS:
            return
        if self.steady >= self.limit:
            # It clears sooner, so it decides where both fire.
            self.fired_by = "steady"
        elif not self.fired_by and self.sparse >= self.limit:
            self.fired_by = "sparse"
        elif self._is_over():
            self.rest()

    def rest(self) -> None:
        """Start anew."""
        self.steady = self.sparse = 0.0
        self.fired_by = ""

    def _added(self, total: float, chance: float, bet: Bet) -> float:
        total += bet.won if chance <= bet.bound else bet.lost
        return min(max(0.0, total), self.limit)

    def _is_over(self) -> bool:
        if self.fired_by == "steady":
            return self.steady <= self.limit - self.STEADY.over
        return self.fired_by == "sparse" and self.sparse <= self.limit - self.SPARSE.over

    def to_state(self) -> list[Any]:
        """Give everything as plain data."""
        return [self.steady, self.sparse, self.since_ns, self.fired_by]

    def restore(self, state: list[Any]) -> None:
        """Take it back."""
        self.steady, self.sparse, self.since_ns, self.fired_by = state
