"""One engine's memory and judgement: predict, judge, and learn only what is not suspect."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from models.baselines import Baseline, Expectation, Place
from models.baselines import load as load_baseline
from models.detectors import Detector, Evidence
from models.detectors import load as load_detector
from models.detectors.sustained import Sustained
from models.features import Features, features_of
from models.residuals import Residual, Residuals
from schemas.records import Verdict, Workload

STATE_VERSION = 2

BASELINE = "chosen"
# In the order in which an alarm is told by them.
DETECTORS = ("sustained", "spikes")
# Batches before anything is called slow.
WARM_BATCHES = 200
# Batches of a restarted engine that say nothing of it: compilation, graph capture, cold caches.
SETTLING_BATCHES = 50
# A batch is an outlier when no more than one in so many healthy ones is as surprising, alone or
# together with those just before it; and it is no outlier below this many ln units.
LOG_OUTLIER_SPACING = math.log(10_000)
LEAST_OUTLIER = 0.03
ADDING_SURPRISE = 2.0
# Twice as long as a well-known workload takes is slow, however often the engine does that.
ALWAYS_OUTLIER = math.log(2)
# From so much doubt on (nats) batches of known workloads are not learnt until it is gone.
DOUBT_HOLDS = 5.0
# In the middle of an alarm only what is no surprise is learnt of workloads that are not known.
LEARNABLE_SURPRISE = 5.0
# An alarm that began on known ground keeps unknown ground from being learnt for so many batches.
HOLD_BATCHES = 500
# So much (ln) may batches become slower bit by bit before it is taken for a fault.
MOST_CREEP = 0.05
CREEP_EVERY = 16
# The end of an alarm that lasted so many batches is the end of all suspicion; one that was shorter
# may have been one of many spikes.
LASTING = 20
# How far a single batch may pull the memory, in ln units; twice as far with each in a row that is
# faster: nobody makes batches fast by mistake.
PULL = 0.10
PULL_MIXED = 1.0
PULL_NEW = 0.50
FIRST_BATCHES = 50
MOST_DOUBLED = 5
# Batches whose residuals wait at most; the oldest are then taken for healthy after all.
HOLD_SUSPECTS = 64
# The interval holds all but so many healthy batches, on either side.
OUTSIDE = 0.005
# It is never wider than ten times the expected duration.
MOST_WIDTH = math.log(10)
# After a pause like this a half-built suspicion is stale.
IDLE_NS = 5_000_000_000
# An unfinished batch is a stall when it has run so many times its expected time, and so long.
STALL_RATIO = 10.0
STALL_LEAST_MS = 2000.0
WEEK_MS = 7 * 24 * 3600 * 1000.0
# How quickly the pace of an engine is followed.
PACE_GAIN = 0.001
PACE_EVERY = 64
MOST_PACE_MS = 60_000.0


@dataclass(slots=True, kw_only=True)
class Judgement:
    """What the model thinks of one batch; times in ms, ``residual`` = ln(observed / expected).

    ``score`` of 1 and above is an alarm: an incident is to fire. A batch can be ``slow`` without
    one: an outlier that nothing explains and that stays alone. ``terms_ms`` adds up to
    ``expected_ms``.
    """

    verdict: Verdict
    reason: str
    expected_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    residual: float | None = None
    z: float | None = None
    score: float | None = None
    terms_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the threshold follows from the budget.

    Attributes:
        threshold: Of the chart for pure decode, in nats.

        exponent: How fast its false alarms thin out with the threshold; 1 is ideal.

        batches_per_week: At the engine's pace, were it busy all week.

        budget_per_week: False incidents that were asked for at most.

        expected_per_week: False incidents that its own healthy batches foretell.

        batches: Judged so far.
    """

    threshold: float
    exponent: float
    batches_per_week: float
    budget_per_week: float
    expected_per_week: float
    batches: int


