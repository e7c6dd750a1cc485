"""Follow an engine's own feed, and judge whether it may be believed."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from collectors.clock import Scrape
from collectors.discovery import EngineProcess
from collectors.engines.described import FeedText
from collectors.feeds.base import Feed, FeedEnded, FeedUnavailable, Said
from collectors.feeds.clock import StreamClock
from collectors.feeds.forward_pass import ForwardPassFeed
from collectors.feeds.log import LogFeed
from schemas.records import Iteration

log = logging.getLogger("latencyprism.feeds")

REOPEN_SECONDS = 10.0

# Looks at /metrics in a row that count what the feed does not say, or that contradict it.
SILENT_LOOKS = 2
WRONG_LOOKS = 3
ENOUGH_TOKENS = 100

# With overlapped scheduling vLLM tells only how long it had to wait in the end, which may be
# nothing for one iteration and all for the next. Durations are believed if they make up this share
# of the time between a request's tokens,
LEAST_SHARE = 0.5
# and if no more than this share of the decoded tokens took less than a quarter of their mean.
SHORT_BELOW = 0.25
MOST_SHORT = 0.25
LOOK_ITERATIONS = 8192

FEEDS: dict[str, Callable[[FeedText, EngineProcess], Feed]] = {
    "log": LogFeed,
    "forward_pass_metrics": ForwardPassFeed,
}


class Listener:
    """The feed of one engine, where it has one, from its first word to its last.

    Args:
        described: What the engine's description says of its feed.

        engine: Whose it is.

        engine_id: Goes onto every record, as does ``process_start_ns``.

        epoch_offset_ns: Gives epoch time minus monotonic time.
    """

    def __init__(
        self,
        described: FeedText,
        engine: EngineProcess,
        *,
        engine_id: str,
        process_start_ns: int,
        epoch_offset_ns: Callable[[], int],
    ) -> None:
        self._described = described
        self._engine = engine
        self._engine_id = engine_id
        self._process_start_ns = process_start_ns
        self._epoch_offset_ns = epoch_offset_ns
        self._feed: Feed | None = None
        self._clock: StreamClock | None = None
        self._open_again = 0.0
        self._is_wrong = False
        self._heard = 0
        self._silent_looks = self._wrong_looks = 0
        self._decodes: deque[Decode] = deque(maxlen=LOOK_ITERATIONS)
        self._last: Scrape | None = None
        self.speaks = False
        self.name = ""
        self.problem: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is anything to listen to."""
        return self._feed is not None

    @property
    def seen(self) -> int:
        """Iterations that were timed."""
        return self._clock.seen if self._clock is not None else 0

    @property
    def missed(self) -> int:
        """Iterations that the feed's numbers prove and nobody timed."""
        return self._clock.missed if self._clock is not None else 0

    def open(self) -> None:
        """Look for the feed, unless it is open or was looked for a moment ago."""
        kind = self._described.kind
        if kind is None or self._is_wrong or self.is_open or time.monotonic() < self._open_again:
            return
        self._open_again = time.monotonic() + REOPEN_SECONDS
        try:
            feed = FEEDS[kind](self._described, self._engine)
        except (FeedUnavailable, OSError) as err:
            self._tell(str(err))
            return
        self._feed, self.name, self.problem = feed, feed.name, None
        if self._clock is None:
            self._clock = StreamClock(
                engine_id=self._engine_id,
                process_start_ns=self._process_start_ns,
                epoch_offset_ns=self._epoch_offset_ns,
            )
        self._clock.lost()

    def listen(self, timeout_seconds: float) -> Iterator[Iteration]:
        """Give the iterations said since the last call, waiting at most so long.

        Where there is no feed it returns at once.
        """
        if self._feed is None or self._clock is None:
            return
        try:
            said = self._feed.poll(timeout_seconds)
        except (FeedEnded, OSError) as err:
            self.close()
            self._tell(str(err))
            return
        for one in said:
            self._take(one)
        # Begun only by an iteration: a sign of life says that the engine could speak.
        self.speaks = self.speaks or any(not one.is_heartbeat for one in said)
        yield from self._clock.feed(said)

    def hold_against(self, scrape: Scrape) -> None:
        """Hear what /metrics says, and stop to believe a feed that it contradicts."""
        last, self._last = self._last, scrape
        if last is None or not self.is_open:
            return
        heard, self._heard = self._heard, 0
        counted = scrape.iterations - last.iterations
        self._silent_looks = self._silent_looks + 1 if counted > 0 and heard == 0 else 0
        if self.speaks and self._silent_looks >= SILENT_LOOKS:
            self.speaks = False
            self._tell(f"{self.name} says nothing while /metrics counts: look at the engine's log")
        self._compare_durations(last, scrape)

    @property
    def is_behind(self) -> bool:
        """Whether /metrics counts, since the last look, what the feed has not said."""
        return self._silent_looks > 0

    def close(self) -> None:
        """Stop to listen."""
        feed, self._feed = self._feed, None
        self.speaks = False
        self._heard = self._silent_looks = self._wrong_looks = 0
        self._last = None
        self._decodes.clear()
        if feed is not None:
            with contextlib.suppress(OSError):
                feed.close()

    def _take(self, one: Said) -> None:
        if one.is_heartbeat or one.is_dummy:
            return
        self._heard += 1
        work = one.workload
        if work.decode_requests:
            seconds = one.duration_ns / 1e9
            self._decodes.append(Decode(work.decode_requests, seconds, work.prefill_tokens == 0))

    def _compare_durations(self, last: Scrape, scrape: Scrape) -> None:
        if None in (last.token_latency_seconds, scrape.token_latency_seconds):
            return
        tokens = (scrape.token_latency_count or 0) - (last.token_latency_count or 0)
        seconds = (scrape.token_latency_seconds or 0.0) - (last.token_latency_seconds or 0.0)
        decodes = list(self._decodes)
        self._decodes.clear()
        if min(tokens, sum(one.tokens for one in decodes)) < ENOUGH_TOKENS:
            return
        is_wrong = mean_seconds(decodes) < LEAST_SHARE * seconds / tokens or jump(decodes)
        self._wrong_looks = self._wrong_looks + 1 if is_wrong else 0
        if self._wrong_looks >= WRONG_LOOKS:
            name, self._is_wrong = self.name, True
            self.close()
            self._tell(
                f"{name} tells the rest of a wait and no durations, as it does with overlapped "
                "scheduling: let the agent read the engine's memory"
            )

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            log.info("%s: no iterations from the engine itself: %s", self._engine_id, problem)


@dataclass(frozen=True, slots=True)
class Decode:
    """An iteration that decoded so many tokens."""

    tokens: int
    seconds: float
    is_pure: bool


def mean_seconds(decodes: list[Decode]) -> float:
    """Give the mean duration that a token saw."""
    tokens = sum(one.tokens for one in decodes)
    return sum(one.tokens * one.seconds for one in decodes) / tokens if tokens else 0.0


def jump(decodes: list[Decode]) -> bool:
    """Tell whether iterations that only decoded are said to last next to nothing now and then."""
    pure = [one for one in decodes if one.is_pure]
    limit_seconds = SHORT_BELOW * mean_seconds(pure)
    short = sum(one.tokens for one in pure if one.seconds < limit_seconds)
    return short > MOST_SHORT * sum(one.tokens for one in pure)
