# mypy: ignore-errors
# It runs inside the engine, in which nothing of ours is installed.
"""Make a vLLM V1 engine core write down each of its iterations: for the benchmark only.

Put this folder on PYTHONPATH and name a file in LATENCYPRISM_TRUTH; Python imports a module of this
name by itself when it starts. `EngineCore.step` is wrapped, so all frames keep their names. One CSV
line per iteration, in the columns of the simulator's truth file; monotonic nanoseconds.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time

TARGET = "vllm.v1.engine.core"


def wrap(core):
    """Write a line around each step that scheduled tokens."""
    step = core.EngineCore.step
    file = open(os.environ["LATENCYPRISM_TRUTH"], "a", buffering=1 << 16)  # noqa: SIM115 - for life
    last_flush = [0.0]

    def logged_step(self):
        scheduler = self.scheduler
        waiting = len(scheduler.waiting)
        schedule, kept = scheduler.schedule, []

        def keep(*arguments, **named):
            kept.append(schedule(*arguments, **named))
            return kept[-1]

        scheduler.schedule = keep
        begin_ns = time.monotonic_ns()
        try:
            return step(self)
        finally:
            end_ns = time.monotonic_ns()
            del scheduler.schedule
            if kept and kept[0].total_num_scheduled_tokens:
                write(scheduler, kept[0], begin_ns, end_ns, waiting)

    def write(scheduler, output, begin_ns, end_ns, waiting):
        lengths = output.num_scheduled_tokens.values()
        computed = sum(output.scheduled_cached_reqs.num_computed_tokens) + sum(
            one.num_computed_tokens for one in output.scheduled_new_reqs
        )
        numbers = (
            scheduler.current_step,
            begin_ns,
            end_ns,
            len(lengths),
            output.total_num_scheduled_tokens,
            sum(length for length in lengths if length > 1),
            sum(length == 1 for length in lengths),
            computed + output.total_num_scheduled_tokens,
            waiting,
        )
        file.write(",".join(map(str, numbers)) + "\n")
        now = time.monotonic()
        if now - last_flush[0] > 1.0:
            last_flush[0] = now
            file.flush()

    core.EngineCore.step = logged_step


class Finder(importlib.abc.MetaPathFinder):
    """Wrap the engine core when it is imported."""

    def find_spec(self, name, path, target=None):
        """Find the module as Python would, and patch it after it was loaded."""
        if name != TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_wrap(module):
            run(module)
            wrap(module)

        spec.loader.exec_module = run_and_wrap
        return spec


if os.environ.get("LATENCYPRISM_TRUTH"):
    sys.meta_path.insert(0, Finder())
