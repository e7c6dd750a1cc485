"""A process of our own that uses an accelerator beside the engine, through PyTorch.

Builds of PyTorch for AMD carry the names of CUDA too, so one code serves both vendors.
"""

from __future__ import annotations

import importlib
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from simulator.faults.accelerators.vendors import VENDORS
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Step, Work

MEBIBYTE = 2**20
# What hides devices, or counts them anew.
HIDING = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
REST_SECONDS = 0.05
# A context, and the libraries' own space, beside what we ask for.
TENANT_BYTES = 1e9


class Tenant(Injector):
    """A fault made by a process per device that is busy a share of the time."""

    unit: ClassVar[str] = "share of the time that it is busy"
    levels: ClassVar[Levels] = Levels(light=0.25, medium=0.5, heavy=1.0)
    limits: ClassVar[tuple[float, float]] = (0.05, 1.0)
    needs: ClassVar[Needs] = Needs(modules=("torch",), vendors=VENDORS)

    together: ClassVar[int] = 1
    """How many devices one process needs at least; 1 gives each device a process of its own."""

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say what is missing, and whether there are enough devices."""
        found = super().obstacles(target, machine)
        if len(set(target.devices)) < self.together:
            found.append(
                f"it is aimed at {self.together} or more accelerators: name as many with --device"
            )
        return found

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Start a process on each device, or one on all of them."""
        del machine
        devices = sorted(set(target.devices))
        groups = [devices] if self.together > 1 else [[device] for device in devices]
        name = type(self).__module__.rpartition(".")[2]
        return [
            Work(fault=name, options={"devices": group, "share": intensity}) for group in groups
        ]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Be busy for a share of the time, in bursts of some milliseconds."""
        torch = open_torch(options["devices"])
        keep_busy(options["share"], running, self.burst(torch, options))

    @abstractmethod
    def burst(self, torch: Any, options: dict[str, Any]) -> Callable[[], None]:
        """Make ready, and give what makes one burst and waits for its end.

        Args:
            torch: The module; its devices 0, 1, ... are those that were asked for.

            options: As `work` got them: ``devices`` and ``share``.
        """


def open_torch(devices: Sequence[int]) -> Any:
    """Import PyTorch so that it sees just these devices, counted as the vendor's tool does."""
    for name in HIDING:
        os.environ.pop(name, None)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    torch = importlib.import_module("torch")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < len(devices):
        raise RuntimeError(
            f"PyTorch sees {seen} of the accelerators {list(devices)}: install a build of it for "
            "this driver, and check --device"
        )
    return torch


def keep_busy(share: float, running: Callable[[], bool], burst: Callable[[], None]) -> None:
    """Repeat a burst, and rest between two so long that it is busy for a share of the time."""
    while running():
        begin = time.monotonic()
        burst()
        rest((time.monotonic() - begin) * (1 / share - 1), running)


def rest(seconds: float, running: Callable[[], bool]) -> None:
    """Sleep, but not past the end."""
    end = time.monotonic() + seconds
    while running() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, REST_SECONDS))


def free_bytes(torch: Any, device: int = 0) -> int:
    """Give how much of a device's memory is free."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def buffer_bytes(torch: Any, devices: int, most: int, least: int = 16 * MEBIBYTE) -> int:
    """Give a size for a buffer: as much as is wanted, but an eighth of what is free at most.

    Raises:
        RuntimeError: That is too little to be of use.
    """
    room = min(free_bytes(torch, device) for device in range(devices)) // 8
    if room < least:
        raise RuntimeError(
            f"only {8 * room // MEBIBYTE} MiB of the device's memory is free: leave more to us, as "
            "with a lower --gpu-memory-utilization of the engine"
        )
    return min(most, room)


def wait(torch: Any, streams: Sequence[Any]) -> None:
    """Wait for all that was asked of some streams, asleep: spinning would cost a CPU."""
    for stream in streams:
        done = torch.cuda.Event(blocking=True)
        done.record(stream)
        done.synchronize()
