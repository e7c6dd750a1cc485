"""Disturbances make a machine worse for a while: stolen processor time, a slow clock."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parent.parent
_HTTP_TIMEOUT_SECONDS = 30.0
_BURNING = "burning\n"


@contextlib.contextmanager
def cpu_hogs(count: int, seconds: float) -> Iterator[tuple[int, ...]]:
    """Burn one processor per hog inside the block, for at most `seconds`; yields their pids.

    The hogs run at niceness 0 and end with the process that started them.
    """
    if count < 1 or not 0 < seconds < math.inf:
        raise ValueError(f"count is {count} and seconds is {seconds}: give positive numbers")
    command = (sys.executable, "-m", "simulator.disturbances", "burn", "--seconds", str(seconds))
    hogs: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            hogs.append(
                subprocess.Popen(
                    (*command, "--parent", str(os.getpid())),
                    cwd=_REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for hog in hogs:
            assert hog.stdout is not None
            if hog.stdout.readline() != _BURNING:
                raise RuntimeError("a CPU hog did not start: see its message above")
        yield tuple(hog.pid for hog in hogs)
    finally:
        for hog in hogs:
            hog.kill()
        for hog in hogs:
            hog.wait()
            assert hog.stdout is not None
            hog.stdout.close()


@contextlib.contextmanager
def throttle_clock(base_url: str, ratio: float) -> Iterator[None]:
    """Slow a replica's model to a fraction of its full speed inside the block."""
    before = get_clock_ratio(base_url)
    set_clock_ratio(base_url, ratio)
    try:
        yield
    finally:
        # A replica that ended meanwhile has no clock to restore.
        with contextlib.suppress(ConnectionError):
            set_clock_ratio(base_url, before)


def set_clock_ratio(base_url: str, ratio: float) -> None:
    """Set the fraction of full speed at which a replica's model runs."""
    _call_clock(base_url, json.dumps({"ratio": ratio}).encode())


def get_clock_ratio(base_url: str) -> float:
    """Read the fraction of full speed at which a replica's model runs."""
    return _call_clock(base_url, None)


def _call_clock(base_url: str, body: bytes | None) -> float:
    url = f"{base_url}/replica/clock"
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_SECONDS) as response:
            return float(json.loads(response.read())["ratio"])
    except urllib.error.HTTPError as err:
        with err:
            reason = err.read().decode(errors="replace")
        if err.code == 400:
            raise ValueError(f"the replica refused the clock ratio: {reason}") from err
        raise ConnectionError(
            f"{url} answered {err.code}: only a replica has a clock; check the address"
        ) from err
    except OSError as err:
        raise ConnectionError(f"no answer from {url} ({err}): is the replica running?") from err


def _burn(seconds: float, parent_pid: int) -> None:
    """Do arithmetic until the time is over or the parent is gone."""
    sys.stdout.write(_BURNING)
    sys.stdout.flush()
    end_at_seconds = time.monotonic() + seconds
    value = 1.0
    while time.monotonic() < end_at_seconds and os.getppid() == parent_pid:
        for _ in range(200_000):
            value = value * 1.000_000_1 + 0.5
        value = math.fmod(value, 1_000.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one CPU hog; `cpu_hogs` starts these."""
    parser = argparse.ArgumentParser(prog="python -m simulator.disturbances")
    commands = parser.add_subparsers(dest="command", required=True)
    burn = commands.add_parser("burn", help="burn one processor")
    burn.add_argument("--seconds", type=float, required=True)
    burn.add_argument("--parent", type=int, default=os.getppid(), help="end with this process")
    given = parser.parse_args(arguments)
    _burn(given.seconds, given.parent)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
