"""What a negative control is: a change that looks like trouble and is none.

Requests or the deployment change; nothing is broken. An incident about it is a false one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from simulator.fleet.setting import Setting, Tokens
from simulator.workloads import Phase
from simulator.workloads.base import clients

# What the engine replica takes: prompt and answer within 4,096 tokens, 32 requests in a batch.
USUAL_CLIENTS = 8
USUAL_TOKENS = (64, 192)


class Control(ABC):
    """A negative control: one file in this folder with one subclass.

    `at` is the control in a simulated fleet, `phases` as a load on the engine replica. Its truth is
    a `Fault` record of the kind ``control``, without causes.
    """

    summary: ClassVar[str]
    """One sentence for the list of controls."""

    redeploys: ClassVar[bool] = False
    """The inventory changes: only then may the same work cost something else than before."""

    @abstractmethod
    def at(self, progress: float, setting: Setting) -> Setting:
        """Give the setting at some point of the control, 0 to 1; at 0 it is the given one.

        Called several times a second. The same arguments give the same setting.
        """

    def phases(self, duration_seconds: float, scale: float) -> tuple[Phase, ...] | None:
        """Lay it out as a load; None where no load can do it to the replica.

        Args:
            duration_seconds: Length of all phases together.

            scale: Multiplies concurrency or rate.
        """
        del duration_seconds, scale
        return None


def phase(duration_seconds: float, scale: float, **changes: Any) -> Phase:
    """Give a phase of the usual load on the replica, with changes."""
    count = changes.pop("clients", USUAL_CLIENTS)
    given: dict[str, Any] = {"prompt_tokens": USUAL_TOKENS, "output_tokens": USUAL_TOKENS}
    if "requests_per_second" not in changes:
        given["concurrency"] = clients(count, scale)
    return Phase(duration_seconds=duration_seconds, **(given | changes))


def with_traffic(setting: Setting, **changes: Any) -> Setting:
    """Give the setting with other traffic."""
    return replace(setting, traffic=replace(setting.traffic, **changes))


def with_load(setting: Setting, ratio: float) -> Setting:
    """Give the setting with so many times as many requests; a closed loop keeps one client."""
    traffic = setting.traffic
    if traffic.requests_per_second is not None:
        return with_traffic(setting, requests_per_second=traffic.requests_per_second * ratio)
    return with_traffic(setting, concurrency=max(1, round((traffic.concurrency or 1) * ratio)))


def longer(tokens: Tokens, ratio: float, setting: Setting) -> Tokens:
    """Give lengths so many times as long; one request never takes a quarter of the KV cache."""
    most = max(setting.kv_blocks * setting.block_tokens // 4, tokens.most)
    return replace(
        tokens,
        median=min(tokens.median * ratio, most),
        most=min(math.ceil(tokens.most * ratio), most),
    )


def ramp(progress: float) -> float:
    """Rise evenly from 0 to 1 over the first three quarters, then stay."""
    return min(max(progress, 0.0) / 0.75, 1.0)


def jumped(progress: float) -> bool:
    """Tell whether a jump has happened: there is a little to see from before."""
    return progress >= 0.05


def swung(progress: float, swings: int) -> bool:
    """Tell whether a swing is on its far side: half of each swing, the later one."""
    return 0 <= progress < 1 and (progress * swings) % 1 >= 0.5


def tide(progress: float) -> float:
    """Give 0 at both ends, 1 at the flood after a quarter and -1 at the ebb after three."""
    return math.sin(2 * math.pi * progress)
