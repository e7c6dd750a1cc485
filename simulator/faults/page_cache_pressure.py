"""Page-cache pressure: files that are written and read again and again, past the cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulator.faults import disk
from simulator.faults.disk import own_name
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Target
from simulator.injection.steps import Scratch, Step, Work

FILE_BYTES = 256 << 20
PIECE_BYTES = 1 << 20


class PageCachePressure(Injector):
    """Stream a file of 256 MiB to the disk, drop it from the cache, and read it back."""

    summary = "streams that write and read files, so that the page cache turns over"
    touches = "loads the disk of the scratch folder, with 256 MiB there for each stream"
    causes = ("disk_pressure", "memory_pressure")
    unit = "streams"
    levels = Levels(light=1, medium=2, heavy=4)
    limits = (1, 16)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so where the files may not fit."""
        blocked = disk.obstacle(round(self.limits[1]) * FILE_BYTES, machine)
        return super().obstacles(target, machine) + ([blocked] if blocked else [])

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Make a folder, and start the streams in it."""
        del target
        folder = str(machine.scratch / own_name("page_cache_pressure"))
        work = Work(fault="page_cache_pressure", count=round(intensity), options={"folder": folder})
        return [Scratch(path=folder), work]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Write the file and read it, for ever in the same place."""
        path = Path(options["folder"], f"stream-{os.getpid()}")
        piece = os.urandom(PIECE_BYTES)
        with _opened(path) as file:
            while running():
                for begin in range(0, FILE_BYTES, PIECE_BYTES):
                    os.pwrite(file, piece, begin)
                    if not running():
                        return
                os.fdatasync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                for begin in range(0, FILE_BYTES, PIECE_BYTES):
                    os.pread(file, PIECE_BYTES, begin)
                    if not running():
                        return
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def effect(self, intensity: float) -> Effect:
        """Follow the replica on 2 busy CPUs: 1.35 to 1.4 times, whatever the number of streams."""
        load = min(intensity / 4, 1.0)
        return Effect(
            host_ratio=1 + 0.4 * load**0.25,
            host={
                "io_pressure_ratio": add(0.9 * load**0.5),
                "disk_busy_ratio": add(0.9 * load**0.5),
                "cpu_iowait_ratio": add(0.4 * load**0.5),
                "disk_read_bytes_per_second": add(200e6 * load**0.5),
                "disk_written_bytes_per_second": add(200e6 * load**0.5),
                "others_cpu_ratio": add(0.15 * load),
                "cpu_busy_ratio": add(0.15 * load),
            },
        )


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)
