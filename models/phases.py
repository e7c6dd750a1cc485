"""Judge what surrounds the forward pass: the gap before a batch, scheduling, post-processing.

A batch may be as quick as ever and the engine slow all the same: between two batches it takes in
requests, sends answers out and may be held up. Each part has a small baseline of its own: what it
takes by the number of requests, and how often it takes how much longer. Time in the queue is load
and no fault, so it is not judged; ``sample`` often waits for the accelerator and is part of what
the judge of the batch sees.
"""

import math
from dataclasses import dataclass
from typing import Any

from models.bets import Bets
from models.usual import LEAST, Usual, cell_of
from schemas.records import Batch, SlowPart

# Parts that the batch clock takes samples of, judged as means over so many batches.
PHASES: tuple[SlowPart, ...] = ("schedule", "postprocess")
WINDOW_BATCHES = 20

# Longer than this is no gap within a run of batches.
MOST_GAP_NS = 10_000_000_000
# What is not worth a message: less than this ...
LEAST_EXCESS_MS = 1.0
# ... or less than this share of what the batch should take.
LEAST_EXCESS_RATIO = 0.05
# Batches of a busy engine in a week, and what part of its false incidents gaps may cause.
BATCHES_PER_WEEK = 15e6
BUDGET_SHARE = 0.1
# Values before any is judged.
WARM_VALUES = 200
# From this score on a batch is under suspicion.
SUSPICION = 0.3
# Long gaps that wait to be learnt, at most.
MOST_HELD = 64
# After so many batches without a value an alarm says nothing any more.
MOST_BLIND_BATCHES = 20
IDLE_NS = 5_000_000_000


@dataclass(slots=True, kw_only=True)
class Around:
    """What surrounds one batch.

    Attributes:
        gap_ns: Time since the end of the batch before; None where that is not known, or the engine
            may have had nothing to do.

        expected_gap_ns: What is usual; None where it is not known yet.

        score: Of the gaps; 1 and above is an alarm.

        slow_parts: Parts that take too long.

        reason: A sentence about the gap while it is an alarm.
    """

    gap_ns: int | None = None
    expected_gap_ns: int | None = None
    score: float = 0.0
    slow_parts: tuple[SlowPart, ...] = ()
    reason: str = ""


