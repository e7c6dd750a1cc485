"""The command line: run one profile until standard input ends."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from importlib import import_module
from pathlib import Path

from simulator.profiles import available
from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host, Options, exit_on_signals

_LONGEST_TITLE_BYTES = 256


def load(name: str) -> Profile:
    """Make the profile of that name."""
    profile: Profile = import_module(f"simulator.profiles.{name}.profile").PROFILE
    return profile


def list_profiles() -> str:
    """Give a line for each profile."""
    return "\n".join(f"{name}: {load(name).summary}" for name in available())


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.profiles",
        description="Look like one version family of an engine, until standard input ends.",
        epilog=list_profiles() if {"-h", "--help"} & set(sys.argv) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=available(), help="which profile")
    parser.add_argument("--truth", type=Path, help="write one CSV line per iteration here")
    parser.add_argument(
        "--period-ms", type=float, default=20.0, help="a decode batch (%(default)s)"
    )
    parser.add_argument("--busy", action="store_true", help="compute instead of sleeping")
    parser.add_argument("--seed", type=int, default=1, help="of the requests (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="of /metrics; 0 picks a free one")
    parser.add_argument("--seconds", type=float, help="end after this time")
    parser.add_argument("--padding", help="ignored: makes room for a long title")
    arguments = parser.parse_args()
    if not arguments.period_ms > 0:
        parser.error(f"--period-ms is {arguments.period_ms}: give a number above 0")
    return arguments


def wait_for_the_end(seconds: float | None) -> None:
    """Return when standard input ends or the time is over."""
    deadline_seconds = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline_seconds is None else max(deadline_seconds - time.monotonic(), 0)
        readable, _, _ = select.select([0], [], [], left)
        if not readable or not os.read(0, 4096):
            return


def main() -> int:
    """Start the processes, say where they are, and end them when told."""
    arguments = parse_arguments()
    if arguments.padding is None:
        # A title is written over the command line, so that must be the longer one.
        words = (*sys.argv[1:], "--padding", "x" * _LONGEST_TITLE_BYTES)
        flags = ("-P",) if getattr(sys.flags, "safe_path", False) else ()
        os.execv(sys.executable, [sys.executable, *flags, "-m", "simulator.profiles", *words])
    options = Options(
        truth=arguments.truth,
        period_seconds=arguments.period_ms / 1000,
        busy=arguments.busy,
        seed=arguments.seed,
        port=arguments.port,
    )
    profile = load(arguments.name)
    host = Host(options)
    exit_on_signals(interrupt=True)
    try:
        profile.run(host)
        pids = host.await_ready(profile.processes)
        ready = {"pid": os.getpid(), "port": host.port, "processes": pids}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        wait_for_the_end(arguments.seconds)
    except SystemExit:
        # Told to end: nothing to complain about.
        return 0
    finally:
        host.close()
    return 0


if __name__ == "__main__":
    # Without the usual farewell: an engine thread would go on into a dying interpreter.
    os._exit(main())
