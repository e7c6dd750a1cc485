"""GC pauses: the engine core collects garbage among very many objects, twice a second."""

from __future__ import annotations

from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Post, Step

COLLECTIONS_PER_SECOND = 2.0
_BYTES_PER_MS = 0.6e6


class GcPauses(Injector):
    """Have the interpreter look at all objects of the process, which stops every thread of it."""

    summary = "full garbage collections in the engine core, twice a second (replica only)"
    touches = "slows the replica, and takes up to 300 MB of memory"
    causes = ("engine_pause",)
    unit = "ms of CPU per collection"
    levels = Levels(light=10.0, medium=40.0, heavy=120.0)
    limits = (1.0, 250.0)
    needs = Needs(replica=True)
    intermittent = True

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Turn the knob of the replica."""
        del machine
        return [Post(url=f"{target.url}/replica/disturbances", body={"gc_pause_ms": intensity})]

    def effect(self, intensity: float) -> Effect:
        """Estimated: pauses of that length, of CPU time; the memory as measured on the replica."""
        return Effect(
            pauses_per_second=COLLECTIONS_PER_SECOND,
            pause_ms=intensity,
            process={
                "rss_bytes": add(_BYTES_PER_MS * intensity),
                "cpu_seconds": add(COLLECTIONS_PER_SECOND * intensity / 1_000),
            },
            process_role="engine_core",
        )