class Surroundings:
    """Judge gaps and phases of one engine's batches, in order, and learn the usual ones.

    Args:
        false_incidents_per_week: How many the user puts up with; gaps may cause a tenth of these.
    """

    def __init__(self, false_incidents_per_week: float = 1.0) -> None:
        charts = 2
        budget = BUDGET_SHARE * false_incidents_per_week
        self._gap = Usual()
        self._bets = Bets(math.log(max(charts * BATCHES_PER_WEEK / budget, 100.0)))
        self._phases: dict[SlowPart, Usual] = {part: Usual() for part in PHASES}
        self._window = _new_window()
        self._slow_phases: tuple[SlowPart, ...] = ()
        self._last: _Before | None = None
        self._long_gap_ms: tuple[float, float] | None = None
        self._blind = 0
        # Long gaps: learnt once it is clear that they were nothing.
        self._held: list[tuple[int, float]] = []

    def judge(self, batch: Batch, expected_ms: float | None, *, suspect: bool) -> Around:
        """Judge what surrounds one batch.

        Args:
            batch: The next one of this engine.

            expected_ms: What the batch itself should take; None where that is not known.

            suspect: Whether the batch itself is under suspicion: then its phases are no usual ones.
        """
        gap_ns = self._gap_before(batch)
        idle = self._last is not None and batch.begin_ns - self._last.end_ns > IDLE_NS
        self._last = _Before.of(batch)
        scale_ms = expected_ms or batch.duration_ns / 1e6
        self._add_phases(batch, scale_ms, suspect=suspect)
        self._blind = 0 if gap_ns is not None else self._blind + 1
        # Where only metrics are read no gap will be known again.
        blind = batch.source == "metrics" or self._blind > MOST_BLIND_BATCHES
        if blind or (idle and not self._bets.fired_by):
            self._bets.rest()
        usual_ms = None
        if gap_ns is not None:
            usual_ms = self._judge_gap(batch, gap_ns / 1e6, scale_ms)
        score = self._bets.score
        slow: tuple[SlowPart, ...] = ("gap",) if score >= 1 else ()
        return Around(
            gap_ns=gap_ns,
            expected_gap_ns=None if usual_ms is None else round(usual_ms * 1e6),
            score=score,
            slow_parts=(*slow, *self._slow_phases) if suspect or slow else (),
            reason=self._reason(gap_ns) if slow else "",
        )

    def forget_last(self) -> None:
        """The next batch does not follow the last one: another process, or a count anew."""
        self._last = None

    def adopt(self) -> float | None:
        """Take gaps as long as those of the present alarm as usual; give how many times as long."""
        if not self._bets.fired_by or self._long_gap_ms is None:
            return None
        factor = self._long_gap_ms[0] / self._long_gap_ms[1]
        self._gap = Usual()
        self._held = []
        self._bets.rest()
        return factor

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {
            "gap": self._gap.to_state(),
            "bets": self._bets.to_state(),
            "phases": {part: usual.to_state() for part, usual in self._phases.items()},
            "window": dict(self._window),
            "slow_phases": list(self._slow_phases),
            "last": self._last.to_state() if self._last is not None else None,
            "long_gap_ms": list(self._long_gap_ms) if self._long_gap_ms is not None else None,
            "blind": self._blind,
            "held": [list(one) for one in self._held],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._gap = Usual.from_state(state["gap"])
        self._bets.restore(state["bets"])
        for part in PHASES:
            if part in state["phases"]:
                self._phases[part] = Usual.from_state(state["phases"][part])
        self._window = dict(state["window"])
        slow: list[SlowPart] = [part for part in PHASES if part in state["slow_phases"]]
        self._slow_phases = tuple(slow)
        self._last = _Before(*state["last"]) if state["last"] is not None else None
        long_gap_ms = state["long_gap_ms"]
        self._long_gap_ms = (long_gap_ms[0], long_gap_ms[1]) if long_gap_ms is not None else None
        self._blind = state["blind"]
        self._held = [(cell, gap_ms) for cell, gap_ms in state["held"]]

    def _gap_before(self, batch: Batch) -> int | None:
        """Give the time since the last batch, where the engine surely had work meanwhile."""
        last = self._last
        if last is None or batch.missed or batch.source == "metrics":
            return None
        if batch.sequence != last.sequence + 1 or not last.goes_on_in(batch):
            return None
        gap_ns = max(batch.begin_ns - last.end_ns, 0)
        return gap_ns if gap_ns < MOST_GAP_NS else None

    def _judge_gap(self, batch: Batch, gap_ms: float, batch_ms: float) -> float | None:
        cell = cell_of(batch.workload.requests or 1, bool(batch.workload.prefill_tokens))
        usual_ms = self._gap.expected(cell)
        is_long = False
        if usual_ms is not None and self._gap.values >= WARM_VALUES:
            chance = 1.0
            if gap_ms - usual_ms >= max(LEAST_EXCESS_MS, LEAST_EXCESS_RATIO * batch_ms):
                chance = self._gap.chance(usual_ms, gap_ms)
            is_long = chance <= Bets.STEADY.bound
            if is_long:
                self._long_gap_ms = (gap_ms, usual_ms)
            self._bets.add(chance, batch.end_ns)
        self._learn_gap(cell, gap_ms, is_long=is_long)
        return usual_ms

    def _learn_gap(self, cell: int, gap_ms: float, *, is_long: bool) -> None:
        score = self._bets.score
        if score >= 1:
            self._held = []
        elif is_long:
            self._held = [*self._held, (cell, gap_ms)][-MOST_HELD:]
        else:
            self._gap.learn(cell, gap_ms)
            if self._held and score == 0:
                # How rare they are is to be known; what is usual they do not move by much.
                for one in self._held:
                    self._gap.learn(*one)
                self._held = []

    def _add_phases(self, batch: Batch, expected_ms: float, *, suspect: bool) -> None:
        # Prefill takes its own time to schedule, and is rare: means are of pure decode.
        if not batch.phases or batch.workload.prefill_tokens:
            return
        window = self._window
        for one in batch.phases:
            if one.phase in window:
                window[one.phase] += one.duration_ns / 1e6
        window["batches"] += 1
        window["requests"] += batch.workload.requests or 1
        window["expected"] += expected_ms
        window["suspect"] += suspect
        if window["batches"] >= WINDOW_BATCHES:
            self._window = _new_window()
            found: list[SlowPart] = [part for part in PHASES if self._is_slow(part, window)]
            self._slow_phases = tuple(found)

    def _is_slow(self, part: SlowPart, window: dict[str, float]) -> bool:
        """Tell whether a phase took more of the expected duration than is usual, and learn it.

        As a share, for some of a phase may be waiting for the accelerator.
        """
        cell = cell_of(round(window["requests"] / window["batches"]))
        expected_ms = window["expected"] / window["batches"]
        percent = 100 * window[part] / max(window["expected"], LEAST)
        usual = self._phases[part]
        usual_percent = usual.expected(cell)
        slow = False
        if usual_percent is not None:
            excess = (percent - usual_percent) / 100
            matters = excess >= max(LEAST_EXCESS_RATIO, LEAST_EXCESS_MS / expected_ms)
            slow = matters and usual.chance(usual_percent, percent) <= Bets.STEADY.bound
        if not window["suspect"]:
            usual.learn(cell, percent)
        return slow

    def _reason(self, gap_ns: int | None) -> str:
        if self._long_gap_ms is None:
            return ""
        long_ms, usual_ms = self._long_gap_ms
        now = gap_ns is not None and gap_ns / 1e6 == long_ms
        where = "gap before the batch" if now else "gaps before batches of late"
        return f"{where}: {long_ms:.1f} ms where {usual_ms:.1f} ms is usual"


def _new_window() -> dict[str, float]:
    return dict.fromkeys((*PHASES, "batches", "requests", "expected", "suspect"), 0.0)


@dataclass(slots=True)
class _Before:
    """What has to be known of a batch to time the gap after it."""

    sequence: int
    end_ns: int
    requests: int | None
    kv_tokens: int | None

    @classmethod
    def of(cls, batch: Batch) -> "_Before":
        return cls(batch.sequence, batch.end_ns, batch.workload.requests, batch.workload.kv_tokens)

    def goes_on_in(self, batch: Batch) -> bool:
        """Tell whether a request of this batch surely is in the next one, too.

        One that decodes was prefilled before, and one with draft tokens decodes. A prompt may be in
        the prefix cache but for its last token and look like it: one that is alone is told by its
        context.
        """
        workload = batch.workload
        if not self.requests or not workload.requests:
            return False
        if workload.speculative_tokens:
            return True
        decoding = workload.decode_requests
        if decoding is None:
            decoding = workload.requests if workload.prefill_tokens == 0 else 0
        if decoding <= 0:
            return False
        if workload.requests > 1 or workload.kv_tokens is None or self.kv_tokens is None:
            return True
        least = self.kv_tokens if self.requests == 1 else 0
        return least <= workload.kv_tokens <= self.kv_tokens + (workload.scheduled_tokens or 1)

    def to_state(self) -> list[int | None]:
        return [self.sequence, self.end_ns, self.requests, self.kv_tokens]
