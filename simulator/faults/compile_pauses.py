"""Compile pauses: a batch of another shape than the last has to wait for its kernels."""

from __future__ import annotations

from simulator.fleet.effect import Effect
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Post, Step

MOST_PER_SECOND = 1.0


class CompilePauses(Injector):
    """Let the worker compute before the forward pass of a new shape, at most once a second.

    So do just-in-time compilation and the capture of graphs. Without new requests the shape of a
    batch stays what it is, and nothing is compiled.
    """

    summary = "new batch shapes cost a compilation in the worker (replica only)"
    touches = "slows the replica"
    causes = ("compilation",)
    unit = "ms per compilation"
    levels = Levels(light=50.0, medium=200.0, heavy=600.0)
    limits = (1.0, 5_000.0)
    needs = Needs(replica=True)
    intermittent = True

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Turn the knob of the replica."""
        del machine
        return [
            Post(url=f"{target.url}/replica/disturbances", body={"compile_pause_ms": intensity})
        ]

    def effect(self, intensity: float) -> Effect:
        """By construction of the replica, under requests that keep coming: one a second."""
        per_second = MOST_PER_SECOND / (1 + intensity / 1_000)
        return Effect(
            pauses_per_second=per_second,
            pause_ms=intensity,
            on_new_shapes=True,
            phase="forward",
        )
