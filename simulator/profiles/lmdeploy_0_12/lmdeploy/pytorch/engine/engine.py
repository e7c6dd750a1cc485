"""The engine: one task makes inputs and takes outputs, another runs the model."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from simulator.profiles.lmdeploy_0_12.lmdeploy.pytorch.engine.model_agent.agent import (
    BaseModelAgent,
)
from simulator.profiles.lmdeploy_0_12.lmdeploy.pytorch.model_inputs import (
    ModelInputs,
    ModelInputsDelta,
)
from simulator.profiles.lmdeploy_0_12.lmdeploy.pytorch.paging.scheduler import Scheduler
from simulator.profiles.machinery.host import Host


class Engine:
    """Schedule, and feed the model agent."""

    def __init__(self, host: Host) -> None:
        self.scheduler = Scheduler()
        self.model_agent = BaseModelAgent(host)
        self.inbox: list[Any] = []
        self.traffic = host.traffic(self.inbox.append)

    async def async_loop(self) -> NoReturn:
        """Serve until the process ends."""
        self.model_agent.start()
        while True:
            while self.inbox:
                self.scheduler.waiting.extend(self.inbox.pop(0))
            plan = self.scheduler.schedule()
            if plan is None:
                await asyncio.sleep(0.001)
                continue
            forward_inputs: dict[str, Any]
            if plan.prefill_tokens:
                forward_inputs = {"inputs": ModelInputs(plan), "delta": None}
            else:
                forward_inputs = {"inputs": None, "delta": ModelInputsDelta(plan)}
            self.model_agent.set_forward_inputs(forward_inputs)
            await self.model_agent.get_output_async()
            self.traffic.finished += self.scheduler.batcher.finish(plan)
