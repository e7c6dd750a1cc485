"""The simulator's engine replica: vLLM's frames and titles under a server of its own."""

from typing import ClassVar

from collectors.discovery import Process
from collectors.engines.vllm import Vllm


class Replica(Vllm):
    """Watch the replica as if it were the vLLM that it imitates, but call it what it is."""

    precedence: ClassVar[int] = 1
    needs_api_server: ClassVar[bool] = True

    def is_api_server(self, process: Process) -> bool:
        """Tell the replica's server by its module on the command line."""
        return "simulator.replica" in process.arguments
