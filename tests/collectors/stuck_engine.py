"""An engine of a few lines that gets stuck; any CPython from 3.11 on runs it.

usage: stuck_engine.py WHERE

WHERE is `inside` an iteration, `between` two with requests that run and wait, `idle` with none, or
`nowhere`. Prints "ready", runs some iterations, and prints "stuck". Standard library only.
"""

from __future__ import annotations

import sys
import time
from collections import deque

ITERATIONS = 60
SECONDS = 0.01


class Scheduler:
    def __init__(self) -> None:
        self.current_step = 0
        self.running = [object(), object()]
        self.waiting = deque([object()])


class Core:
    def __init__(self, where: str) -> None:
        self.where = where
        self.scheduler = Scheduler()

    def run_busy_loop(self) -> None:
        for _ in range(ITERATIONS):
            self.step()
            time.sleep(SECONDS)
        if self.where == "idle":
            self.scheduler.running.clear()
            self.scheduler.waiting.clear()
        if self.where in ("between", "idle"):
            self.hang()
        while True:
            self.step(is_stuck=self.where == "inside")

    def step(self, is_stuck: bool = False) -> None:
        self.scheduler.current_step += 1
        time.sleep(SECONDS)
        if is_stuck:
            self.hang()

    def hang(self) -> None:
        print("stuck", flush=True)  # noqa: T201
        time.sleep(3600)


if __name__ == "__main__":
    print("ready", flush=True)  # noqa: T201
    Core(sys.argv[1]).run_busy_loop()