class Judge:
    """Judge the batches of one engine, in order, and learn from those that are not suspect.

    Nothing that is judged slow is learnt, so a fault that lasts does not become normal.

    Args:
        warm_batches: How many are learnt before any is called slow.

        false_incidents_per_week: The one knob: how many incidents that are none an engine that is
            busy all week may raise. Thresholds follow from it and from the engine's own residuals.
    """

    def __init__(
        self, warm_batches: int = WARM_BATCHES, false_incidents_per_week: float = 1.0
    ) -> None:
        self._warm_batches = warm_batches
        self._budget = false_incidents_per_week
        self._baseline: Baseline = load_baseline(BASELINE)
        self._residuals = Residuals()
        self._detectors: dict[str, Detector] = {name: load_detector(name) for name in DETECTORS}
        # What was seen since doubt arose; learnt once it is gone, forgotten if it proves right.
        self._suspects: list[Residual] = []
        self._alarm = ""
        self._alarm_known = False
        self._alarm_run = 0
        self._unknown_run = 0
        self._pulled_run = 0
        self._offset = 0.0
        self._pace_ms = 0.0
        self._spacing = 1.0
        self._doubt = 0.0
        self._last_end_ns = 0
        self._settling = 0
        self._settled_at = 0
        self.judged = 0

    def judge(self, workload: Workload, observed_ms: float, end_ns: int) -> Judgement:
        """Judge one finished batch and learn from it.

        Args:
            workload: What it had to do.

            observed_ms: How long it took.

            end_ns: When it ended; a long pause before it clears half-built suspicion.
        """
        features = features_of(workload)
        if features is None:
            return Judgement(verdict="unknown", reason="workload not read")
        if not observed_ms > 0:
            return Judgement(verdict="unknown", reason="no duration")
        since_ms = (end_ns - self._last_end_ns) / 1e6
        self._rest_if_idle(observed_ms, end_ns)
        if self._settling > 0:
            self._settling -= 1
            return Judgement(
                verdict="unknown",
                reason=f"settling after a restart: {self._settling} batches to go",
            )
        self.judged += 1
        # Intervals come as often as they come, whatever the batches in them took.
        self._follow_pace(since_ms if observed_ms < since_ms < MOST_PACE_MS else observed_ms)
        log_ms = math.log(observed_ms) - self._offset
        if self.judged % CREEP_EVERY == 0:
            self._look_for_creep()
        expected = self._baseline.expect(features)
        if expected is None:
            self._baseline.learn(features, None, log_ms)
            return Judgement(verdict="unknown", reason="first batch of this engine")
        found = self._residuals.take(log_ms - expected.log_ms, features, expected)
        score = self._score(found)
        outlier = self._is_outlier(found)
        self._learn(features, expected, log_ms, found, outlier=outlier)
        judgement = self._judgement(expected, found)
        judgement.score = score
        judgement.verdict = self._verdict(found, outlier=outlier)
        judgement.reason = self._reason(judgement, expected, found, observed_ms)
        return judgement

    def settle(self) -> None:
        """The engine's process is a new one: its first batches are neither judged nor learnt.

        A judge that is still learning goes on as it was, and so does one whose engine was restarted
        only just before: an engine that crashes again and again is to be judged.
        """
        settled = self.judged - self._settled_at
        if self.judged > self._warm_batches and settled >= SETTLING_BATCHES:
            # Intervals are few, and each holds many batches.
            self._settling = min(SETTLING_BATCHES, self._warm_batches // 4)
            self._settled_at = self.judged

    def predict(self, workload: Workload) -> float | None:
        """Give the expected duration in ms; None where nothing can be said. Nothing is learnt."""
        features = features_of(workload)
        expected = self._baseline.expect(features) if features is not None else None
        return math.exp(expected.log_ms + self._offset) if expected is not None else None

    def judge_open(self, workload: Workload, elapsed_ms: float) -> Judgement | None:
        """Judge a batch that is still running: a stall if it should long be over, else None.

        Nothing is learnt and no suspicion is built up.
        """
        features = features_of(workload)
        if features is None or self.judged < self._warm_batches or elapsed_ms < STALL_LEAST_MS:
            return None
        expected = self._baseline.expect(features)
        if expected is None:
            return None
        expected_ms = math.exp(expected.log_ms + self._offset)
        if elapsed_ms < STALL_RATIO * expected_ms:
            return None
        residual = math.log(elapsed_ms / expected_ms)
        judgement = self._judgement(expected, self._residuals.look(residual, features, expected))
        judgement.verdict = "slow"
        judgement.score = elapsed_ms / expected_ms / STALL_RATIO
        judgement.reason = (
            f"still running after {elapsed_ms / expected_ms:.0f} times the expected duration"
        )
        return judgement

    def adopt(self) -> float | None:
        """Take the slowdown of the present alarm for normal from now on.

        Returns:
            The factor by which batches are now expected to take longer; None without an alarm.
        """
        shift = self._shift()
        if not shift:
            return None
        self._offset += shift
        self._rest()
        return math.exp(shift)

    def rebase(self, factor: float) -> None:
        """Expect so many times as much as was learnt: peers tell that what was learnt is slow.

        A factor below 1 says that the engine is slow now: the alarm is on from here.
        """
        self._offset += math.log(factor)
        if factor < 1:
            self._raise(-math.log(factor))

    def norms(self, most: int) -> tuple[Place, ...]:
        """Give what batches cost here, those most visited first.

        Args:
            most: How many at most.
        """
        places = sorted(self._baseline.places(), key=lambda place: -place.visits)[:most]
        factor = math.exp(self._offset)
        return tuple(place._replace(duration_ms=place.duration_ms * factor) for place in places)

    def calibration(self) -> Calibration:
        """Say how the threshold follows from the budget, and what it is worth."""
        spacing = self._log_spacing()
        weekly = self._batches_per_week()
        chart = self._detectors["sustained"]
        assert isinstance(chart, Sustained)
        false_alarms = sum(one.false_alarms(spacing) for one in self._detectors.values())
        return Calibration(
            threshold=chart.threshold(spacing),
            exponent=chart.exponent,
            batches_per_week=weekly,
            budget_per_week=self._budget,
            expected_per_week=false_alarms * weekly,
            batches=self.judged,
        )

    @property
    def learnt(self) -> int:
        """Batches learnt so far."""
        return self._baseline.learnt

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data, for a checkpoint."""
        return {
            "version": STATE_VERSION,
            "warm_batches": self._warm_batches,
            "budget": self._budget,
            "judged": self.judged,
            "alarm": self._alarm,
            "alarm_known": self._alarm_known,
            "alarm_run": self._alarm_run,
            "unknown_run": self._unknown_run,
            "pulled_run": self._pulled_run,
            "offset": self._offset,
            "pace_ms": self._pace_ms,
            "spacing": self._spacing,
            "doubt": self._doubt,
            "last_end_ns": self._last_end_ns,
            "settling": self._settling,
            "settled_at": self._settled_at,
            "baseline": {"name": BASELINE, "state": self._baseline.to_state()},
            "residuals": self._residuals.to_state(),
            "suspects": [one.to_state() for one in self._suspects],
            "detectors": {name: found.to_state() for name, found in self._detectors.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Judge:
        """Rebuild a judge that goes on exactly where the other stopped.

        Raises:
            ValueError: The state is of another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"judge state of version {state.get('version')!r}: this worker reads "
                f"{STATE_VERSION}; let the engine be learnt anew"
            )
        judge = cls(state["warm_batches"], state["budget"])
        judge.judged = state["judged"]
        judge._alarm, judge._alarm_known = state["alarm"], state["alarm_known"]
        judge._alarm_run = state["alarm_run"]
        judge._unknown_run, judge._pulled_run = state["unknown_run"], state["pulled_run"]
        judge._offset, judge._pace_ms = state["offset"], state["pace_ms"]
        judge._spacing, judge._doubt = state["spacing"], state["doubt"]
        judge._last_end_ns, judge._settling = state["last_end_ns"], state["settling"]
        judge._settled_at = state["settled_at"]
        judge._baseline = load_baseline(state["baseline"]["name"])
        judge._baseline.restore(state["baseline"]["state"])
        judge._residuals.restore(state["residuals"])
        judge._suspects = [Residual.from_state(one) for one in state["suspects"]]
        for name, detector in judge._detectors.items():
            if name in state["detectors"]:
                detector.restore(state["detectors"][name])
        return judge

    def _look_for_creep(self) -> None:
        """Take a slowdown that was learnt bit by bit back, and for what it is."""
        # A noisy engine's memory wanders by itself.
        most = max(MOST_CREEP, self._residuals.scale)
        if self._baseline.drift < most or self._alarm or self.judged <= self._warm_batches:
            return
        self._raise(self._baseline.roll_back())

    def _raise(self, shift: float) -> None:
        self._rest()
        self._detectors[DETECTORS[0]].presume(shift)
        self._alarm, self._alarm_known = DETECTORS[0], True

    def _rest_if_idle(self, observed_ms: float, end_ns: int) -> None:
        idle_ns = end_ns - self._last_end_ns - int(observed_ms * 1e6)
        self._last_end_ns = max(self._last_end_ns, end_ns)
        if idle_ns > IDLE_NS and not self._alarm:
            self._rest()

    def _rest(self) -> None:
        self._alarm = ""
        self._alarm_run = 0
        self._doubt = 0.0
        self._suspects.clear()
        for detector in self._detectors.values():
            detector.rest()

    def _shift(self) -> float:
        return self._detectors[self._alarm].shift if self._alarm else 0.0

    def _batches_per_week(self) -> float:
        return WEEK_MS / self._pace_ms if self._pace_ms else 0.0

    def _log_spacing(self) -> float:
        """Give ln of the healthy batches that there shall be between two false alarms of one."""
        weekly = max(self._batches_per_week(), 1.0)
        return max(math.log(len(DETECTORS) * weekly / self._budget), 1.0)

    def _follow_pace(self, spacing_ms: float) -> None:
        gain = PACE_GAIN if self.judged * PACE_GAIN > 1 else 1 / self.judged
        self._pace_ms += gain * (spacing_ms - self._pace_ms)
        if self.judged % PACE_EVERY == 1:
            self._spacing = self._log_spacing()

    def _score(self, found: Residual) -> float:
        self._unknown_run = 0 if found.familiar else self._unknown_run + 1
        if self.judged <= self._warm_batches:
            return 0.0
        # The surprise is of what is new in it; whether a trouble goes on is seen of all of it.
        evidence = Evidence(found.raw, found.scale, found.surprise, found.mixed, found.novelty)
        highest = doubt = 0.0
        alarms = []
        for name, detector in self._detectors.items():
            score = detector.score_one(evidence, self._spacing)
            highest = score if score > highest else highest
            own = detector.doubt
            doubt = own if own > doubt else doubt
            if score >= 1:
                alarms.append(name)
        self._doubt = doubt
        if self._alarm and self._alarm not in alarms and self._alarm_run >= LASTING:
            # What raised the alarm sees its end; others only remember it.
            self._rest()
            return 0.0
        if alarms and not self._alarm:
            self._alarm_known = found.familiar
            self._suspects.clear()
        alarm = alarms[0] if alarms else ""
        self._alarm_run = self._alarm_run + 1 if alarm == self._alarm else 0
        self._alarm = alarm
        return highest

    def _is_outlier(self, found: Residual) -> bool:
        if self.judged <= self._warm_batches or found.raw < LEAST_OUTLIER:
            return False
        if found.novelty > 1:
            # Nobody can tell: that is drift.
            return False
        if found.known and not found.mixed and found.raw > ALWAYS_OUTLIER:
            return True
        # Nats of one batch alone, or of those just before it together, if it adds to them.
        doubt = self._doubt if found.surprise > ADDING_SURPRISE else 0.0
        return max(found.surprise, doubt) > LOG_OUTLIER_SPACING

    def _learn(
        self,
        features: Features,
        expected: Expectation,
        log_ms: float,
        found: Residual,
        *,
        outlier: bool,
    ) -> None:
        if self._alarm and not self._may_learn_in_alarm(found):
            return
        warm = self.judged > self._warm_batches
        held = warm and (outlier or (found.known and self._doubt > DOUBT_HOLDS))
        if not held:
            believed = expected.log_ms + self._pulled(found)
            if self._alarm_known:
                # New ground in a trouble that began on known one: without what the trouble adds.
                believed -= self._shift()
            self._baseline.learn(features, expected, believed, stable=warm)
        self._suspects.append(found)
        if not self._doubt:
            for suspect in self._suspects:
                self._residuals.learn(suspect)
            self._suspects.clear()
        elif len(self._suspects) > HOLD_SUSPECTS:
            self._residuals.learn(self._suspects.pop(0))

    def _may_learn_in_alarm(self, found: Residual) -> bool:
        # Ground never seen may be learnt, unless the trouble began on ground well known and is
        # likely to colour this one too, or it is no different from the trouble.
        if found.familiar:
            return False
        explained = not self._alarm_known and found.surprise < LEARNABLE_SURPRISE
        return explained or self._unknown_run > HOLD_BATCHES

    def _pulled(self, found: Residual) -> float:
        """Give how far the batch may pull the memory."""
        if self.judged <= FIRST_BATCHES:
            return found.raw
        limit = PULL_NEW
        if found.familiar:
            limit = PULL_MIXED if found.mixed else PULL
        if abs(found.raw) <= limit:
            self._pulled_run = 0
            return found.raw
        if found.raw > 0:
            self._pulled_run = 0
            return limit
        self._pulled_run = min(self._pulled_run + 1, MOST_DOUBLED + 1)
        return max(-limit * 2.0 ** (self._pulled_run - 1), found.raw)

    def _judgement(self, expected: Expectation, found: Residual) -> Judgement:
        factor = math.exp(self._offset)
        expected_ms = math.exp(expected.log_ms) * factor
        width = found.scale * self._residuals.beyond(found, OUTSIDE)
        spread = math.exp(min(width, MOST_WIDTH))
        terms_ms = self._baseline.terms_ms(expected)
        if self._offset:
            terms_ms["memory"] = terms_ms.get("memory", 0.0) + expected_ms * (1 - 1 / factor)
        return Judgement(
            verdict="unknown",
            reason="",
            expected_ms=expected_ms,
            low_ms=expected_ms / spread,
            high_ms=expected_ms * spread,
            residual=found.raw,
            z=found.z,
            terms_ms=terms_ms,
        )

    def _verdict(self, found: Residual, *, outlier: bool) -> Verdict:
        if self.judged <= self._warm_batches:
            return "unknown"
        if self._alarm or outlier:
            return "slow"
        return "normal" if found.familiar else "drift"

    def _reason(
        self, judgement: Judgement, expected: Expectation, found: Residual, observed_ms: float
    ) -> str:
        if self.judged <= self._warm_batches:
            return f"learning: {self.judged} of {self._warm_batches} batches"
        if judgement.verdict == "slow":
            assert judgement.expected_ms is not None
            ratio = observed_ms / judgement.expected_ms
            return f"{self._alarm or 'outlier'}: {ratio:.2f} times the expected duration"
        if not found.familiar:
            return f"batch size seen {expected.bucket_visits} times so far, explained"
        return "as expected"
