"""Where processes stand in the control groups, of either version."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from simulator.injection.base import Machine


@dataclass(frozen=True, slots=True)
class Group:
    """A control group as a folder of this machine.

    Attributes:
        folder: Where it is.

        version: 1 or 2.

        top: Folder of the whole tree.
    """

    folder: Path
    version: int
    top: Path


def find_group(pid: int | str, controller: str, machine: Machine) -> Group | None:
    """Give the group that limits a process by a controller; None where it cannot be seen."""
    paths = parse_paths(_read(machine.path(f"/proc/{pid}/cgroup")), controller)
    version = 1 if 1 in paths else 2
    if version not in paths:
        return None
    mounts = parse_mounts(_read(machine.path("/proc/self/mountinfo")), controller)
    for top, shown, mounted in mounts:
        below = _below(paths[version], shown)
        if mounted == version and below is not None:
            folder = machine.path(top) / below.lstrip("/")
            if folder.is_dir():
                return Group(folder=folder, version=version, top=machine.path(top))
    return None


def parse_paths(text: str, controller: str) -> dict[int, str]:
    """Give the path of a process in a controller's tree by version (``/proc/<pid>/cgroup``)."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found[2] = path
        elif controller in controllers.split(","):
            found[1] = path
    return found


def parse_mounts(text: str, controller: str) -> list[tuple[str, str, int]]:
    """Give folder, group shown there and version of each tree (``/proc/self/mountinfo``)."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 5 or len(tail) < 3:
            continue
        if tail[0] == "cgroup2":
            found.append((fields[4], fields[3], 2))
        elif tail[0] == "cgroup" and controller in tail[2].split(","):
            found.append((fields[4], fields[3], 1))
    return found


def controllers_below(folder: Path) -> tuple[str, ...]:
    """Give the controllers that a version 2 group hands on to the groups below it."""
    return tuple(_read(folder / "cgroup.subtree_control").split())


def obstacle(pid: int | str, controller: str, machine: Machine) -> str | None:
    """Say why no group for this controller can be made beside or below that of a process."""
    group = find_group(pid, controller, machine)
    if group is None:
        return (
            f"no control group with the controller {controller} is to be seen for process {pid}: "
            "mount /sys/fs/cgroup, or run it on the host itself"
        )
    known = group.version == 1 or controller in _read(group.folder / "cgroup.controllers").split()
    if not known:
        return (
            f"{group.folder} has no controller {controller}: enable it in the "
            "cgroup.subtree_control of the group above (systemd: Delegate=yes)"
        )
    if not os.access(group.folder, os.W_OK):
        return f"{group.folder} is not writable: run it as root on the host itself"
    return None


def _below(path: str, shown: str) -> str | None:
    if shown == "/":
        return None if path.startswith("/..") else path
    if path == shown or path.startswith(f"{shown}/"):
        return path[len(shown) :]
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
