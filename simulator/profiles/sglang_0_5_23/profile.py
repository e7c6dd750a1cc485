"""SGLang 0.5.16 to 0.5.23: the scheduler in components; two ranks."""

from __future__ import annotations

from collections.abc import Callable

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.sglang.profile import SglangProfile
from simulator.profiles.machinery.sglang.srt.managers.scheduler import Channel
from simulator.profiles.sglang_0_5_23.sglang.srt.managers.scheduler import run_scheduler_process


class Sglang0523(SglangProfile):
    """The server, the detokenizer, and a scheduler per rank."""

    summary = "SGLang 0.5.13-0.5.23: scheduler components, forward_iter on the batch, two ranks"
    processes = ("core", "rank1")
    root = ("sglang/srt/managers/scheduler.py", "Scheduler.event_loop_overlap")
    phases = (("sglang/srt/managers/scheduler.py", "Scheduler.process_batch_result"),)

    def scheduler(self, host: Host, rank: int, channels: list[Channel]) -> Callable[[], None]:
        """Give the function that lives as one rank."""
        return lambda: run_scheduler_process(host, rank, channels)


PROFILE = Sglang0523()
