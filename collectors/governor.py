"""Keep the cost of watching an engine below its budget: the engine's safety comes first.

What counts is all CPU that the watching of one engine takes: the thread that reads the engine and
the Python thread that turns what it read into records. What can be lowered are the rates, and
they decide the first of the two only.
"""

from dataclasses import dataclass
from typing import Literal

# Below this, iterations of a few milliseconds would be missed by the dozen.
LOWEST_POLL_HZ = 250
# Fewer stacks than this would not name the phase that got slower, and save next to nothing.
LOWEST_STACK_HZ = 25

# Rates are given back at a cost below this share of the budget: what doubles then stays below it.
GIVE_BACK_BELOW = 0.4
# While the reading thread takes less than this share of the budget, lower polls would not help.
WORTH_LOWERING = 0.25
# Judgements in a row that must be cheap before rates are given back. It doubles each time that
# they had to be taken away again soon after.
FIRST_PATIENCE = 2
LONGEST_PATIENCE = 32

State = Literal["as_wanted", "lowered", "floor"]


@dataclass(frozen=True, slots=True)
class Rates:
    """How often an engine is read per second."""

    poll_hz: int
    stack_hz: int


class Meter:
    """Turn the running total of a CPU clock into a share of one core."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def ratio(self, used_ns: int | None, now_ns: int) -> float | None:
        """Give the share since the last call.

        None the first time, and where the total ran backwards because another thread took over.

        Args:
            used_ns: CPU time since the thread began; None where there is no thread now.

            now_ns: Monotonic time.
        """
        last, self._last = self._last, None if used_ns is None else (used_ns, now_ns)
        if last is None or used_ns is None or used_ns < last[0] or now_ns <= last[1]:
            return None
        return (used_ns - last[0]) / (now_ns - last[1])


class Governor:
    """Lower the rates while watching costs more than allowed, and give them back when it does not.

    Stacks go first, down to 25 a second: they only say more of an iteration that is timed anyway.
    Then the reads of the counter go, down to 250 a second, as long as it is they that cost.

    Args:
        wanted: The configured rates.

        budget_ratio: Share of one core that watching one engine may cost.

    Attributes:
        rates: What holds now.

        state: ``as_wanted``, ``lowered``, or ``floor`` where watching is over its budget and
            nothing is left to lower.

        reason: Why, in words; empty as long as nothing was ever changed.
    """

    def __init__(self, wanted: Rates, budget_ratio: float) -> None:
        self._wanted = wanted
        self._budget_ratio = budget_ratio
        self._patience = FIRST_PATIENCE
        # Judgements in a row that were cheap, and judgements since rates were given back.
        self._cheap = 0
        self._given_back: int | None = None
        self.rates = wanted
        self.state: State = "as_wanted"
        self.reason = ""

    def judge(self, reader_ratio: float, watcher_ratio: float = 0.0) -> Rates | None:
        """Give new rates where the measured shares of a core ask for it, else None.

        Args:
            reader_ratio: Share of a core that the thread which reads the engine took.

            watcher_ratio: The same of the Python thread behind it.
        """
        cost_ratio = reader_ratio + watcher_ratio
        if self._given_back is not None:
            self._given_back += 1
        if cost_ratio > self._budget_ratio:
            self._cheap = 0
            return self._lower(reader_ratio, cost_ratio)
        self._cheap = self._cheap + 1 if cost_ratio < self._budget_ratio * GIVE_BACK_BELOW else 0
        if self._given_back is not None and self._given_back > 2 * self._patience:
            # It held: the next time need not wait as long.
            self._given_back, self._patience = None, FIRST_PATIENCE
        if self.state == "floor":
            self.state = "lowered" if self.rates != self._wanted else "as_wanted"
        if self.rates == self._wanted or self._cheap < self._patience:
            return None
        self._cheap = 0
        self._given_back = 0
        return self._change(self._raised(), cost_ratio, "is well within")

    def _lower(self, reader_ratio: float, cost_ratio: float) -> Rates | None:
        if self._given_back is not None and self._given_back <= 2 * self._patience:
            self._patience = min(self._patience * 2, LONGEST_PATIENCE)
        self._given_back = None
        rates = self._lowered(reader_ratio, far_above=cost_ratio > 2 * self._budget_ratio)
        if rates == self.rates:
            self.state = "floor"
            self.reason = (
                f"watching takes {100 * cost_ratio:.1f} % of a core, over its budget of "
                f"{100 * self._budget_ratio:.1f} %, and lower rates would not change that"
            )
            return None
        return self._change(rates, cost_ratio, "is over")

    def _lowered(self, reader_ratio: float, *, far_above: bool) -> Rates:
        poll_hz, stack_hz = self.rates.poll_hz, self.rates.stack_hz
        fewest = min(LOWEST_STACK_HZ, self._wanted.stack_hz)
        if stack_hz > fewest:
            return Rates(poll_hz, fewest if far_above else max(stack_hz // 2, fewest))
        if reader_ratio <= self._budget_ratio * WORTH_LOWERING:
            return self.rates
        floor = min(LOWEST_POLL_HZ, self._wanted.poll_hz)
        return Rates(max(poll_hz // (4 if far_above else 2), floor), stack_hz)

    def _raised(self) -> Rates:
        poll_hz, stack_hz = self.rates.poll_hz, self.rates.stack_hz
        if poll_hz < self._wanted.poll_hz:
            return Rates(min(poll_hz * 2, self._wanted.poll_hz), stack_hz)
        return Rates(poll_hz, min(stack_hz * 2, self._wanted.stack_hz))

    def _change(self, rates: Rates, cost_ratio: float, how: str) -> Rates:
        self.rates = rates
        self.state = "as_wanted" if rates == self._wanted else "lowered"
        self.reason = (
            f"watching takes {100 * cost_ratio:.1f} % of a core, which {how} its budget of "
            f"{100 * self._budget_ratio:.1f} %"
        )
        return rates
