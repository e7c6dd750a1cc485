"""Read an engine's own /metrics: the count that all others are held against."""

import http.client
import math
import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from collectors.clock import Scrape
from collectors.engines.base import Framework

MAX_BYTES = 8 * 1024 * 1024
# The engine is on this host: a proxy named in the environment would not find it.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ScrapeError(RuntimeError):
    """/metrics could not be read; the text says why."""


def fetch(port: int, timeout_seconds: float, host: str = "127.0.0.1") -> str:
    """Get the text of /metrics.

    Raises:
        ScrapeError: Nobody answers, or not with 200.
    """
    url = f"http://{host}:{port}/metrics"
    try:
        with _OPENER.open(url, timeout=timeout_seconds) as answer:
            data: bytes = answer.read(MAX_BYTES)
            return data.decode(errors="replace")
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError) as err:
        raise ScrapeError(f"{url}: {err}") from err


def parse(text: str, framework: Framework, at_ns: int) -> Scrape | None:
    """Give the counters that the clock needs, or None where the engine has no such count.

    Raises:
        ScrapeError: The text is no Prometheus exposition.
    """
    latency_names = [(f"{name}_sum", f"{name}_count") for name in framework.token_latency_metrics]
    wanted = {
        name: 0.0
        for name in (
            framework.iteration_count_metric,
            framework.iteration_tokens_metric,
            framework.waiting_metric,
            framework.running_metric,
            *(name for pair in latency_names for name in pair),
        )
        if name is not None
    }
    found: set[str] = set()
    prefixes = tuple(wanted)
    # Only the lines asked for: the parser costs milliseconds on an engine's full page.
    lines = [line for line in text.splitlines() if line.startswith(prefixes)]
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if sample.name in wanted:
                    if not math.isfinite(sample.value):
                        raise ValueError(f"{sample.name} is {sample.value}")
                    wanted[sample.name] += sample.value
                    found.add(sample.name)
    except ValueError as err:
        raise ScrapeError(f"/metrics is not Prometheus text: {err}") from err

    def value(name: str | None) -> int | None:
        return int(wanted[name]) if name in found and name is not None else None

    iterations = value(framework.iteration_count_metric)
    if iterations is None:
        return None
    latency = next((pair for pair in latency_names if found.issuperset(pair)), None)
    return Scrape(
        at_ns=at_ns,
        iterations=iterations,
        tokens=value(framework.iteration_tokens_metric),
        waiting_requests=value(framework.waiting_metric),
        running_requests=value(framework.running_metric),
        token_latency_seconds=wanted[latency[0]] if latency is not None else None,
        token_latency_count=value(latency[1]) if latency is not None else None,
    )


def scrape(framework: Framework, port: int, timeout_seconds: float) -> Scrape | None:
    """Fetch and parse; ``at_ns`` is the middle of the request.

    Raises:
        ScrapeError: As `fetch` and `parse`.
    """
    begin_ns = time.time_ns()
    text = fetch(port, timeout_seconds)
    return parse(text, framework, (begin_ns + time.time_ns()) // 2)
