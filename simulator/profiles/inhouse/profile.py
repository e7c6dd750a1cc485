"""An engine that nobody knows: the example of a map that a user writes."""

from __future__ import annotations

from typing import ClassVar

from simulator.profiles.inhouse.acme_serve.engine import run_engine
from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host


class Inhouse(Profile):
    """One process."""

    summary = "an invented engine, acme-serve: AcmeEngine.serve_forever, stats.iteration"
    framework = "acme"
    root = ("acme_serve/engine.py", "AcmeEngine.serve_forever")
    phases = (("acme_serve/engine.py", "AcmeEngine.compute"),)
    metrics: ClassVar[dict[str, str]] = {
        "acme_running": "running_requests",
        "acme_waiting": "waiting_requests",
        "acme_iterations_total": "iterations",
        "acme_tokens_total": "tokens",
    }

    def run(self, host: Host) -> None:
        """Start the engine and become its server."""
        host.start(lambda: run_engine(host), "acme-serve: engine")
        host.become("python3", "-m", "acme_serve", "--model", "tiny")
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = Inhouse()
