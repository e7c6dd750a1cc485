"""llama.cpp's server: C++, so that only its metrics page can be read.

This stand-in is Python all the same; an observer must not look for frames in it.
"""

from __future__ import annotations

import time
from typing import ClassVar

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.traffic import Batcher


class LlamaCpp(Profile):
    """One process."""

    summary = "llama.cpp server with --metrics: no Python, the metrics page only"
    framework = "llama_cpp"
    metrics: ClassVar[dict[str, str]] = {
        "llamacpp:requests_processing": "running_requests",
        "llamacpp:requests_deferred": "waiting_requests",
        "llamacpp:kv_cache_usage_ratio": "kv_ratio",
        "llamacpp:prompt_tokens_total": "prompt_tokens",
        "llamacpp:prompt_seconds_total": "prefill_ns",
        "llamacpp:tokens_predicted_total": "generated_tokens",
        "llamacpp:tokens_predicted_seconds_total": "decoding_ns",
        "llamacpp:n_decode_total": "iterations",
    }

    def run(self, host: Host) -> None:
        """Become the server and decode in a thread."""
        host.become("./llama-server", "-m", "tiny.gguf", "--metrics")
        host.serve_metrics(self.metrics_path, self.metrics)
        host.start_thread(lambda: decode_forever(host))


def decode_forever(host: Host) -> None:
    """Run one batch after another."""
    batcher, stream, truth = Batcher(), host.stream(), host.recorder()
    inbox: list[object] = []
    traffic = host.traffic(inbox.append)
    traffic.start()
    host.ready("core")
    sequence = 0
    while True:
        while inbox:
            batcher.waiting.extend(inbox.pop(0))  # type: ignore[arg-type]
        if not batcher.has_unfinished:
            time.sleep(0.001)
            continue
        begin_ns = time.monotonic_ns()
        plan = batcher.next_mixed()
        sequence += 1
        plan.sequence, plan.begin_ns = sequence, begin_ns
        truth.begun.append(plan)
        stream.launch(plan.prefill_tokens).synchronize()
        traffic.finished += batcher.finish(plan)
        plan.end_ns = time.monotonic_ns()


PROFILE = LlamaCpp()
