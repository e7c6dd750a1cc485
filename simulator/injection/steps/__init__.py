"""What an injection does to a machine, as plain data that another process can undo.

A step is prepared (it remembers what it will change), written to the journal, done, and undone.
Undoing is idempotent, and harmless for a step that was never done: the process that did it may
have been killed in between.
"""

from __future__ import annotations

from typing import TypeAlias

from simulator.injection.steps.base import OWN_PREFIX, StepError
from simulator.injection.steps.cgroups import Cgroup, Join
from simulator.injection.steps.folders import Scratch
from simulator.injection.steps.network import QDISC_HANDLE, Qdisc
from simulator.injection.steps.process_state import (
    PF_KTHREAD,
    ProcessState,
    ancestors_of,
    start_ticks_of,
    state_of,
)
from simulator.injection.steps.processes import Pin, Resume
from simulator.injection.steps.replica import HTTP_SECONDS, Post
from simulator.injection.steps.settings import COMMAND_SECONDS, Run, Write
from simulator.injection.steps.workers import Work

__all__ = [
    "COMMAND_SECONDS",
    "HTTP_SECONDS",
    "OWN_PREFIX",
    "PF_KTHREAD",
    "QDISC_HANDLE",
    "Cgroup",
    "Join",
    "Pin",
    "Post",
    "ProcessState",
    "Qdisc",
    "Resume",
    "Run",
    "Scratch",
    "Step",
    "StepError",
    "Work",
    "Write",
    "ancestors_of",
    "start_ticks_of",
    "state_of",
]

Step: TypeAlias = Run | Write | Cgroup | Join | Pin | Resume | Post | Scratch | Qdisc | Work
