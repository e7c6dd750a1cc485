"""Compare two analyses of the same stream, incident by incident and batch by batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from streams.outcome import Incident, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same incident in both; shifts are positive where it is later here.

    Attributes:
        begin_shift_batches: Batches between both begins.
    """

    here: Incident
    there: Incident
    begin_shift_ns: int
    begin_shift_batches: int
    fired_shift_ns: int

    @property
    def cause_changed(self) -> bool:
        """Whether both name another cause in the end."""
        return self.here.cause != self.there.cause

    @property
    def equal(self) -> bool:
        """Whether nothing that counts differs."""
        return not (
            self.cause_changed
            or self.begin_shift_ns
            or self.fired_shift_ns
            or self.here.end_ns != self.there.end_ns
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What one analysis says and the other does not.

    Attributes:
        verdicts: How many batches were judged so there and so here.

        batches_only_here: Batches that the other has not.
    """

    pairs: list[Pair] = field(default_factory=list)
    only_here: list[Incident] = field(default_factory=list)
    only_there: list[Incident] = field(default_factory=list)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    batches_only_here: int = 0
    batches_only_there: int = 0

    @property
    def equal(self) -> bool:
        """Whether both say the same."""
        return (
            all(pair.equal for pair in self.pairs)
            and not (self.only_here or self.only_there)
            and not (self.batches_only_here or self.batches_only_there)
            and all(there == here for there, here in self.verdicts)
        )


def compare(here: Outcome, there: Outcome) -> Difference:
    """Tell what differs.

    Incidents of the same engine belong together by their id, else where they overlap, the earliest
    first. Batches are not compared where one of the two has none at all.
    """
    pairs, only_here, only_there = _match(here, there)
    both = bool(here.verdicts and there.verdicts)
    common = here.verdicts.keys() & there.verdicts.keys()
    return Difference(
        pairs=[_pair(one, other, here) for one, other in pairs],
        only_here=only_here,
        only_there=only_there,
        verdicts=Counter((there.verdicts[key], here.verdicts[key]) for key in common),
        batches_only_here=len(here.verdicts) - len(common) if both else 0,
        batches_only_there=len(there.verdicts) - len(common) if both else 0,
    )


def _match(
    here: Outcome, there: Outcome
) -> tuple[list[tuple[Incident, Incident]], list[Incident], list[Incident]]:
    rest = dict(there.incidents)
    partners = {key: rest.pop(key) for key in here.incidents if key in rest}
    for key, incident in sorted(here.incidents.items(), key=lambda item: item[1].begin_ns):
        if key in partners:
            continue
        overlapping = [
            (other.begin_ns, name)
            for name, other in rest.items()
            if other.engine_id == incident.engine_id and incident.overlaps(other)
        ]
        if overlapping:
            partners[key] = rest.pop(min(overlapping)[1])
    pairs = [(one, partners[key]) for key, one in here.incidents.items() if key in partners]
    only_here = [one for key, one in here.incidents.items() if key not in partners]
    return pairs, only_here, list(rest.values())


def _pair(here: Incident, there: Incident, outcome: Outcome) -> Pair:
    return Pair(
        here=here,
        there=there,
        begin_shift_ns=here.begin_ns - there.begin_ns,
        begin_shift_batches=outcome.batches_between(here.engine_id, there.begin_ns, here.begin_ns),
        fired_shift_ns=here.fired_ns - there.fired_ns,
    )
