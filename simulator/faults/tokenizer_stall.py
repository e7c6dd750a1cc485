"""Tokenizer stall: each request blocks the event loop of the API server for a while."""

from __future__ import annotations

from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Post, Step

# What the steady workload sends; its clients wait for an answer before they ask again.
_USUAL_REQUESTS_PER_SECOND = 5.0


class TokenizerStall(Injector):
    """Compute on each request where others' answers have to wait for it.

    The batches themselves are not longer: fewer requests reach the engine, later, and tokens wait
    behind the next request on their way out.
    """

    summary = "each request blocks the API server's event loop (replica only)"
    touches = "delays all clients of the replica, and takes up to one CPU"
    causes = ("frontend_slower",)
    unit = "ms per request"
    levels = Levels(light=5.0, medium=50.0, heavy=300.0)
    limits = (0.1, 5_000.0)
    needs = Needs(replica=True)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Turn the knob of the replica."""
        del machine
        return [Post(url=f"{target.url}/replica/disturbances", body={"tokenizer_ms": intensity})]

    def effect(self, intensity: float) -> Effect:
        """Estimated: one server takes no more than 1000 ms of requests a second."""
        most_per_second = 1_000 / intensity
        busy = min(1.0, _USUAL_REQUESTS_PER_SECOND * intensity / 1_000)
        return Effect(
            arrivals_ratio=min(1.0, most_per_second / _USUAL_REQUESTS_PER_SECOND),
            process={"cpu_seconds": add(busy)},
            process_role="api_server",
        )
