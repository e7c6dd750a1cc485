"""Interrupt load: a flood of small packets on loopback, and timers at a high rate."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Target, processes_for
from simulator.injection.steps import Step, Work

PACKET = bytes(16)
PACKETS_PER_LOOK = 2000
TIMER_THREADS = 4
TIMER_SECONDS = 50e-6
PR_SET_TIMERSLACK = 29


class InterruptLoad(Injector):
    """Send small packets to oneself as fast as it goes: each takes a soft interrupt.

    Loopback has no hardware, so hard interrupts come from the timers only.
    """

    summary = "soft interrupts by a flood of small packets on loopback, and fast timers"
    touches = (
        "takes CPU time from every process on the host, at the kernel's priority, by up to 512 "
        "processes"
    )
    causes = ("interrupt_load", "host_cpu_contention")
    unit = "flooding processes per CPU"
    levels = Levels(light=0.5, medium=1.0, heavy=2.0)
    limits = (0.01, 8.0)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Start the processes."""
        del target
        return [Work(fault="interrupt_load", count=processes_for(intensity, len(machine.cpus)))]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Flood a socket that nobody reads: what does not fit is dropped in the interrupt."""
        del options
        ended = threading.Event()
        timers = [
            threading.Thread(target=_tick, args=(ended,), daemon=True) for _ in range(TIMER_THREADS)
        ]
        for timer in timers:
            timer.start()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("127.0.0.1", 0))
            sender.connect(receiver.getsockname())
            while running():
                for _ in range(PACKETS_PER_LOOK):
                    sender.send(PACKET)
        ended.set()
        for timer in timers:
            timer.join()

    def effect(self, intensity: float) -> Effect:
        """Suppose somewhat less than for arithmetic; not measured on a quiet machine."""
        load = min(intensity, 2.0)
        return Effect(
            host_ratio=1 + 0.8 * load,
            host={
                "cpu_irq_ratio": add(min(0.15 * load, 0.4)),
                "cpu_system_ratio": add(min(0.3 * load, 0.6)),
                "others_cpu_ratio": add(min(0.5 * load, 0.9)),
                "cpu_busy_ratio": add(min(0.5 * load, 0.9)),
                "cpu_pressure_ratio": add(min(0.3 * load, 0.8)),
                "context_switches_per_second": add(20_000 * load),
            },
        )


def _tick(ended: threading.Event) -> None:
    """Sleep for so short a time that the timer's interrupt is most of what is done."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    while not ended.is_set():
        time.sleep(TIMER_SECONDS)
