"""A process's title without the setproctitle package: the engine's words over its own arguments."""

from __future__ import annotations

import ctypes
from pathlib import Path

_PR_SET_NAME = 15
_ARG_START, _ARG_END = 45, 46  # of /proc/self/stat, counted after the command's name


def set_title(*words: str) -> None:
    """Show these words as this process's command line, and the first one as its name.

    The kernel reads a command line from the process's own memory, so writing there is enough.
    """
    text = b"\0".join(word.encode() for word in words)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    if len(text) >= end - start:
        raise ValueError(
            f"the title {text!r} is longer than the {end - start} bytes that the process was "
            "started with: start it with a longer command line"
        )
    # A last byte that is no NUL would make the kernel go on into the environment.
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    name = words[0].rpartition("/")[2].encode()[:15]
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)
