"""Keep the evidence: what an engine's counters and phases are like normally, and in an incident."""

from dataclasses import dataclass, field
from typing import Any

from models.attribution import Attribution, attribute
from schemas.records import Batch, HostReading
from streams.timeline import counters_of

# Each new value moves a normal mean by at least this much: some 50 readings or batches of memory.
NORMAL_GAIN = 0.02


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


class EvidenceKeeper:
    """Compare an engine with itself: its normal against the incident that is on.

    Phases are kept as time per batch, so that a short phase is estimated over many batches.
    """

    def __init__(self) -> None:
        self.counters_before = Means(NORMAL_GAIN)
        self.phases_before_ns = Means(NORMAL_GAIN)
        self.counters_during = Means()
        self.phases_during_ns = Means()
        self._incident_begin_ns: int | None = None

    def begin(self, begin_ns: int) -> None:
        """An incident began: what comes from now on is kept apart."""
        self._incident_begin_ns = begin_ns
        self.counters_during, self.phases_during_ns = Means(), Means()

    def end(self) -> None:
        """The incident is over."""
        self._incident_begin_ns = None

    def add_host(self, reading: HostReading, *, suspect: bool) -> None:
        """Take in a reading of the host.

        Args:
            reading: The counters.

            suspect: Whether batches are being slow: such a reading is no normal one.
        """
        # A reading that began well before an incident shows mostly the time before it.
        middle_ns = (reading.begin_ns + reading.end_ns) // 2
        self.add_counters(counters_of(reading), middle_ns, suspect=suspect)

    def add_counters(self, counters: dict[str, float], at_ns: int, *, suspect: bool) -> None:
        """Take in counters of a moment, as of a look at the accelerators."""
        if self._incident_begin_ns is not None:
            if at_ns >= self._incident_begin_ns:
                self.counters_during.learn(counters)
        elif not suspect:
            self.counters_before.learn(counters)

    def add_batch(self, batch: Batch, *, suspect: bool) -> None:
        """Take in a batch's phases and expected duration."""
        if batch.expected_ns is None or not batch.phases:
            return
        target = self.phases_during_ns
        if self._incident_begin_ns is None:
            if suspect:
                return
            target = self.phases_before_ns
        # A phase that was not sampled in this batch took about no time in it.
        phases: dict[str, float] = dict.fromkeys(target.values, 0.0)
        for time in batch.phases:
            phases[time.phase] = float(time.duration_ns)
        phases["expected"] = float(batch.expected_ns)
        target.learn(phases)

    def attribute(self) -> Attribution:
        """Name the cause of the incident that is on."""
        before, during = dict(self.phases_before_ns.values), dict(self.phases_during_ns.values)
        expected_before = before.pop("expected", 0.0)
        expected_during = during.pop("expected", 0.0)
        return attribute(
            self.counters_before.values,
            self.counters_during.values,
            {name: int(value) for name, value in before.items()},
            {name: int(value) for name, value in during.items()},
            expected_during / expected_before if expected_before else 1.0,
        )

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {
            "counters_before": self.counters_before.to_state(),
            "phases_before_ns": self.phases_before_ns.to_state(),
            "counters_during": self.counters_during.to_state(),
            "phases_during_ns": self.phases_during_ns.to_state(),
            "incident_begin_ns": self._incident_begin_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.counters_before.restore(state["counters_before"])
        self.phases_before_ns.restore(state["phases_before_ns"])
        self.counters_during.restore(state["counters_during"])
        self.phases_during_ns.restore(state["phases_during_ns"])
        self._incident_begin_ns = state["incident_begin_ns"]
