"""Events as the native sampler packs them, for tests that need no engine."""

from __future__ import annotations

import struct
from typing import Final

from collectors.clock import BATCH, BEGIN, END, HEADER, STACK, STATE
from collectors.rank import GAUGES

MS: Final = 1_000_000
GAP: Final = MS


def event(
    kind: int,
    *payload: int,
    flags: int = 0,
    code: int = 0,
    counter: int = 0,
    at_ns: int = 0,
    gap_ns: int = GAP,
) -> bytes:
    head = HEADER.pack(kind, flags, len(payload), code, counter, at_ns, gap_ns)
    return head + struct.pack(f"<{len(payload)}q", *payload)


def begin(counter: int, at_ns: int, *, missed: int = 0, gap_ns: int = GAP) -> bytes:
    return event(BEGIN, code=missed, counter=counter, at_ns=at_ns, gap_ns=gap_ns)


def end(counter: int, at_ns: int, *, gap_ns: int = GAP) -> bytes:
    return event(END, counter=counter, at_ns=at_ns, gap_ns=gap_ns)


def batch(counter: int, *numbers: int) -> bytes:
    return event(BATCH, *numbers, counter=counter)


def gauges(at_ns: int, *numbers: int) -> bytes:
    return event(GAUGES, *numbers, at_ns=at_ns)


def stack(index: int, *, inside: bool = True) -> bytes:
    return event(STACK, index, flags=int(inside))


def state(code: int) -> bytes:
    return event(STATE, code=code)
