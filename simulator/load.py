"""The load generator sends a workload to an OpenAI-style server and measures what clients see."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from simulator.workloads import Phase, Workload, available, build

# Ids that every vocabulary has, even one of bytes, and that are no special tokens as a rule.
_FIRST_TOKEN_ID, _LAST_TOKEN_ID = 10, 250
_REQUEST_TIMEOUT_SECONDS = 120.0
# A client whose request fails waits a moment, or it would only count refusals.
_PAUSE_AFTER_FAILURE_SECONDS = 0.25
_PROGRESS_PERIOD_SECONDS = 1.0
_DATA_PREFIX = b"data: "


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load is."""

    elapsed_seconds: float
    requests: int
    failures: int
    tokens: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What the clients of a load saw; latencies are NaN when nothing was measured."""

    requests: int
    failures: int
    tokens: int
    duration_seconds: float
    ttft_p50_seconds: float
    ttft_p99_seconds: float
    itl_p50_seconds: float
    itl_p99_seconds: float
    e2e_p50_seconds: float
    e2e_p99_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request as drawn from the random generator."""

    prompt_token_ids: list[int]
    output_tokens: int


def plan_request(phase: Phase, generator: random.Random) -> PlannedRequest:
    """Draw a request of a phase."""
    prompt_tokens = generator.randint(*phase.prompt_tokens)
    output_tokens = generator.randint(*phase.output_tokens)
    return PlannedRequest(
        prompt_token_ids=generator.choices(range(_FIRST_TOKEN_ID, _LAST_TOKEN_ID), k=prompt_tokens),
        output_tokens=output_tokens,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Find the value below which this many percent lie, by the nearest rank."""
    if not values:
        return math.nan
    ordered = sorted(values)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(0, rank - 1)]


@dataclass(slots=True)
class _Tally:
    started_at_seconds: float
    requests: int = 0
    failures: int = 0
    tokens: int = 0
    in_flight: int = 0
    ttft_seconds: list[float] = field(default_factory=list)
    itl_seconds: list[float] = field(default_factory=list)
    e2e_seconds: list[float] = field(default_factory=list)

    def progress(self) -> LoadProgress:
        return LoadProgress(
            elapsed_seconds=time.monotonic() - self.started_at_seconds,
            requests=self.requests,
            failures=self.failures,
            tokens=self.tokens,
            in_flight=self.in_flight,
        )

    def report(self) -> LoadReport:
        return LoadReport(
            requests=self.requests,
            failures=self.failures,
            tokens=self.tokens,
            duration_seconds=time.monotonic() - self.started_at_seconds,
            ttft_p50_seconds=percentile(self.ttft_seconds, 50),
            ttft_p99_seconds=percentile(self.ttft_seconds, 99),
            itl_p50_seconds=percentile(self.itl_seconds, 50),
            itl_p99_seconds=percentile(self.itl_seconds, 99),
            e2e_p50_seconds=percentile(self.e2e_seconds, 50),
            e2e_p99_seconds=percentile(self.e2e_seconds, 99),
        )


class _Sender:
    """Send single requests and write down how they went."""

    def __init__(self, session: aiohttp.ClientSession, model_name: str, tally: _Tally) -> None:
        self._session = session
        self._model_name = model_name
        self._tally = tally

    async def send(self, planned: PlannedRequest) -> bool:
        """Send one request; say whether it was answered in full."""
        tally = self._tally
        tally.requests += 1
        tally.in_flight += 1
        answered = False
        try:
            await self._stream(planned)
            answered = True
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            # Counted below: a server that fails is a result, not an error of ours.
            pass
        finally:
            # A request cut off when the load ends has failed, too.
            tally.failures += not answered
            tally.in_flight -= 1
        return answered

    async def _stream(self, planned: PlannedRequest) -> None:
        body = {
            "model": self._model_name,
            "prompt": planned.prompt_token_ids,
            "max_tokens": planned.output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began_at_seconds = time.monotonic()
        last_token_at_seconds: float | None = None
        tokens_by_usage: int | None = None
        chunks = 0
        completed = False
        async with self._session.post("/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if not line.startswith(_DATA_PREFIX):
                    continue
                data = line[len(_DATA_PREFIX) :].strip()
                if data == b"[DONE]":
                    completed = True
                    continue
                chunk = json.loads(data)
                if not isinstance(chunk, dict) or "error" in chunk:
                    raise ValueError("the server reported an error in the stream")
                usage = chunk.get("usage")
                if isinstance(usage, dict):
                    tokens_by_usage = int(usage.get("completion_tokens", 0))
                if not chunk.get("choices"):
                    continue
                now_seconds = time.monotonic()
                if last_token_at_seconds is None:
                    self._tally.ttft_seconds.append(now_seconds - began_at_seconds)
                else:
                    self._tally.itl_seconds.append(now_seconds - last_token_at_seconds)
                last_token_at_seconds = now_seconds
                chunks += 1
        if not completed:
            raise ValueError("the stream ended early")
        self._tally.tokens += chunks if tokens_by_usage is None else tokens_by_usage
        self._tally.e2e_seconds.append(time.monotonic() - began_at_seconds)


class _Conductor:
    """Start and stop clients as the phases say.

    The n-th request of a client, and the n-th arrival of an open phase, are the same for the
    same seed, however fast the server is.
    """

    def __init__(self, sender: _Sender, seed: int) -> None:
        self._sender = sender
        self._seed = seed
        self._phase: Phase | None = None
        self._clients: dict[int, asyncio.Task[None]] = {}
        self._generators: dict[int, random.Random] = {}
        self._arrivals: set[asyncio.Task[bool]] = set()

    async def play(self, phases: Sequence[Phase]) -> None:
        """Play all phases, one after the other, then let the last requests finish."""
        try:
            for index, phase in enumerate(phases):
                self._phase = phase
                if phase.requests_per_second is not None:
                    await self._play_open(index, phase, phase.requests_per_second)
                else:
                    self._start_missing_clients(phase.concurrency or 0)
                    await asyncio.sleep(phase.duration_seconds)
            self._phase = None
            await asyncio.gather(*self._clients.values(), *self._arrivals)
        finally:
            left: list[asyncio.Task[Any]] = [*self._clients.values(), *self._arrivals]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _start_missing_clients(self, concurrency: int) -> None:
        for number in range(concurrency):
            task = self._clients.get(number)
            if task is None or task.done():
                self._clients[number] = asyncio.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        generator = self._generators.setdefault(
            number, random.Random(f"{self._seed}/client/{number}")
        )
        while (phase := self._phase) is not None and number < (phase.concurrency or 0):
            answered = await self._sender.send(plan_request(phase, generator))
            if not answered:
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)

    async def _play_open(self, index: int, phase: Phase, requests_per_second: float) -> None:
        generator = random.Random(f"{self._seed}/phase/{index}")
        began_at_seconds = time.monotonic()
        next_at_seconds = 0.0
        while True:
            next_at_seconds += generator.expovariate(requests_per_second)
            planned = plan_request(phase, generator)
            due_seconds = min(next_at_seconds, phase.duration_seconds)
            await asyncio.sleep(began_at_seconds + due_seconds - time.monotonic())
            if next_at_seconds >= phase.duration_seconds:
                return
            task = asyncio.create_task(self._sender.send(planned))
            self._arrivals.add(task)
            task.add_done_callback(self._arrivals.discard)


async def find_model_name(session: aiohttp.ClientSession) -> str:
    """Ask the server which model it serves."""
    try:
        async with session.get("/v1/models") as response:
            response.raise_for_status()
            answer = await response.json()
        return str(answer["data"][0]["id"])
    except (aiohttp.ClientError, OSError, TimeoutError, LookupError, TypeError, ValueError) as err:
        raise ConnectionError(
            f"no model found at /v1/models ({type(err).__name__}: {err}): "
            "check the address and that the server is ready"
        ) from err


async def run_load(
    base_url: str,
    workload: Workload,
    *,
    seed: int,
    on_progress: Callable[[LoadProgress], None] | None = None,
) -> LoadReport:
    """Play a workload against a server; failed requests are counted, never raised.

    The only error is a server that names no model at the beginning. Cancelling
    the task ends the load and closes its connections.
    """
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"the address is {base_url!r}: give it like http://127.0.0.1:8000")
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(base_url, timeout=timeout, connector=connector) as session:
        model_name = await find_model_name(session)
        tally = _Tally(started_at_seconds=time.monotonic())
        conductor = _Conductor(_Sender(session, model_name, tally), seed)
        playing = asyncio.create_task(conductor.play(workload.phases))
        try:
            while not playing.done():
                await asyncio.wait((playing,), timeout=_PROGRESS_PERIOD_SECONDS)
                if on_progress is not None:
                    on_progress(tally.progress())
            await playing
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
    return tally.report()


def _show_progress(progress: LoadProgress) -> None:
    sys.stderr.write(
        f"{progress.elapsed_seconds:6.1f} s  {progress.requests} requests, "
        f"{progress.failures} failed, {progress.in_flight} in flight, {progress.tokens} tokens\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a load from the command line; the report is one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.load",
        description="Send a workload to an OpenAI-style server and report what clients saw.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="%(default)s")
    parser.add_argument("--workload", default="steady", choices=available(), help="%(default)s")
    parser.add_argument("--seconds", type=float, default=30.0, help="%(default)s")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies concurrency or rate (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    given = parser.parse_args(arguments)
    try:
        workload = build(given.workload, duration_seconds=given.seconds, scale=given.scale)
        report = asyncio.run(
            run_load(given.url, workload, seed=given.seed, on_progress=_show_progress)
        )
    except (ConnectionError, ValueError) as err:
        raise SystemExit(str(err)) from err
    except KeyboardInterrupt:
        return 130
    fields = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(report).items()
    }
    sys.stdout.write(json.dumps(fields, indent=2) + "\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
