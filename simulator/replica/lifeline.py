"""A child process must not outlive its parent, even one that was killed."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, signal_number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when its parent ends.

    The kernel watches the *thread* that started this process, so start children
    from a thread that lives as long as its process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl failed: {os.strerror(errno)}; run the replica on Linux")
    if os.getppid() != parent_pid:
        # The parent ended before the request was made: no signal will come.
        os._exit(1)
