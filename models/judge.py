"""One engine's memory and judgement: predict, judge, and learn only what is not suspect."""

import math
from dataclasses import dataclass, field
from typing import Any

from models.baseline import Baseline, Prediction
from models.detectors import Detector, load
from models.features import Features, features_of
from models.scale import RobustScale
from schemas.records import Verdict, Workload

STATE_VERSION = 1

DETECTORS = ("cusum", "giant", "creep")
# Batches before anything is called slow.
WARM_BATCHES = 200
# Until so many batches were learnt, residuals are mostly the model's own.
EARLY_BATCHES = 2000
SIGMA_FLOOR = 0.012
SIGMA_FLOOR_EARLY = 0.03
# Before any residual is known.
SIGMA_UNKNOWN = 0.05
SIGMA_UNKNOWN_MIXED = 0.3
# Doubt about the model itself: in a bucket it has hardly seen, in a cell it has hardly seen.
DOUBT_BUCKET = 0.06
DOUBT_CELL = 0.02
BUCKET_KNOWN = 10
BUCKET_FAMILIAR = 30
# Batches of a restarted engine that say nothing of it: compilation, graph capture, cold caches.
SETTLING_BATCHES = 50
# How far a single batch may pull the memory, in ln units.
PULL = 0.10
PULL_MIXED = 1.0
PULL_NEW = 0.30
# From this score on a residual says nothing of the usual scale.
SUSPICION = 0.3
# An alarm that began on known ground keeps unknown ground from being learnt for so many batches.
HOLD_BATCHES = 500
# Half width of the interval in sigmas: 2.5 is where a batch starts to count against the engine.
INTERVAL_SIGMAS = 2.5
# After a pause like this a half-built suspicion is stale.
IDLE_NS = 5_000_000_000
# An unfinished batch is a stall when it has run so many times its expected time, and so long.
STALL_RATIO = 10.0
STALL_LEAST_MS = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the model thinks of one batch; times in ms, ``residual`` = ln(observed / expected)."""

    verdict: Verdict
    reason: str
    expected_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    residual: float | None = None
    z: float | None = None
    score: float | None = None
    terms_ms: dict[str, float] = field(default_factory=dict)


class Judge:
    """Judge the batches of one engine, in order, and learn from those that are not suspect.

    Nothing that is judged slow is learnt, so a fault that lasts does not become normal.

    Args:
        warm_batches: How many are learnt before any is called slow.
    """

    def __init__(self, warm_batches: int = WARM_BATCHES) -> None:
        self._warm_batches = warm_batches
        self._baseline = Baseline()
        self._scales = {False: RobustScale(), True: RobustScale()}
        self._detectors: dict[str, Detector] = {name: load(name) for name in DETECTORS}
        self._alarm = False
        self._alarm_familiar = False
        self._unfamiliar_run = 0
        self._last_end_ns = 0
        self._settling = 0
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
        if observed_ms <= 0:
            return Judgement(verdict="unknown", reason="no duration")
        idle_ns = end_ns - self._last_end_ns - int(observed_ms * 1e6)
        self._last_end_ns = max(self._last_end_ns, end_ns)
        if self._settling > 0:
            self._settling -= 1
            return Judgement(
                verdict="unknown",
                reason=f"settling after a restart: {self._settling} batches to go",
            )
        self.judged += 1
        prediction = self._baseline.predict(features)
        if prediction is None:
            self._baseline.learn(features, observed_ms)
            return Judgement(verdict="unknown", reason="first batch of this engine")
        residual = math.log(observed_ms) - prediction.log_ms
        sigma = self._sigma(features, prediction)
        z = residual / sigma
        if idle_ns > IDLE_NS and not self._alarm:
            for detector in self._detectors.values():
                detector.rest()
        familiar = prediction.bucket_visits >= BUCKET_FAMILIAR
        self._unfamiliar_run = 0 if familiar else self._unfamiliar_run + 1
        score, fired_by = self._score(z, sigma, mixed=features.mixed, familiar=familiar)
        if not self._alarm or self._may_learn_in_alarm(familiar):
            self._learn(features, observed_ms, familiar=familiar)
            # The few batches that lead up to each of many short faults would widen the scale
            # until no fault stands out.
            if score < SUSPICION:
                self._scales[features.mixed].learn(residual)
        return Judgement(
            verdict=self._verdict(familiar),
            reason=self._reason(prediction, observed_ms, fired_by, familiar),
            expected_ms=prediction.expected_ms,
            low_ms=prediction.expected_ms * math.exp(-INTERVAL_SIGMAS * sigma),
            high_ms=prediction.expected_ms * math.exp(INTERVAL_SIGMAS * sigma),
            residual=residual,
            z=z,
            score=score,
            terms_ms=prediction.terms_ms,
        )

    def settle(self) -> None:
        """The engine's process is a new one: its first batches are neither judged nor learnt.

        A judge that is still learning goes on as it was.
        """
        if self.judged > self._warm_batches:
            self._settling = SETTLING_BATCHES

    def judge_open(self, workload: Workload, elapsed_ms: float) -> Judgement | None:
        """Judge a batch that is still running: a stall if it should long be over, else None.

        Nothing is learnt and no suspicion is built up.
        """
        features = features_of(workload)
        if features is None or self.judged < self._warm_batches or elapsed_ms < STALL_LEAST_MS:
            return None
        prediction = self._baseline.predict(features)
        if prediction is None or elapsed_ms < STALL_RATIO * prediction.expected_ms:
            return None
        sigma = self._sigma(features, prediction)
        residual = math.log(elapsed_ms) - prediction.log_ms
        return Judgement(
            verdict="slow",
            reason=f"still running after {elapsed_ms / prediction.expected_ms:.0f} times the "
            "expected duration",
            expected_ms=prediction.expected_ms,
            low_ms=prediction.expected_ms * math.exp(-INTERVAL_SIGMAS * sigma),
            high_ms=prediction.expected_ms * math.exp(INTERVAL_SIGMAS * sigma),
            residual=residual,
            z=residual / sigma,
            score=elapsed_ms / prediction.expected_ms / STALL_RATIO,
            terms_ms=prediction.terms_ms,
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
            "judged": self.judged,
            "alarm": self._alarm,
            "alarm_familiar": self._alarm_familiar,
            "unfamiliar_run": self._unfamiliar_run,
            "last_end_ns": self._last_end_ns,
            "settling": self._settling,
            "baseline": self._baseline.to_state(),
            "scales": [self._scales[False].to_state(), self._scales[True].to_state()],
            "detectors": {name: found.to_state() for name, found in self._detectors.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Judge":
        """Rebuild a judge that goes on exactly where the other stopped.

        Raises:
            ValueError: The state is of another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"judge state of version {state.get('version')!r}: this worker reads "
                f"{STATE_VERSION}; let the engine be learnt anew"
            )
        judge = cls(state["warm_batches"])
        judge.judged = state["judged"]
        judge._alarm = state["alarm"]
        judge._alarm_familiar = state["alarm_familiar"]
        judge._unfamiliar_run = state["unfamiliar_run"]
        judge._last_end_ns = state["last_end_ns"]
        judge._settling = state["settling"]
        judge._baseline = Baseline.from_state(state["baseline"])
        judge._scales = {
            mixed: RobustScale.from_state(state["scales"][mixed]) for mixed in (False, True)
        }
        for name, detector in judge._detectors.items():
            if name in state["detectors"]:
                detector.restore(state["detectors"][name])
        return judge

    def _sigma(self, features: Features, prediction: Prediction) -> float:
        unknown = SIGMA_UNKNOWN_MIXED if features.mixed else SIGMA_UNKNOWN
        early = self.judged <= EARLY_BATCHES
        floor = SIGMA_FLOOR_EARLY if early else SIGMA_FLOOR
        sigma = max(floor, self._scales[features.mixed].sigma(unknown))
        doubt = (
            DOUBT_BUCKET
            if prediction.bucket_visits < BUCKET_KNOWN
            else DOUBT_CELL / math.sqrt(1 + prediction.cell_visits)
        )
        return math.hypot(sigma, doubt)

    def _score(self, z: float, sigma: float, *, mixed: bool, familiar: bool) -> tuple[float, str]:
        if self.judged <= self._warm_batches:
            return 0.0, ""
        scores = {
            name: detector.score_one(z, sigma=sigma, mixed=mixed)
            for name, detector in self._detectors.items()
        }
        fired_by = max(scores, key=lambda name: scores[name])
        was, self._alarm = self._alarm, scores[fired_by] >= 1
        if self._alarm and not was:
            self._alarm_familiar = familiar
        return scores[fired_by], fired_by

    def _may_learn_in_alarm(self, familiar: bool) -> bool:
        # Ground never seen may be learnt, unless the trouble began on ground well known and is
        # likely to colour this one too.
        return not familiar and (not self._alarm_familiar or self._unfamiliar_run > HOLD_BATCHES)

    def _learn(self, features: Features, observed_ms: float, *, familiar: bool) -> None:
        pull = None
        if self.judged > self._warm_batches and familiar:
            pull = PULL_MIXED if features.mixed else PULL
        elif self.judged > EARLY_BATCHES and not features.mixed:
            pull = PULL_NEW
        self._baseline.learn(features, observed_ms, pull)

    def _verdict(self, familiar: bool) -> Verdict:
        if self.judged <= self._warm_batches:
            return "unknown"
        if self._alarm:
            return "slow"
        return "normal" if familiar else "drift"

    def _reason(
        self, prediction: Prediction, observed_ms: float, fired_by: str, familiar: bool
    ) -> str:
        if self.judged <= self._warm_batches:
            return f"learning: {self.judged} of {self._warm_batches} batches"
        if self._alarm:
            ratio = observed_ms / prediction.expected_ms
            return f"{fired_by}: {ratio:.2f} times the expected duration"
        if not familiar:
            return f"batch size seen {prediction.bucket_visits} times so far, explained"
        return "as expected"
