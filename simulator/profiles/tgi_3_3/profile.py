"""TGI 2.0 to 3.3: a server of one call per iteration, which the router makes."""

from __future__ import annotations

import socket
from typing import ClassVar

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.tgi_3_3.router import run_router
from simulator.profiles.tgi_3_3.text_generation_server.server import serve


class Tgi33(Profile):
    """The launcher, the router with the metrics page, and one shard."""

    summary = "TGI 2.0-3.3: asyncio server, Prefill and Decode calls with a start time"
    framework = "tgi"
    root = ("text_generation_server/server.py", "serve")
    phases = (
        ("text_generation_server/server.py", "TextGenerationService.Decode"),
        ("text_generation_server/models/flash_causal_lm.py", "FlashCausalLM.generate_token"),
    )
    metrics: ClassVar[dict[str, str]] = {
        "tgi_batch_current_size": "running_requests",
        "tgi_queue_size": "waiting_requests",
        'tgi_batch_inference_count{method="prefill"}': "prefill_iterations",
        'tgi_batch_inference_count{method="decode"}': "decode_iterations",
        'tgi_batch_inference_duration_sum{method="prefill"}': "prefill_ns",
        'tgi_batch_inference_duration_count{method="prefill"}': "prefill_iterations",
        'tgi_batch_inference_duration_sum{method="decode"}': "decoding_ns",
        'tgi_batch_inference_duration_count{method="decode"}': "decode_iterations",
        "tgi_request_generated_tokens_sum": "generated_tokens",
        "tgi_request_generated_tokens_count": "finished_requests",
        "tgi_request_success": "finished_requests",
    }

    def run(self, host: Host) -> None:
        """Start the shard and the router and become the launcher."""
        router_end, server_end = socket.socketpair()
        path = "/opt/conda/bin/text-generation-server"
        host.start(lambda: serve(host, server_end), "/usr/bin/python3", path, "serve", "tiny")
        port = ("--port", str(host.port))
        host.start_serving(
            lambda: run_router(host, router_end),
            (self.metrics_path, self.metrics),
            *("text-generation-router", "serve", "tiny", *port),
        )
        host.become("text-generation-launcher", "--model-id", "tiny")


PROFILE = Tgi33()
