"""One process that loads the machine for a fault; `keeper` starts it and it dies with the keeper.

It says ``ready`` on standard output when the fault's `work` first asks whether it should go on.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from simulator.faults import load

READY = b"ready\n"
PARENT = "LATENCYPRISM_FAULT_PARENT"
SECONDS = "LATENCYPRISM_FAULT_SECONDS"
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        # It ended before we had asked.
        os._exit(1)


def name_process(title: str, short: str) -> None:
    """Show who we are in ``ps`` and ``top``; the kernel's own name has 15 letters."""
    # Our mark in the environment has to stay where it is.
    os.environ["SPT_NOENV"] = "1"
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").setproctitle(title)
    ctypes.CDLL(None).prctl(PR_SET_NAME, short.encode()[:15], 0, 0, 0)


def running_until(parent_pid: int, deadline_seconds: float, say: BinaryIO) -> Callable[[], bool]:
    """Make the question that `Injector.work` asks; the first one says that it is under way."""
    asked = False
    told_to_end = False

    def end(_number: int, _frame: object) -> None:
        nonlocal told_to_end
        told_to_end = True

    signal.signal(signal.SIGTERM, end)

    def running() -> bool:
        nonlocal asked
        if not asked:
            asked = True
            say.write(READY)
            say.flush()
        return (
            not told_to_end and time.monotonic() < deadline_seconds and os.getppid() == parent_pid
        )

    return running


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one worker of a fault."""
    parser = argparse.ArgumentParser(prog="python -m simulator.injection.worker")
    parser.add_argument("fault")
    parser.add_argument("options", help="JSON")
    given = parser.parse_args(arguments)
    parent_pid = int(os.environ.get(PARENT, os.getppid()))
    die_with(parent_pid)
    # With automatic groups (autogroup) the kernel gives each session the same share of a CPU, so
    # neighbours count as many only if each is a session of its own, as real ones are.
    with contextlib.suppress(PermissionError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name_process(f"latencyprism-fault {given.fault}", f"fault-{given.fault}")
    with contextlib.suppress(OSError):
        # Where memory runs out, this is the process to kill.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # What libraries print belongs to standard error; ours is a channel to the keeper.
    say = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    seconds = float(os.environ.get(SECONDS, "60"))
    running = running_until(parent_pid, time.monotonic() + seconds, say)
    try:
        load(given.fault).work(msgspec.json.decode(given.options), running)
    except Exception as err:
        say.write(f"{type(err).__name__}: {err}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
