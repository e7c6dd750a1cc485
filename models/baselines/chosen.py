"""The physical baseline that fits the engine: one that pads its batches, or one that does not."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from models.baselines._memory import MAX_CELLS
from models.baselines.base import Baseline, Expectation, Place
from models.baselines.physical import Physical
from models.features import Features

STATE_VERSION = 1

# How quickly the errors of the two are followed. Most engines pad: one that does not shows it by
# errors that are smaller by this factor where it is taken not to.
ERROR_GAIN = 0.005
CLEARLY = 0.9
MOST_ERROR = 0.5
# Both are learnt until then; the one that is not used is then dropped.
DECIDED = 2000


class _Both(NamedTuple):
    chosen: int
    padding: Expectation
    exact: Expectation


class Chosen(Baseline):
    """Learn two physical baselines side by side, and use the one that predicts better.

    Engines with CUDA graphs pad each batch to the next size that was captured: nine requests cost
    as much as sixteen. Engines without (eager mode, CPUs) do not. Nothing tells from outside, so
    the batches do. The choice is made for good after some thousand batches.

    References:
        Herbster and Warmuth, Tracking the best expert, 1998.
    """

    def __init__(self) -> None:
        self._all: list[Physical | None] = [
            Physical(pads=pads, most_cells=MAX_CELLS // 2) for pads in (True, False)
        ]
        self._errors = [0.0, 0.0]
        self._chosen = 0
        self.learnt = 0

    @property
    def pads(self) -> bool:
        """Whether the engine is taken to pad its batches."""
        return self._chosen == 0

    def expect(self, x: Features) -> Expectation | None:
        """Say what to expect of a batch; None before the first one was learnt."""
        first, second = self._all
        if first is None or second is None:
            return self._used.expect(x)
        padding, exact = first.expect(x), second.expect(x)
        if padding is None or exact is None:
            return None
        # Known is what both know: whether five requests cost as much as eight is not clear yet.
        visits = min(padding.cell_visits, exact.cell_visits)
        found = exact if self._chosen else padding
        return found._replace(memo=_Both(self._chosen, padding, exact), cell_visits=visits)

    def learn(
        self, x: Features, expected: Expectation | None, log_ms: float, *, stable: bool = True
    ) -> None:
        """Learn one batch."""
        self.learnt += 1
        first, second = self._all
        if first is None or second is None:
            self._used.learn(x, expected, log_ms, stable=stable)
            return
        both = (None, None) if expected is None else (expected.memo.padding, expected.memo.exact)
        for place, (one, own) in enumerate(zip((first, second), both, strict=True)):
            if own is not None:
                error = min(abs(log_ms - own.log_ms), MOST_ERROR)
                self._errors[place] += ERROR_GAIN * (error - self._errors[place])
            one.learn(x, own, log_ms, stable=stable)
        self._chosen = int(self._errors[1] < CLEARLY * self._errors[0])
        if self.learnt >= DECIDED:
            self._all[1 - self._chosen] = None
            self._used.remember_all()

    def terms_ms(self, expected: Expectation) -> dict[str, float]:
        """Take an expectation apart into physical terms in ms that add up to it."""
        memo = expected.memo
        if not isinstance(memo, _Both):
            return self._used.terms_ms(expected)
        # Learning the batch may have changed the choice.
        one = self._all[memo.chosen]
        if one is None:
            return {"memory": math.exp(expected.log_ms)}
        return one.terms_ms(memo.exact if memo.chosen else memo.padding)

    @property
    def drift(self) -> float:
        """By how much places went up bit by bit since they were learnt."""
        return self._used.drift

    def roll_back(self) -> float:
        """Go back to what places were like at first."""
        return max((one.roll_back() for one in self._all if one is not None), default=0.0)

    def places(self) -> list[Place]:
        """Give what is remembered, place by place."""
        return self._used.places()

    def to_state(self) -> dict[str, Any]:
        """Give everything learnt as plain data."""
        return {
            "version": STATE_VERSION,
            "learnt": self.learnt,
            "errors": list(self._errors),
            "chosen": self._chosen,
            "all": [None if one is None else one.to_state() for one in self._all],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back.

        Raises:
            ValueError: The state is of another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"baseline state of version {state.get('version')!r}: this worker reads "
                f"{STATE_VERSION}; let the engine be learnt anew"
            )
        self.learnt, self._chosen = state["learnt"], state["chosen"]
        self._errors = list(state["errors"])
        for place, (pads, one) in enumerate(zip((True, False), state["all"], strict=True)):
            physical = None
            if one is not None:
                physical = Physical(pads=pads)
                physical.restore(one)
            self._all[place] = physical

    @property
    def _used(self) -> Physical:
        used = self._all[self._chosen]
        assert used is not None
        return used
