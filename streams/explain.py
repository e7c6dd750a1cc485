"""Keep the evidence: what an engine's counters and phases are like normally, and in an incident."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import msgspec

from models.attribution import Attribution, attribute
from models.causes import Facts, Pause, Pauses
from schemas.records import Batch, HostReading, ThrottleReason
from streams.timeline import all_counters_of

# Each new value moves a normal mean by at least this much: some 50 readings or batches of memory.
NORMAL_GAIN = 0.02
# Of phases some 500 batches: a short one is seen in few of them.
NORMAL_PHASE_GAIN = 0.002
# A batch is long that takes so much more than it should, and more than its interval allows.
LONG_RATIO = 1.1
# Of an engine that had work for less of the time than this its pace tells nothing.
LEAST_BUSY_RATIO = 0.05
# What is learnt batch by batch, with the phases, and is a counter.
OF_BATCHES = {"waiting": "waiting_requests", "spread": "worker_spread_ratio"}

Kind = Literal["host", "processes", "xpus"]


@dataclass(slots=True)
class Means:
    """Running means by name; ``least_gain`` 0 makes them plain means."""

    least_gain: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def learn(self, values: dict[str, float]) -> None:
        """Move each named mean towards its value."""
        # For each phase of each batch: written out, this takes half the time.
        means, counts, least_gain = self.values, self.counts, self.least_gain
        for name, value in values.items():
            counts[name] = count = counts.get(name, 0) + 1
            gain = 1 / count
            if gain < least_gain:
                gain = least_gain
            mean = means.get(name, value)
            means[name] = mean + gain * (value - mean)

    def to_state(self) -> dict[str, Any]:
        """Give values and counts."""
        return {"values": dict(self.values), "counts": dict(self.counts)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.values, self.counts = dict(state["values"]), dict(state["counts"])


@dataclass(frozen=True, slots=True)
class _Newest:
    """The newest counters of a kind, and the time that they are of."""

    begin_ns: int
    end_ns: int
    counters: dict[str, float]


class EvidenceKeeper:
    """Compare an engine with itself: its normal against the incident that is on.

    Phases are kept as time per batch, so that a short phase is estimated over many batches.
    """

    def __init__(self) -> None:
        self.counters_before = Means(NORMAL_GAIN)
        self.phases_before_ns = Means(NORMAL_PHASE_GAIN)
        self.counters_during = Means()
        self.phases_during_ns = Means()
        self.pauses = Pauses()
        self._incident_begin_ns: int | None = None
        # Kinds of counters that are known of the incident's own time.
        self._known: set[Kind] = set()
        # Told at once where an incident fires before the next ones are in; not in the state.
        self._newest: dict[Kind, _Newest] = {}
        self._reasons_since: Callable[[int], tuple[ThrottleReason, ...]] = lambda _: ()
        # Time with work since the processes were looked at.
        self._busy_ns = 0
        self._last: tuple[int | None, int, int] = (None, 0, 0)

    def watch_throttling(self, since: Callable[[int], tuple[ThrottleReason, ...]]) -> None:
        """Ask this for the reasons of throttling since a time."""
        self._reasons_since = since

    def begin(self, begin_ns: int) -> None:
        """An incident began: what comes from now on is kept apart."""
        self._incident_begin_ns = begin_ns
        self.counters_during, self.phases_during_ns = Means(), Means()
        self.pauses = Pauses()
        self._known = set()

    def end(self) -> None:
        """The incident is over."""
        self._incident_begin_ns = None

    @property
    def blind(self) -> bool:
        """Whether no counters of the incident's own time are known yet."""
        return not self._known

    def add_host(self, reading: HostReading, *, suspect: bool) -> None:
        """Take in a reading of the host.

        Args:
            reading: The counters.

            suspect: Whether batches are being slow: such a reading is no normal one.
        """
        self.add_counters(
            all_counters_of(reading), reading.begin_ns, reading.end_ns, suspect=suspect
        )

    def add_processes(
        self, counters: dict[str, float], begin_ns: int, end_ns: int, *, suspect: bool
    ) -> None:
        """Take in what the engine's processes used, with how busy its batches kept them."""
        busy_ratio = min(self._busy_ns / max(end_ns - begin_ns, 1), 1.0)
        self._busy_ns = 0
        if busy_ratio >= LEAST_BUSY_RATIO:
            counters = counters | {
                f"{name}_busy_cores": counters[f"{name}_cores"] / busy_ratio
                for name in ("core", "engine")
                if f"{name}_cores" in counters
            }
        self.add_counters(counters, begin_ns, end_ns, suspect=suspect, kind="processes")

    def add_counters(
        self,
        counters: dict[str, float],
        begin_ns: int,
        end_ns: int,
        *,
        suspect: bool,
        kind: Kind = "host",
    ) -> None:
        """Take in counters of some time, or of a moment, as of a look at the accelerators."""
        self._newest[kind] = _Newest(begin_ns, end_ns, counters)
        if self._incident_begin_ns is not None:
            # One that began well before an incident shows mostly the time before it.
            if (begin_ns + end_ns) // 2 >= self._incident_begin_ns:
                self.counters_during.learn(counters)
                self._known.add(kind)
        elif not suspect:
            self.counters_before.learn(counters)

    def add_batch(self, batch: Batch, *, suspect: bool) -> None:
        """Take in a batch's phases and expected duration."""
        self._busy_ns += batch.duration_ns
        if self._incident_begin_ns is not None:
            self._add_to_pauses(batch)
        elif suspect:
            return
        workload = batch.workload
        self._last = (
            workload.scheduled_tokens,
            workload.running_requests or 0,
            workload.waiting_requests or 0,
        )
        if batch.expected_ns is None or not batch.phases:
            return
        target = self.phases_before_ns
        if self._incident_begin_ns is not None:
            target = self.phases_during_ns
        # A phase that was not sampled in this batch took about no time in it.
        phases: dict[str, float] = dict.fromkeys(target.values, 0.0)
        for time in batch.phases:
            if time.phase not in phases:
                # Nor in any of those before.
                target.values[time.phase] = 0.0
                target.counts[time.phase] = target.counts.get("expected", 0)
            phases[time.phase] = float(time.duration_ns)
        phases["expected"] = float(batch.expected_ns)
        if workload.waiting_requests is not None:
            phases["waiting"] = float(workload.waiting_requests)
        spread = batch.counters.get("worker_spread_ratio")
        if spread is not None:
            phases["spread"] = spread
        target.learn(phases)

    def facts(self, *, by_gaps: bool = False) -> Facts:
        """Give what is known of the incident that is on."""
        before, during = dict(self.phases_before_ns.values), dict(self.phases_during_ns.values)
        counters_before = dict(self.counters_before.values)
        counters_during = dict(self.counters_during.values)
        begin_ns = self._incident_begin_ns or 0
        for kind, newest in self._newest.items():
            # Better a look that is partly of the time before than none.
            if kind not in self._known and newest.end_ns > begin_ns > 0:
                counters_during = newest.counters | counters_during
        for phases, counters in ((before, counters_before), (during, counters_during)):
            for name, counter in OF_BATCHES.items():
                if name in phases:
                    counters[counter] = phases.pop(name)
        expected_before = before.pop("expected", 0.0)
        expected_during = during.pop("expected", 0.0)
        return Facts(
            before=counters_before,
            during=counters_during,
            phases_before_ns=before,
            phases_during_ns=during,
            expected_ratio=expected_during / expected_before if expected_before else 1.0,
            pauses=self.pauses,
            throttle_reasons=self._reasons_since(begin_ns),
            by_gaps=by_gaps,
            partial=self.blind,
        )

    def attribute(self, *, by_gaps: bool = False) -> Attribution:
        """Name the cause of the incident that is on."""
        return attribute(self.facts(by_gaps=by_gaps))

    def throttle_reasons(self) -> tuple[ThrottleReason, ...]:
        """Give why accelerators were slowed down since the incident began."""
        if self._incident_begin_ns is None:
            return ()
        return self._reasons_since(self._incident_begin_ns)

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {
            "counters_before": self.counters_before.to_state(),
            "phases_before_ns": self.phases_before_ns.to_state(),
            "counters_during": self.counters_during.to_state(),
            "phases_during_ns": self.phases_during_ns.to_state(),
            "incident_begin_ns": self._incident_begin_ns,
            "pauses": asdict(self.pauses),
            "known": sorted(self._known),
            "busy_ns": self._busy_ns,
            "last": list(self._last),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back; earlier versions kept less."""
        self.counters_before.restore(state["counters_before"])
        self.phases_before_ns.restore(state["phases_before_ns"])
        self.counters_during.restore(state["counters_during"])
        self.phases_during_ns.restore(state["phases_during_ns"])
        self._incident_begin_ns = state["incident_begin_ns"]
        self.pauses = msgspec.convert(state.get("pauses", {}), Pauses)
        host: list[Kind] = ["host"] if self.counters_during.values else []
        self._known = set(state.get("known", host))
        self._busy_ns = state.get("busy_ns", 0)
        tokens, running, waiting = state.get("last", (None, 0, 0))
        self._last = (tokens, running, waiting)

    def _add_to_pauses(self, batch: Batch) -> None:
        """Count whether this batch was held up, and what was new with it."""
        expected_ns = batch.expected_ns
        if expected_ns is None:
            return
        pauses, workload = self.pauses, batch.workload
        excess_ns = batch.duration_ns - expected_ns
        is_long = batch.duration_ns > max(batch.high_ns or 0, LONG_RATIO * expected_ns)
        if "gap" in batch.slow_parts and batch.gap_ns and batch.expected_gap_ns:
            excess_ns += batch.gap_ns - batch.expected_gap_ns
            is_long = is_long or batch.gap_ns > batch.expected_gap_ns + 0.1 * expected_ns
        tokens, running, waiting = self._last
        changed = tokens is not None and workload.scheduled_tokens != tokens
        pauses.batches += 1
        pauses.changed += changed
        fewer = workload.running_requests is not None and workload.running_requests < running
        pauses.preempting += fewer and (workload.waiting_requests or 0) > waiting
        pauses.excess_ns += max(excess_ns, 0)
        if is_long:
            pauses.add(Pause(max(excess_ns, 0), changed, self._dearest_phase(batch)))

    def _dearest_phase(self, batch: Batch) -> str:
        """Give the phase that took most time beyond its usual one."""
        usual = self.phases_before_ns.values
        beyond = {one.phase: one.duration_ns - usual.get(one.phase, 0.0) for one in batch.phases}
        return max(beyond, key=lambda one: beyond[one]) if beyond else ""
