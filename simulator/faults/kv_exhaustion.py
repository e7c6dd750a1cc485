"""KV exhaustion: long requests fill the cache, until some lose their place in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from simulator.fleet.effect import Effect
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Step, Work

# Of the longest context that the model takes, as prompt; the rest but a little is generated.
_PROMPT_SHARE = 0.7
_TOTAL_SHARE = 0.95
# Where the server does not say how long a context may be.
_USUAL_CONTEXT_TOKENS = 4_096
_LONGEST_CONTEXT_TOKENS = 32_768
_FOREVER_SECONDS = 86_400.0
_ASK_SECONDS = 0.05


class KvExhaustion(Injector):
    """Send long requests to the engine's API, as many at a time as asked for.

    Whether that fills the cache, and when, depends on its size and on how many requests and prompt
    tokens the engine takes into one batch: its count of preemptions tells. The replica's usual
    cache holds all they ask for; with ``--num-blocks 1024`` it is full within three seconds.
    """

    summary = "long requests until the KV cache is full and requests are preempted"
    touches = "sends real requests to the engine: its other clients wait behind them"
    causes = ("kv_exhaustion", "load")
    unit = "long requests at a time"
    levels = Levels(light=24.0, medium=32.0, heavy=64.0)
    limits = (1.0, 4_096.0)
    needs = Needs(modules=("aiohttp",))

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Also ask for the address."""
        found = super().obstacles(target, machine)
        if target.url is None:
            found.append("it sends requests to an engine: give its address with --url")
        return found

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Start the load, in one process."""
        del machine
        return [
            Work(fault="kv_exhaustion", options={"url": str(target.url), "requests": intensity}),
        ]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Send requests until all is over; those in flight are cut off then."""
        asyncio.run(_fill(str(options["url"]), round(options["requests"]), running))

    def effect(self, intensity: float) -> Effect:
        """Estimated: so much of the cache is taken away from the others."""
        return Effect(kv_ratio=max(0.05, 1 - intensity / 40))


async def _fill(url: str, requests: int, running: Callable[[], bool]) -> None:
    from simulator.load import run_load
    from simulator.workloads import Phase, Workload

    prompt_tokens, output_tokens = split(await _context_tokens(url))
    phase = Phase(
        duration_seconds=_FOREVER_SECONDS,
        concurrency=requests,
        prompt_tokens=(prompt_tokens, prompt_tokens),
        output_tokens=(output_tokens, output_tokens),
    )
    workload = Workload(name="long", summary="Long requests.", phases=(phase,))
    load = asyncio.create_task(run_load(url, workload, seed=0))
    try:
        while running() and not load.done():
            await asyncio.wait((load,), timeout=_ASK_SECONDS)
        if load.done():
            load.result()
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def _context_tokens(url: str) -> int:
    """Ask how long a context may be."""
    import aiohttp

    async with aiohttp.ClientSession(url) as session, session.get("/v1/models") as response:
        models = (await response.json()).get("data") or [{}]
    tokens = models[0].get("max_model_len")
    return min(int(tokens or _USUAL_CONTEXT_TOKENS), _LONGEST_CONTEXT_TOKENS)


def split(context_tokens: int) -> tuple[int, int]:
    """Give the tokens of a prompt and of its output, which fit into a context together."""
    prompt_tokens = int(context_tokens * _PROMPT_SHARE)
    return prompt_tokens, int(context_tokens * _TOTAL_SHARE) - prompt_tokens
