"""All that was learnt of one engine in one setting: to keep, to shelve, to restore."""

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from models.judge import WARM_BATCHES, Calibration, Judge
from models.phases import Surroundings
from models.progress import Progress
from schemas.records import Source
from streams.peers import Peers, Start

log = logging.getLogger("latencyprism.analyze")

# Intervals that are learnt before any is called slow.
WARM_INTERVALS = 40

Kind = Literal["single", "interval"]
KINDS: tuple[Kind, ...] = ("single", "interval")

Part = TypeVar("Part")


class Learnt:
    """What is normal for an engine: one for each setting that it runs in.

    Args:
        false_incidents_per_week: How many the user puts up with.

        start: Looks at how it began; by default nothing is known of peers.
    """

    def __init__(self, false_incidents_per_week: float = 1.0, start: Start | None = None) -> None:
        self._budget = false_incidents_per_week
        # Interval means and single iterations are different quantities: each has its own judge.
        self.judges: dict[Kind, Judge] = {}
        self.surroundings = Surroundings(false_incidents_per_week)
        self.progress = Progress()
        self.start = start or Start(Peers())

    @property
    def batches(self) -> int:
        """Batches that were learnt."""
        return sum(judge.learnt for judge in self.judges.values())

    def judge_of(self, source: Source) -> Judge:
        """Give the judge of what is read on this rung."""
        kind: Kind = "interval" if source == "metrics" else "single"
        judge = self.judges.get(kind)
        if judge is None:
            # An interval is the mean of many batches.
            warm_batches = WARM_INTERVALS if kind == "interval" else WARM_BATCHES
            judge = self.judges[kind] = Judge(warm_batches, self._budget)
        return judge

    def adopt(self, kind: Kind) -> float | None:
        """Take the slowdown of the present alarm as normal; give how many times as long it is."""
        judge = self.judges.get(kind)
        factors = (judge.adopt() if judge else None, self.surroundings.adopt())
        return next((one for one in factors if one is not None), None)

    def calibrations(self) -> dict[Kind, Calibration]:
        """Give how the judges' thresholds came about."""
        return {kind: judge.calibration() for kind, judge in self.judges.items()}

    def settle(self) -> None:
        """The engine's process is a new one: its first batches say nothing of it."""
        for judge in self.judges.values():
            judge.settle()
        self.surroundings.forget_last()
        self.progress.restart()

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {
            "judges": {kind: judge.to_state() for kind, judge in self.judges.items()},
            "surroundings": self.surroundings.to_state(),
            "progress": self.progress.to_state(),
            "start": self.start.to_state(),
        }

    @classmethod
    def from_state(
        cls,
        engine_id: str,
        state: dict[str, Any],
        false_incidents_per_week: float = 1.0,
        start: Start | None = None,
    ) -> "Learnt":
        """Go on from a state; what another version wrote and cannot be read is learnt anew."""
        learnt = cls(false_incidents_per_week, start)
        if "start" in state:
            _read(engine_id, "comparison with peers", learnt.start.restore, state["start"])
        for kind in KINDS:
            if kind in state["judges"]:
                # What is put up with is as configured now, not when this was written.
                found = state["judges"][kind] | {"budget": false_incidents_per_week}
                judge = _read(engine_id, f"{kind} baseline", Judge.from_state, found)
                if judge is not None:
                    learnt.judges[kind] = judge
        if "surroundings" in state:

            def restored(one: Any) -> Surroundings:
                surroundings = Surroundings(false_incidents_per_week)
                surroundings.restore(one)
                return surroundings

            around = _read(engine_id, "gaps and phases", restored, state["surroundings"])
            learnt.surroundings = around or learnt.surroundings
        if "progress" in state:
            found = _read(engine_id, "pace", lambda one: Progress(**one), state["progress"])
            learnt.progress = found or learnt.progress
        return learnt


def _read(engine_id: str, what: str, read: Callable[[Any], Part], state: Any) -> Part | None:
    try:
        return read(state)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as err:
        log.warning("%s: its %s cannot be read (%s) and is learnt anew.", engine_id, what, err)
        return None
