"""Which CPU quota a process runs under, and how long its control group was throttled by it.

Both versions of control groups, also where an agent in a container sees the host's groups by way
of the first process only (``/proc/1/root``; needs the host's PID namespace and ``SYS_PTRACE``).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from collectors.host.files import read_int, read_text_or_none

PROC = Path("/proc")
ROOT = Path("/")
# Folders that are looked at to find where our own control group lies in the host's tree.
MOST_FOLDERS = 5000


@dataclass(frozen=True, slots=True)
class Mount:
    """A tree of control groups: where it is mounted, and which group that place shows."""

    folder: str
    root: str
    version: int


@dataclass(frozen=True, slots=True)
class Level:
    """A control group with a CPU quota, of the process or above it."""

    folder: str
    limit_cores: float
    version: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What limits the CPU of a process: nothing, where there is no level."""

    levels: tuple[Level, ...] = ()

    @property
    def limit_cores(self) -> float | None:
        """The tightest quota."""
        return min((level.limit_cores for level in self.levels), default=None)


def parse_cgroup(text: str) -> dict[int, str]:
    """Give the path of a process in the CPU's tree by version, from ``/proc/<pid>/cgroup``."""
    paths: dict[int, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator:
            continue
        if number == "0" and not controllers:
            paths[2] = path
        elif "cpu" in controllers.split(","):
            paths[1] = path
    return paths


def parse_mounts(text: str) -> list[Mount]:
    """Give the trees that can hold CPU quotas from ``/proc/<pid>/mountinfo``."""
    mounts: list[Mount] = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 5 or len(tail) < 3:
            continue
        folder = fields[4].replace("\\040", " ")
        if tail[0] == "cgroup2":
            mounts.append(Mount(folder, fields[3], 2))
        elif tail[0] == "cgroup" and "cpu" in tail[2].split(","):
            mounts.append(Mount(folder, fields[3], 1))
    return mounts


def parse_cpu_max(text: str) -> float | None:
    """Give the cores of ``cpu.max``; None for no limit."""
    words = text.split()
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit()) or words[1] == "0":
        return None
    return int(words[0]) / int(words[1])


def parse_throttled_seconds(text: str) -> float | None:
    """Give how long a group was throttled from ``cpu.stat`` of either version."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in ("throttled_usec", "throttled_time") and value.strip().isdigit():
            return int(value) / (1e6 if name == "throttled_usec" else 1e9)
    return None


def within(path: str, root: str) -> str | None:
    """Give a group's path below the group that a mount shows; None where it is not below.

    Both are as the kernel shows them to a reader in a namespace of its own: what lies outside of
    that begins with ``/..``.
    """
    if root == "/":
        below = path
    elif path == root or path.startswith(f"{root}/"):
        below = path[len(root) :] or "/"
    else:
        return None
    return None if below.startswith("/..") else below


class Groups:
    """Find the CPU quota of processes.

    Args:
        proc: Root of the process file system.

        root: Folder that all mount points are below; a parameter for tests.
    """

    def __init__(self, proc: Path = PROC, root: Path = ROOT) -> None:
        self._proc = str(proc)
        own = read_text_or_none(f"{proc}/self/mountinfo") or ""
        # The first process sees the whole host's tree, whatever ours shows.
        host = read_text_or_none(f"{proc}/1/mountinfo") or ""
        self._mounts = [(mount, _join(str(root), mount.folder)) for mount in parse_mounts(own)] + [
            (mount, _join(f"{proc}/1/root", mount.folder)) for mount in parse_mounts(host)
        ]
        self._own_paths: dict[str, str | None] = {}

    def quota(self, pid: int) -> Quota | None:
        """Give what limits a process now; None where its control group cannot be seen."""
        paths = parse_cgroup(read_text_or_none(f"{self._proc}/{pid}/cgroup") or "")
        # Where both versions are mounted, the CPU is in one of them; version 2 names none.
        version = 1 if 1 in paths else 2
        found = self._folder(version, paths[version]) if version in paths else None
        return None if found is None else Quota(tuple(_levels(*found, version)))

    def _folder(self, version: int, path: str) -> tuple[str, str] | None:
        """Give the folder of a group, and of the top of its tree."""
        for mount, folder in self._mounts:
            if mount.version != version:
                continue
            below = within(path, mount.root)
            if below is None and mount.root.startswith("/.."):
                below = self._by_our_own(version, path, folder)
            if below is not None and os.path.isdir(_join(folder, below)):
                return _join(folder, below), folder
        return None

    def _by_our_own(self, version: int, path: str, tree: str) -> str | None:
        """Give the path within ``tree`` of a group that is named by its way from our own."""
        if tree not in self._own_paths:
            ours = [
                folder
                for mount, folder in self._mounts
                if mount.version == version and mount.root == "/"
            ]
            self._own_paths[tree] = find_folder(tree, ours[0]) if ours else None
        own = self._own_paths[tree]
        return None if own is None else os.path.normpath(f"{own}/{path}")


def find_folder(tree: str, wanted: str, most_folders: int = MOST_FOLDERS) -> str | None:
    """Give the path below ``tree`` of the folder that ``wanted`` is; None where it is not found.

    The same control group has the same inode number, wherever it is mounted.
    """
    try:
        number = os.stat(wanted).st_ino
        if os.stat(tree).st_ino == number:
            return "/"
    except OSError:
        return None
    looked_at = 0
    for folder, names, _ in os.walk(tree):
        for name in names:
            looked_at += 1
            if looked_at > most_folders:
                return None
            try:
                if os.stat(f"{folder}/{name}").st_ino == number:
                    return f"{folder}/{name}"[len(tree) :]
            except OSError:
                continue
    return None


def _levels(folder: str, top: str, version: int) -> Iterator[Level]:
    """Give the groups with a quota from this one up: each of them limits the process."""
    while folder.startswith(top):
        cores = _limit_cores(folder, version)
        if cores is not None:
            yield Level(folder, cores, version)
        if folder.rstrip("/") == top.rstrip("/"):
            return
        folder = os.path.dirname(folder.rstrip("/"))


def _limit_cores(folder: str, version: int) -> float | None:
    if version == 2:
        return parse_cpu_max(read_text_or_none(f"{folder}/cpu.max") or "")
    quota_us = read_int(f"{folder}/cpu.cfs_quota_us")
    period_us = read_int(f"{folder}/cpu.cfs_period_us")
    if quota_us is None or period_us is None or quota_us < 0 or period_us <= 0:
        return None
    return quota_us / period_us


def read_throttled_seconds(quota: Quota) -> float | None:
    """Give how long a process's groups were throttled, of the level where that is longest.

    0 where no level has a quota: then nothing can be throttled.
    """
    if not quota.levels:
        return 0.0
    found = [
        parse_throttled_seconds(read_text_or_none(f"{level.folder}/cpu.stat") or "")
        for level in quota.levels
    ]
    known = [seconds for seconds in found if seconds is not None]
    return max(known, default=None)


def _join(folder: str, path: str) -> str:
    return f"{folder.rstrip('/')}/{path.strip('/')}".rstrip("/") or "/"
