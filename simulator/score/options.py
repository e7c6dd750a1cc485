"""What decides how a recording is scored; every report states it."""

from dataclasses import dataclass

MS_NS = 1_000_000
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How strictly truth and verdicts are compared.

    Attributes:
        guard_ns: Batches within this time of a fault's begin or end have no label.

        grace_ns: An incident may still fire so long after the fault's end, or ...

        grace_batches: ... until so many batches ended after it, whichever is later ...

        grace_most_ns: ... but never later than this.

        material_ratio: From this true effect on a fault counts as one that users feel.

        least_ratio: Up to this true effect nobody can say whether a batch is slow by a fault.

        resamples: Of each bootstrap interval.

        seed: Of the bootstrap, so that a score can be repeated.
    """

    guard_ns: int = 250 * MS_NS
    grace_ns: int = 5 * SECOND_NS
    grace_batches: int = 20
    grace_most_ns: int = 30 * SECOND_NS
    material_ratio: float = 1.05
    least_ratio: float = 1.01
    resamples: int = 1000
    seed: int = 1
