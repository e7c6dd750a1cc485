"""Hugging Face transformers 5, continuous batching: a thread of the process that asked for it."""

from __future__ import annotations

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.transformers_cb.transformers.generation.continuous_batching import (
    continuous_api,
)


class TransformersCb(Profile):
    """One process; it has no metrics page."""

    summary = "transformers 5: ContinuousBatchingManager._run_generation_loop, current_batch"
    framework = "transformers"
    root = (
        "transformers/generation/continuous_batching/continuous_api.py",
        "ContinuousBatchingManager._run_generation_loop",
    )
    phases = (
        (
            "transformers/generation/continuous_batching/continuous_api.py",
            "ContinuousBatchProcessor._generation_step",
        ),
    )

    def run(self, host: Host) -> None:
        """Become the server and start the manager's thread."""
        host.become("python3", "/usr/local/bin/transformers", "serve", "tiny")
        host.start_thread(lambda: continuous_api.run_manager(host))


PROFILE = TransformersCb()
