"""Folders of our own on a disk, and whether what they will hold fits."""

from __future__ import annotations

import secrets
import shutil

from simulator.injection.base import Machine
from simulator.injection.steps import OWN_PREFIX

# Space that has to stay free for everybody else.
SPARE_BYTES = 1 << 30


def own_name(fault: str) -> str:
    """Make up a name that is ours and nobody else's, for a folder or a control group."""
    return f"{OWN_PREFIX}{fault.replace('_', '-')}-{secrets.token_hex(4)}"


def obstacle(needed_bytes: int, machine: Machine) -> str | None:
    """Say so where the disk of the scratch folder is too full."""
    try:
        free_bytes = shutil.disk_usage(machine.scratch).free
    except OSError as err:
        return f"no folder {machine.scratch} ({err.strerror}): choose another --scratch"
    if free_bytes >= needed_bytes + SPARE_BYTES:
        return None
    return (
        f"{machine.scratch} has {free_bytes >> 20} MiB free and it takes "
        f"{(needed_bytes + SPARE_BYTES) >> 20}: choose another --scratch"
    )
