"""Watch a running Python inference engine from outside by reading its memory.

The engine is never stopped, nothing is executed in it, and nothing is written to it. Of its text
only names are read: those of functions, files and variables in code objects, the keys of attribute
dictionaries and of classes, the names of built-in types, and the names of enum members, which are
compared with those of the spec and never handed out. Requests, prompts and outputs cannot be read
by construction: a field is a number, a length or a position in a list of the spec.
"""

from typing import final

__version__: str

EVENT_HEADER: str
"""`struct` format of an event: kind, flags, payload_words, code, counter, at_ns, gap_ns.

`payload_words` signed 64-bit words follow. Times are CLOCK_MONOTONIC nanoseconds, the clock of
`monotonic_ns()` and of `time.monotonic_ns()` in every process of the host.
"""

UNKNOWN: int
"""What stands in a payload for a number that could not be read (the smallest signed 64-bit)."""

BEGIN: int
"""Kind 1: an iteration began. `code` = iterations that passed unseen before it.

`at_ns` is the midpoint of the two polls around the change, `gap_ns` their distance.
"""
BATCH: int
"""Kind 2: the iteration's batch. Payload: the fields, then the gauges, in the order of the spec."""
END: int
"""Kind 3: the iteration ended; `at_ns` and `gap_ns` as for BEGIN.

The step function (or the call) was left, the queue of an overlapped engine is empty, or the
attribute of the spec's `end` became None. Missing when the next iteration begins within one poll
period, or overlaps: then the next BEGIN ends it.
"""
STACK: int
"""Kind 4: one stack sample. Payload: index into `phases`, or PHASE_NONE, or PHASE_TORN."""
GAUGES: int
"""Kind 6: the gauges by themselves, in the order of the spec.

Read once no iteration has begun or ended for a quarter of a second, and then each second: also
while the engine's loop hangs, or its process is stopped.
"""
STATE: int
"""Kind 5: about the reading itself; see the STATE_ codes."""

STATE_ATTACHED: int
"""Code 1: the counter or the calls were found; payload: index of the counter choice or -1, rung.

The rung is 1 when iterations are read from a counter, 2 when calls on the stack are counted; then
`counter` is the number of calls seen, from 1.
"""
STATE_PROCESS_GONE: int
"""Code 2: the process ended; no more events follow."""
STATE_PERMISSION_LOST: int
"""Code 3: the kernel refuses further reads; no more events follow; see `Sampler.last_error`."""
STATE_SLOT_LOST: int
"""Code 4: the counter is not where it was; it is looked for every 250 ms."""
STATE_LAGGING: int
"""Code 5: over a fifth of the ticks of the last second was missed; payload: missed, due."""
STATE_SELF_CHECK_FAILED: int
"""Code 6: most stacks disagree with py-spy's; from now on phases come from py-spy at up to 10 Hz.

Batches, ENDs by a step, and calls are no longer read; see `Sampler.last_error`.
"""

FLAG_INSIDE_STEP: int
"""Flag bit of a STACK event: a step function or a call was on the stack."""
PHASE_NONE: int
"""-1: no phase function between the root function and the leaf."""
PHASE_TORN: int
"""-2: no consistent stack that starts at the root function."""

class SamplerError(Exception):
    """The engine cannot be read; every text ends with what to do."""

class ProcessGone(SamplerError):
    """The process has ended, or its number now belongs to another one."""

class PermissionRefused(SamplerError):
    """The kernel does not let this user read the process."""

class UnsupportedPython(SamplerError):
    """The process runs no Python, or one whose layout is not known (known: CPython 3.11 to 3.14).

    A free-threaded build (3.13t, 3.14t) is not known either.
    """

class AnchorMissing(SamplerError):
    """No thread runs a root function, or there is no value at a counter path and no `call`."""

@final
class Sampler:
    """Watches one process: iterations by its own counter, batches by its objects, phases by stack.

    A thread of its own does the reading and never needs the GIL.

    Args:
        pid: The engine process, seen from this process's PID namespace.
        spec: JSON; see the README. Unknown keys are refused.
        poll_hz: Looks at the counter per second, 1 to 20000, wherever an iteration may begin or
            end; through most of a running iteration and on an idle engine there are fewer.
        stack_hz: Stack samples per second, 0 (none) to `poll_hz`.
        queue_capacity: Events kept between two polls; beyond it the oldest are dropped and counted.
        realtime: Ask for the lowest real-time priority (SCHED_FIFO 1) instead of nice -10. On a
            busy host only this keeps the polls on time, because niceness counts within one login
            session (sched_autogroup). Needs CAP_SYS_NICE; a refusal is no error, see `realtime` in
            `stats()`. It is given back when the thread takes over a quarter of a core.

    Raises:
        ValueError: The spec or a number is not valid; the text names it.

    """

    def __new__(
        cls,
        pid: int,
        spec: str,
        *,
        poll_hz: int = 1000,
        stack_hz: int = 100,
        queue_capacity: int = 65536,
        realtime: bool = False,
    ) -> Sampler: ...
    def start(self) -> None:
        """Attach and start reading; takes 20 to 300 ms.

        Raises:
            ProcessGone: There is no such process.
            PermissionRefused: Neither the same user nor CAP_SYS_PTRACE.
            UnsupportedPython: Not Python, or not a version that can be read.
            AnchorMissing: The root function does not run there, or has no such counter.
            SamplerError: It was started before.

        """
    def poll(self, timeout_seconds: float, max_bytes: int = 1 << 20) -> bytes:
        """Wait for events and return them packed; `b""` when there were none.

        A BEGIN, END or STATE event ends the wait; BATCH and STACK events ride along. At least one
        event is returned even if it is larger than `max_bytes`. Once the reading has ended (see
        `alive`) the rest is handed out and then `b""` at once.

        Raises:
            SamplerError: It was not started.

        """
    def set_rates(self, poll_hz: int, stack_hz: int) -> None:
        """Change the rates (per second) from the next tick on; limits as for the constructor."""
    def stats(self) -> dict[str, int]:
        """Return what was done since the start.

        polls, missed_ticks, iterations (BEGIN events), missed_iterations (passed unseen),
        batch_reads (attempts), batch_failures (attempts not kept), torn (reads repeated or left
        out), stacks, stack_failures, dropped_events, resolves, thread_cpu_ns, syscalls,
        realtime (1 while the thread has real-time priority), rung (1 counter, 2 stack, 0 while
        nothing is found), self_check (0 not done, 1 agreed with py-spy, 2 disagreed).
        """
    def last_error(self) -> str | None:
        """Return why attaching failed or the reading ended, or None."""
    def stop(self) -> None:
        """End the reading; takes at most 50 ms. Calling it again is harmless."""
    @property
    def python_version(self) -> str:
        """The engine's Python version, once started."""
    @property
    def alive(self) -> bool:
        """Whether the reading goes on."""

def dump_stacks(pid: int) -> str:
    """Return the stacks of all threads as JSON, leaf first; takes 20 to 500 ms, any CPython.

    A list of objects: thread_id, thread_name, os_thread_id, active, and frames, each with name,
    filename and line. The process is not stopped, so a stack may mix two moments.

    Raises:
        ProcessGone: There is no such process.
        PermissionRefused: Neither the same user nor CAP_SYS_PTRACE.
        UnsupportedPython: Not a Python process that can be read.

    """

def monotonic_ns() -> int:
    """Return CLOCK_MONOTONIC in nanoseconds, the clock of all events."""
