"""The process that asks one vendor's driver, so that only it hangs where the driver hangs.

It writes one line of JSON (`Look`) before and after each look and never decides how long is too
long: that is for whoever started it. When that one goes, it goes, with all that it started.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from collectors.xpu.base import (
    SLOW_LOOKS,
    NotPermitted,
    ParseError,
    Vendor,
    Way,
    XpuError,
    load,
    plausible,
)
from schemas.records import MissingReason, XpuDevice

PR_SET_PDEATHSIG = 1
# A way that fails so often in a row is left for the next one.
MOST_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the worker says: that it is about to ask, what it saw, or why it saw nothing.

    Attributes:
        state: ``asking`` before a look at a way that has not answered yet, else ``done``.

        tool: The way.

        next_seconds: How long until the next look begins.

        reason: Why there are no devices; None where the look worked.

        error: The same for people, ending with what to do.

        closed: Why better ways are not open, by name.
    """

    vendor: str
    state: str = "done"
    tool: str = ""
    begin_ns: int = 0
    end_ns: int = 0
    next_seconds: float = 0.0
    devices: tuple[XpuDevice, ...] = ()
    reason: MissingReason | None = None
    error: str | None = None
    closed: dict[str, str] = field(default_factory=dict)


class Worker:
    """Look at a vendor's devices again and again by the best way that works.

    Args:
        vendor: Whose devices.

        write: Takes each line.

        period_seconds: Pause from one look's begin to the next one's.

        avoid: Ways that hung before and are left out, unless nothing else is there.
    """

    def __init__(
        self,
        vendor: Vendor,
        write: Callable[[bytes], None],
        period_seconds: float,
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        self._vendor = vendor
        self._write = write
        self._period_seconds = period_seconds
        self._avoid = avoid
        self._closed: dict[str, str] = {}
        self._way: Way | None = None
        self._failures = 0

    def run(self) -> None:
        """Look for ever."""
        while True:
            begin_seconds = time.monotonic()
            pause_seconds = self.look()
            time.sleep(max(pause_seconds - (time.monotonic() - begin_seconds), 0.0))

    def look(self) -> float:
        """Look once, by the way that worked last or the first that works; give the pause."""
        look = self._choose() if self._way is None else self._by(self._way)
        self._say(look)
        return look.next_seconds

    def _choose(self) -> Look:
        """Try the ways, best first; where none works, give what they said."""
        self._closed = {}
        failed: Look | None = None
        ways = self._vendor.ways()
        for way in [way for way in ways if way.name not in self._avoid] or ways:
            why_not = _why_not(way)
            if why_not is not None:
                self._closed[way.name] = why_not
                continue
            way.period_seconds = self._period_seconds * (SLOW_LOOKS if way.slow else 1)
            self._say(Look(vendor=self._vendor.name(), state="asking", tool=way.name))
            look = self._by(way)
            if look.error is None:
                self._way = way
                return look
            _close(way)
            failed = failed or look
        return Look(
            vendor=self._vendor.name(),
            tool=failed.tool if failed is not None else "",
            next_seconds=self._period_seconds * SLOW_LOOKS,
            reason=failed.reason if failed is not None else "not_supported",
            error="; ".join(self._closed.values()) or "no way to read it",
            closed=self._closed,
        )

    def _by(self, way: Way) -> Look:
        pause_seconds = way.period_seconds
        begin_ns = time.time_ns()
        devices: list[XpuDevice] = []
        reason: MissingReason | None = None
        error: str | None = None
        try:
            devices = [plausible(device) for device in way.read()]
            self._failures = 0
        except Exception as err:
            reason, error = _reason(err), _text(err)
            self._failures += 1
            pause_seconds *= min(SLOW_LOOKS, 2**self._failures)
        end_ns = time.time_ns()
        if self._failures:
            self._closed[way.name] = error or ""
        if self._failures >= MOST_FAILURES and self._way is way:
            _close(way)
            self._way = None
        return Look(
            vendor=self._vendor.name(),
            tool=way.name,
            begin_ns=begin_ns,
            end_ns=end_ns,
            next_seconds=pause_seconds,
            devices=tuple(devices),
            reason=reason,
            error=error,
            closed={name: why for name, why in self._closed.items() if name != way.name},
        )

    def _say(self, look: Look) -> None:
        self._write(orjson.dumps(look) + b"\n")


def _why_not(way: Way) -> str | None:
    try:
        return way.why_not()
    except Exception as err:
        return _text(err)


def _close(way: Way) -> None:
    with contextlib.suppress(Exception):
        way.close()


def _reason(err: Exception) -> MissingReason:
    if isinstance(err, NotPermitted | PermissionError):
        return "not_permitted"
    if isinstance(err, XpuError) and not isinstance(err, ParseError):
        return "not_supported"
    return "parse_error"


def _text(err: Exception) -> str:
    if isinstance(err, XpuError):
        return str(err)
    # Not foreseen: a mistake of ours or of a vendor's library, and no reason to go down.
    return f"{type(err).__name__}: {err}; please report it with the output of the vendor's tool"


def end_all() -> None:
    """End this process and all that it started: they share a process group."""
    os.killpg(0, signal.SIGKILL)


def end_with_parent() -> None:
    """Go when whoever started us goes: its end of our standard input closes then.

    The kernel's signal is for the case that someone else holds that end open, too.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        end_all()

    signal.signal(signal.SIGTERM, lambda *_: end_all())
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=watch, daemon=True).start()


def private_stdout() -> Callable[[bytes], None]:
    """Keep standard output for our lines: what a vendor's library prints goes nowhere."""
    ours = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

    def write(line: bytes) -> None:
        left = memoryview(line)
        while left:
            left = left[os.write(ours, left) :]

    return write


def serve(vendor: Vendor, arguments: list[str]) -> None:
    """Be the worker of a vendor until whoever started us goes."""
    parser = argparse.ArgumentParser(prog="collectors.xpu.worker")
    parser.add_argument("--period", type=float, default=1.0)
    parser.add_argument("--avoid", action="append", default=[])
    options = parser.parse_args(arguments)
    if os.getpgrp() != os.getpid():
        # By hand, from a shell: end_all must not take others along.
        os.setpgid(0, 0)
    write = private_stdout()
    end_with_parent()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        Worker(vendor, write, options.period, frozenset(options.avoid)).run()


def main() -> None:
    """Run as ``python -m collectors.xpu.worker VENDOR --period SECONDS``."""
    if len(sys.argv) < 2:
        sys.exit("give a vendor, one of docs/accelerators.md")
    try:
        vendor = load(sys.argv[1])
    except LookupError as err:
        sys.exit(str(err))
    serve(vendor, sys.argv[2:])


if __name__ == "__main__":
    main()
