"""What stands between an executor and the worker in its process."""

from __future__ import annotations

from typing import Any


class WorkerWrapperBase:
    """Pass calls on."""

    def __init__(self, worker: Any) -> None:
        self.rpc_rank = 0
        self.worker = worker

    def execute_model(self, scheduler_output: Any) -> Any:
        """Forward a batch."""
        return self.worker.execute_model(scheduler_output)

    def __getattr__(self, name: str) -> Any:
        """Give what only the worker has."""
        return getattr(self.worker, name)
