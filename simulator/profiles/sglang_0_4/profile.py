"""SGLang 0.4.4 to 0.5.3: a second thread forwards."""

from __future__ import annotations

from collections.abc import Callable

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.sglang.profile import SglangProfile
from simulator.profiles.machinery.sglang.srt.managers.scheduler import Channel
from simulator.profiles.sglang_0_4.sglang.srt.managers.scheduler import run_scheduler_process


class Sglang04(SglangProfile):
    """The server, the detokenizer, and one scheduler."""

    summary = "SGLang 0.4-0.5.3: forward thread, batch_pt, one rank"
    processes = ("core",)
    root = ("sglang/srt/managers/scheduler.py", "Scheduler.event_loop_overlap")
    phases = (("sglang/srt/managers/scheduler.py", "Scheduler.process_batch_result"),)

    def scheduler(self, host: Host, rank: int, channels: list[Channel]) -> Callable[[], None]:
        """Give the function that lives as one rank."""
        return lambda: run_scheduler_process(host, rank, channels)


PROFILE = Sglang04()
