"""The engine's numbers in Prometheus format, under the names and labels that vLLM 0.32 uses."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from simulator.replica.config import ReplicaConfig
from simulator.replica.vllm.v1.engine import EngineCoreOutputs
from simulator.replica.vllm.v1.engine.output_processor import IterationStats

FINISHED_REASONS = ("stop", "length", "abort", "error")

_ITERATION_TOKENS_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_TTFT_BUCKETS_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
_ITL_BUCKETS_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_BUCKETS_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0),
    *(20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)
_REQUEST_TOKENS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class PrometheusStatLogger:
    """Fold the stats of each iteration into counters, gauges and histograms."""

    def __init__(self, config: ReplicaConfig) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"model_name": config.model_name, "engine": "0"}

        self._running = self._gauge(
            "vllm:num_requests_running", "Number of requests in model execution batches."
        )
        self._waiting = self._gauge(
            "vllm:num_requests_waiting", "Number of requests waiting to be processed."
        )
        self._kv_cache_usage_ratio = self._gauge(
            "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."
        )
        self._prompt_tokens = self._counter(
            "vllm:prompt_tokens", "Number of prefill tokens processed."
        )
        self._generation_tokens = self._counter(
            "vllm:generation_tokens", "Number of generation tokens processed."
        )
        self._preemptions = self._counter(
            "vllm:num_preemptions", "Number of preemptions from the engine."
        )
        self._iteration_tokens = self._histogram(
            "vllm:iteration_tokens_total",
            "Number of tokens per engine step.",
            _ITERATION_TOKENS_BUCKETS,
        )
        self._time_to_first_token_seconds = self._histogram(
            "vllm:time_to_first_token_seconds", "Time to first token.", _TTFT_BUCKETS_SECONDS
        )
        self._inter_token_latency_seconds = self._histogram(
            "vllm:inter_token_latency_seconds", "Inter-token latency.", _ITL_BUCKETS_SECONDS
        )
        self._time_per_output_token_seconds = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "Time per output token of a request.",
            _ITL_BUCKETS_SECONDS,
        )
        self._e2e_seconds = self._request_histogram(
            "vllm:e2e_request_latency_seconds", "End to end request latency."
        )
        self._queue_seconds = self._request_histogram(
            "vllm:request_queue_time_seconds", "Time spent in the WAITING phase."
        )
        self._inference_seconds = self._request_histogram(
            "vllm:request_inference_time_seconds", "Time spent in the RUNNING phase."
        )
        self._prefill_seconds = self._request_histogram(
            "vllm:request_prefill_time_seconds", "Time spent in the PREFILL phase."
        )
        self._decode_seconds = self._request_histogram(
            "vllm:request_decode_time_seconds", "Time spent in the DECODE phase."
        )
        self._request_prompt_tokens = self._histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of a request.", _REQUEST_TOKENS_BUCKETS
        )
        self._request_generation_tokens = self._histogram(
            "vllm:request_generation_tokens",
            "Generated tokens of a request.",
            _REQUEST_TOKENS_BUCKETS,
        )
        success = Counter(
            "vllm:request_success",
            "Number of requests that ended.",
            (*self._labels, "finished_reason"),
            registry=self._registry,
        )
        self._success = {
            reason: success.labels(**self._labels, finished_reason=reason)
            for reason in FINISHED_REASONS
        }
        cache_config = {
            "block_size": str(config.block_size_tokens),
            "num_gpu_blocks": str(config.kv_blocks),
            "enable_prefix_caching": "False",
            "engine": "0",
        }
        Gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig.",
            tuple(cache_config),
            registry=self._registry,
        ).labels(**cache_config).set(1)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(name, text, tuple(self._labels), registry=self._registry)
        return gauge.labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(name, text, tuple(self._labels), registry=self._registry)
        return counter.labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            name, text, tuple(self._labels), registry=self._registry, buckets=buckets
        )
        return histogram.labels(**self._labels)

    def _request_histogram(self, name: str, text: str) -> Histogram:
        return self._histogram(name, text, _REQUEST_BUCKETS_SECONDS)

    def record(self, outputs: EngineCoreOutputs, iteration: IterationStats) -> None:
        """Fold in what one message of the engine core says."""
        stats = outputs.scheduler_stats
        if stats is not None:
            self._running.set(stats.num_running_reqs)
            self._waiting.set(stats.num_waiting_reqs)
            self._kv_cache_usage_ratio.set(stats.kv_cache_usage_ratio)
            if outputs.iteration_ran:
                self._iteration_tokens.observe(stats.iteration_tokens)
                self._preemptions.inc(stats.num_preempted_reqs)
        self._prompt_tokens.inc(iteration.num_prompt_tokens)
        self._generation_tokens.inc(iteration.num_generation_tokens)
        for seconds in iteration.times_to_first_token_seconds:
            self._time_to_first_token_seconds.observe(seconds)
        for seconds in iteration.inter_token_latencies_seconds:
            self._inter_token_latency_seconds.observe(seconds)
        for request in iteration.finished:
            times = request.times
            decode_seconds = times.finished_at_seconds - times.first_token_at_seconds
            self._e2e_seconds.observe(request.e2e_seconds)
            self._queue_seconds.observe(times.scheduled_at_seconds - times.queued_at_seconds)
            self._inference_seconds.observe(times.finished_at_seconds - times.scheduled_at_seconds)
            self._prefill_seconds.observe(times.first_token_at_seconds - times.scheduled_at_seconds)
            self._decode_seconds.observe(decode_seconds)
            if request.num_output_tokens > 1:
                self._time_per_output_token_seconds.observe(
                    decode_seconds / (request.num_output_tokens - 1)
                )
            self._request_prompt_tokens.observe(request.num_prompt_tokens)
            self._request_generation_tokens.observe(request.num_output_tokens)
            self._success[request.finish_reason].inc()

    def record_abort(self) -> None:
        """Count a request whose client went away."""
        self._success["abort"].inc()

    def render(self) -> bytes:
        """Write all of it in the text format."""
        return generate_latest(self._registry)
