"""Keep the cost of reading an engine below its budget: the engine's safety comes first.

What is governed is what the rates decide: the CPU of the sampler's thread. The rest of the agent
costs by the iteration, and its share is reported.
"""

from dataclasses import dataclass

# Below this, iterations of a few milliseconds would be missed by the dozen.
LOWEST_POLL_HZ = 250


@dataclass(frozen=True, slots=True)
class Rates:
    """How often an engine is read per second."""

    poll_hz: int
    stack_hz: int


class Governor:
    """Halve the rates while reading costs more than allowed, and give them back when it does not.

    Args:
        wanted: The configured rates.

        budget_ratio: Share of one core that reading one engine may cost.
    """

    def __init__(self, wanted: Rates, budget_ratio: float) -> None:
        self._wanted = wanted
        self._budget_ratio = budget_ratio
        self.rates = wanted

    def judge(self, cpu_ratio: float) -> Rates | None:
        """Give new rates where the measured share of a core asks for it, else None.

        Doubling back needs a cost below a quarter of the budget, so that it does not swing.
        """
        rates = self.rates
        if cpu_ratio > self._budget_ratio and rates.poll_hz > LOWEST_POLL_HZ:
            rates = Rates(max(rates.poll_hz // 2, LOWEST_POLL_HZ), rates.stack_hz // 2)
        elif cpu_ratio < self._budget_ratio / 4 and rates != self._wanted:
            rates = Rates(
                min(rates.poll_hz * 2, self._wanted.poll_hz),
                min(max(rates.stack_hz * 2, 1), self._wanted.stack_hz),
            )
        if rates == self.rates:
            return None
        self.rates = rates
        return rates
