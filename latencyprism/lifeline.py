"""Processes that we start end with us, however we end."""

import ctypes
import os
import signal

# Set for a process by the one that started it and supervises it; not for users.
SUPERVISOR = "SUPERVISED_BY_PID"
PR_SET_PDEATHSIG = 1


def follow_supervisor() -> None:
    """Get a SIGTERM when the process that supervises this one ends, if one does."""
    if os.environ.get(SUPERVISOR) == str(os.getppid()):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
