"""What may be the matter with an engine: one declarative table, by group.

A resource that is short says how much of it is gone (*pressure*, in units of its capacity); what
the engine does to itself says how much of its time it loses. A new cause is one more entry.
"""

from models.causes.accelerator import ACCELERATOR
from models.causes.engine import ENGINE, PHASES, PhaseCause
from models.causes.facts import Cause, Counters, Facts, Pause, Pauses
from models.causes.host import HOST

RESOURCES: tuple[Cause, ...] = (*HOST, *ACCELERATOR)
CAUSES: tuple[Cause, ...] = (*RESOURCES, *ENGINE)
PHASE_NAMES = frozenset(one.name for one in PHASES)

__all__ = [
    "CAUSES",
    "ENGINE",
    "PHASES",
    "PHASE_NAMES",
    "RESOURCES",
    "Cause",
    "Counters",
    "Facts",
    "Pause",
    "Pauses",
    "PhaseCause",
]
