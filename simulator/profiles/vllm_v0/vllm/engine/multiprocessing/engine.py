"""The engine's process and its loop."""

from __future__ import annotations

import queue
from typing import Any, NoReturn

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_v0.vllm.engine.llm_engine import LLMEngine


class MQLLMEngine:
    """Wrap the engine for clients in another process."""

    def __init__(self, host: Host) -> None:
        self.engine = LLMEngine(host)
        self.input_socket: queue.Queue[Any] = queue.Queue()
        self._traffic = host.traffic(self.input_socket.put_nowait)
        self._traffic.start()
        host.ready("core")

    def start(self) -> NoReturn:
        """Run until the process ends."""
        self.run_engine_loop()

    def run_engine_loop(self) -> NoReturn:
        """Wait for work, run one step, and again."""
        while True:
            if not self.engine.has_unfinished_requests():
                self._add(self.input_socket.get())
            self.handle_new_input()
            request_outputs = self.engine_step()
            self._send_outputs(request_outputs)

    def handle_new_input(self) -> None:
        """Take what has come meanwhile."""
        while not self.input_socket.empty():
            self._add(self.input_socket.get_nowait())

    def _add(self, requests: list[Any]) -> None:
        for request in requests:
            self.engine.scheduler[0].waiting.append(request)

    def engine_step(self) -> int:
        """Run one step."""
        return self.engine.step()

    def _send_outputs(self, num_finished: int) -> None:
        self._traffic.finished += num_finished


def run_mp_engine(host: Host) -> None:
    """Live as the engine's process."""
    engine = MQLLMEngine(host)
    engine.start()
