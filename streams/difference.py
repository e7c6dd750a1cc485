"""Compare two analyses of the same stream, incident by incident and batch by batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from schemas.incidents import Incident
from streams.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same incident in both; shifts are positive where it is later here.

    Attributes:
        begin_shift_batches: Batches between both begins.

        end_changed: Whether one of them ended at another time, or not at all.
    """

    here: Incident
    there: Incident
    begin_shift_ns: int
    begin_shift_batches: int
    fired_shift_ns: int
    end_changed: bool

    @property
    def cause_changed(self) -> bool:
        """Whether both name another cause in the end."""
        return self.here.cause != self.there.cause

    @property
    def equal(self) -> bool:
        """Whether nothing that counts differs."""
        return not (
            self.cause_changed or self.begin_shift_ns or self.fired_shift_ns or self.end_changed
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


def compare(here: Outcome, there: Outcome, over_ns: int | None = None) -> Difference:
    """Tell what differs.

    Incidents of the same engine belong together by their id, else where they overlap, the earliest
    first. Batches are not compared where one of the two has none at all.

    Args:
        here: One of them.

        there: The other.

        over_ns: When the stream was over; what ended later may be open in a recording of it.
    """
    pairs, only_here, only_there = _match(here, there)
    both = bool(here.verdicts and there.verdicts)
    common = here.verdicts.keys() & there.verdicts.keys()
    return Difference(
        pairs=[_pair(one, other, here, over_ns) for one, other in pairs],
        only_here=only_here,
        only_there=only_there,
        verdicts=Counter((there.verdicts[key], here.verdicts[key]) for key in common),
        batches_only_here=len(here.verdicts) - len(common) if both else 0,
        batches_only_there=len(there.verdicts) - len(common) if both else 0,
    )


def _match(
    here: Outcome, there: Outcome
) -> tuple[list[tuple[Incident, Incident]], list[Incident], list[Incident]]:
    found, rest = here.incidents, there.incidents
    partners = {key: rest.pop(key) for key in found if key in rest}
    for key, incident in sorted(found.items(), key=lambda item: item[1].begin_ns):
        if key in partners:
            continue
        overlapping = [
            (other.begin_ns, name)
            for name, other in rest.items()
            if other.engine_id == incident.engine_id and incident.overlaps(other)
        ]
        if overlapping:
            partners[key] = rest.pop(min(overlapping)[1])
    pairs = [(one, partners[key]) for key, one in found.items() if key in partners]
    only_here = [one for key, one in found.items() if key not in partners]
    return pairs, only_here, list(rest.values())


def _pair(here: Incident, there: Incident, outcome: Outcome, over_ns: int | None) -> Pair:
    return Pair(
        here=here,
        there=there,
        begin_shift_ns=here.begin_ns - there.begin_ns,
        begin_shift_batches=outcome.batches_between(here.engine_id, there.begin_ns, here.begin_ns),
        fired_shift_ns=here.fired_ns - there.fired_ns,
        end_changed=_end_of(here, over_ns) != _end_of(there, over_ns),
    )


def _end_of(incident: Incident, over_ns: int | None) -> int | None:
    end_ns = incident.end_ns
    return None if end_ns is None or (over_ns is not None and end_ns > over_ns) else end_ns
