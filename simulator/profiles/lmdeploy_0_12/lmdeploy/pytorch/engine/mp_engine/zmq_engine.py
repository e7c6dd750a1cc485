"""The engine in a process of its own."""

from __future__ import annotations

import asyncio

from simulator.profiles.lmdeploy_0_12.lmdeploy.pytorch.engine.engine import Engine
from simulator.profiles.machinery.host import Host


class ZMQMPEngine:
    """Start the engine's loop where multiprocessing spawned it."""

    @staticmethod
    def _mp_proc(host: Host) -> None:
        engine = Engine(host)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        engine.traffic.start()
        host.ready("core")
        loop.run_until_complete(ZMQMPEngine._mp_proc_async(engine))

    @staticmethod
    async def _mp_proc_async(engine: Engine) -> None:
        await engine.async_loop()
