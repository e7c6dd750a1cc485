"""Read an engine's own /metrics: the count that all others are held against."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from collectors.clock import Scrape
from collectors.engines.base import Framework

MAX_BYTES = 8 * 1024 * 1024
# A count beyond this fits into no record, and is none.
MOST = 2.0**62
# The engine is on this host: a proxy named in the environment would not find it.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ScrapeError(RuntimeError):
    """/metrics could not be read; the text says why."""


def fetch(
    port: int, timeout_seconds: float, host: str = "127.0.0.1", path: str = "/metrics"
) -> str:
    """Get the text of the metrics page.

    Raises:
        ScrapeError: Nobody answers, or not with 200.
    """
    url = f"http://{host}:{port}{path}"
    try:
        with _OPENER.open(url, timeout=timeout_seconds) as answer:
            return _read(answer, time.monotonic() + timeout_seconds).decode(errors="replace")
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError) as err:
        raise ScrapeError(f"{url}: {err}") from err


def _read(answer: Any, deadline: float) -> bytes:
    """Read the page; the time-out of the socket alone would be one for each piece of it."""
    pieces: list[bytes] = []
    size_bytes = 0
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes >= MAX_BYTES:
            break
        if time.monotonic() > deadline:
            raise TimeoutError("the page came too slowly")
    return b"".join(pieces)[:MAX_BYTES]


def parse(text: str, framework: Framework, at_ns: int) -> Scrape | None:
    """Give the counters that the clock needs, or None where the engine has no such count.

    Raises:
        ScrapeError: The text is no Prometheus exposition.
    """
    names = framework.metrics
    latencies = [_latency_pair(name) for name in names.token_latency]
    page = Page(
        text,
        {*names.iterations, *names.tokens, *names.running, *names.waiting}.union(*latencies),
    )
    iterations = page.first(names.iterations)
    if iterations is None:
        return None
    latency = next((pair for pair in latencies if page.has(*pair)), None)
    return Scrape(
        at_ns=at_ns,
        iterations=iterations,
        tokens=page.total(names.tokens),
        waiting_requests=page.first(names.waiting),
        running_requests=page.first(names.running),
        token_latency_seconds=page.values[latency[0]] if latency is not None else None,
        token_latency_count=page.first(latency[1:]) if latency is not None else None,
    )


def _latency_pair(name: str) -> tuple[str, str]:
    """Give the names of seconds and count of a histogram, or of ``seconds / count``."""
    seconds, slash, count = name.partition(" / ")
    return (seconds, count) if slash else (f"{name}_sum", f"{name}_count")


class Page:
    """The wanted values of a metrics page; those of several labels are added up.

    Args:
        text: The page.

        wanted: Names of samples.

    Raises:
        ScrapeError: The text is no Prometheus exposition.
    """

    def __init__(self, text: str, wanted: set[str]) -> None:
        self.values: dict[str, float] = {}
        prefixes = tuple(wanted)
        # Only the lines asked for: the parser costs milliseconds on an engine's full page.
        lines = [line for line in text.splitlines() if line.startswith(prefixes)]
        try:
            for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                for sample in family.samples:
                    if sample.name not in wanted:
                        continue
                    if not abs(sample.value) < MOST:
                        raise ValueError(f"{sample.name} is {sample.value}")
                    self.values[sample.name] = self.values.get(sample.name, 0.0) + sample.value
        except ValueError as err:
            raise ScrapeError(f"/metrics is not Prometheus text: {err}") from err

    def has(self, *names: str) -> bool:
        """Tell whether all of these are there."""
        return all(name in self.values for name in names)

    def first(self, names: Iterable[str]) -> int | None:
        """Give the first that is there, or None."""
        return next((int(self.values[name]) for name in names if name in self.values), None)

    def total(self, names: tuple[str, ...]) -> int | None:
        """Give all of them together, or None where one is missing."""
        return int(sum(self.values[name] for name in names)) if names and self.has(*names) else None


def scrape(framework: Framework, port: int, timeout_seconds: float) -> Scrape | None:
    """Fetch and parse; ``at_ns`` is the middle of the request.

    Raises:
        ScrapeError: As `fetch` and `parse`.
    """
    begin_ns = time.time_ns()
    text = fetch(port, timeout_seconds, path=framework.metrics.path)
    return parse(text, framework, (begin_ns + time.time_ns()) // 2)
