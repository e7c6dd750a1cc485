"""The engine's own count, from text and over HTTP."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from collectors.engines import load
from collectors.scrape import ScrapeError, fetch, parse, scrape

VLLM = load("vllm")

# Names and labels of vLLM 0.32, cut to what is near the wanted ones.
PAGE = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 11873.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="facebook/opt-125m"} 6.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="facebook/opt-125m"} 2.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="facebook/opt-125m",reason="x"} 500.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="facebook/opt-125m"} 0.0068
# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="facebook/opt-125m"} 20.0
vllm:iteration_tokens_total_bucket{engine="0",le="8.0",model_name="facebook/opt-125m"} 1000.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="facebook/opt-125m"} 1024.0
vllm:iteration_tokens_total_count{engine="0",model_name="facebook/opt-125m"} 1024.0
vllm:iteration_tokens_total_sum{engine="0",model_name="facebook/opt-125m"} 7168.0
# HELP vllm:iteration_tokens_total_created Histogram of number of tokens per engine_step.
# TYPE vllm:iteration_tokens_total_created gauge
vllm:iteration_tokens_total_created{engine="0",model_name="facebook/opt-125m"} 1.7e+09
"""


def test_the_counters_of_an_engine_are_found() -> None:
    found = parse(PAGE, VLLM, 5)
    assert found is not None
    assert (found.at_ns, found.iterations, found.tokens) == (5, 1024, 7168)
    assert (found.waiting_requests, found.running_requests) == (2, 6)


def test_the_time_between_tokens_is_that_of_the_first_histogram_there_is() -> None:
    newer, older = VLLM.metrics.token_latency
    for name in (older, newer):
        page = PAGE + f'{name}_sum{{engine="0"}} 2.5\n{name}_count{{engine="0"}} 100.0\n'
        found = parse(page, VLLM, 5)
        assert found is not None
        assert (found.token_latency_seconds, found.token_latency_count) == (2.5, 100)
    lacking = parse(PAGE, VLLM, 5)
    assert lacking is not None
    assert (lacking.token_latency_seconds, lacking.token_latency_count) == (None, None)


def test_several_engines_behind_one_server_are_added_up() -> None:
    second = "\n".join(line for line in PAGE.splitlines() if 'engine="0"' in line)
    found = parse(PAGE + second.replace('engine="0"', 'engine="1"') + "\n", VLLM, 5)
    assert found is not None
    assert (found.iterations, found.tokens) == (2048, 14336)
    assert (found.waiting_requests, found.running_requests) == (4, 12)


def without(metric: str) -> str:
    return "\n".join(line for line in PAGE.splitlines() if not line.startswith(metric)) + "\n"


def test_a_server_without_the_count_gives_nothing() -> None:
    assert parse(without("vllm:iteration_tokens_total_count"), VLLM, 5) is None
    assert parse("", VLLM, 5) is None


def test_another_metric_that_is_missing_is_unknown_and_not_zero() -> None:
    found = parse(without("vllm:num_requests_waiting"), VLLM, 5)
    assert found is not None
    assert found.waiting_requests is None
    assert found.iterations == 1024


@pytest.mark.parametrize(
    "value", ["", "many", "NaN", "+Inf", "1e30", "-1e30", '{engine="0" 3', "{{}} 4"]
)
def test_broken_text_is_told_and_not_guessed(value: str) -> None:
    with pytest.raises(ScrapeError, match="not Prometheus text"):
        parse(f"vllm:iteration_tokens_total_count {value}\n", VLLM, 5)


def test_a_page_of_another_kind_has_no_count() -> None:
    assert parse("<html><body>404</body></html>", VLLM, 5) is None


TGI_PAGE = """\
tgi_batch_inference_count{method="prefill"} 12
tgi_batch_inference_count{method="decode"} 300
tgi_batch_inference_duration_sum{method="decode"} 4.5
tgi_batch_current_size 3
tgi_queue_size 1
"""

LLAMA_PAGE = """\
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 1000
llamacpp:prompt_tokens_seconds 93.1
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 200
llamacpp:tokens_predicted_seconds_total 8.5
llamacpp:n_decode_total 150
llamacpp:requests_processing 2
llamacpp:requests_deferred 0
"""


def test_prefill_and_decode_of_tgi_are_all_its_iterations() -> None:
    found = parse(TGI_PAGE, load("tgi"), 5)
    assert found is not None
    assert (found.iterations, found.tokens) == (312, None)
    assert (found.running_requests, found.waiting_requests) == (3, 1)


def test_llama_cpps_tokens_are_of_two_counters_and_so_is_the_time_between_them() -> None:
    found = parse(LLAMA_PAGE, load("llama_cpp"), 5)
    assert found is not None
    assert (found.iterations, found.tokens) == (150, 1200)
    assert (found.token_latency_seconds, found.token_latency_count) == (8.5, 200)
    half = "\n".join(one for one in LLAMA_PAGE.splitlines() if "predicted_total" not in one)
    found = parse(half + "\n", load("llama_cpp"), 5)
    assert found is not None
    assert (found.tokens, found.token_latency_count) == (None, None)


def test_a_framework_without_a_count_is_never_given_one() -> None:
    assert parse("sglang:num_running_reqs 3\n", load("sglang"), 5) is None


class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/metrics"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(PAGE.encode() if found else b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def metrics_port() -> Iterator[int]:
    with serving(Metrics) as port:
        yield port


def test_a_server_is_asked_over_http(metrics_port: int) -> None:
    found = scrape(VLLM, metrics_port, 10.0)
    assert found is not None
    assert found.iterations == 1024


def test_the_page_may_have_another_path(metrics_port: int) -> None:
    with pytest.raises(ScrapeError, match=r"/prometheus/metrics: .*404"):
        scrape(load("tensorrt_llm"), metrics_port, 10.0)


def test_a_proxy_in_the_environment_is_not_asked(
    metrics_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # What urllib made of the environment at its first use.
    monkeypatch.setattr("urllib.request._opener", None)
    assert "vllm:" in fetch(metrics_port, 10.0)


class Drip(http.server.BaseHTTPRequestHandler):
    """A page that comes a byte at a time, each within the time-out of a socket."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_page_that_never_ends_is_given_up_in_time() -> None:
    with serving(Drip) as port, pytest.raises(ScrapeError, match="too slowly"):
        fetch(port, 0.3)


def test_nobody_there_is_one_error_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ScrapeError, match=rf"^http://127\.0\.0\.1:{port}/metrics: "):
        fetch(port, 5.0)


class NotFound(Metrics):
    def do_GET(self) -> None:
        self.send_error(404)


class NoHttp(Metrics):
    def do_GET(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")


class Short(Metrics):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ff\r\nhalf")


@pytest.mark.parametrize("handler", [NotFound, NoHttp, Short])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_whatever_else_answers_is_an_error_of_ours(
    handler: type[http.server.BaseHTTPRequestHandler],
) -> None:
    with serving(handler) as port, pytest.raises(ScrapeError):
        fetch(port, 5.0)
