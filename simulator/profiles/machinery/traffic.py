"""Requests as they come (bursts, stragglers, idle gaps) and how they are put into batches."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

TOKENS_PER_BATCH = 256
REQUESTS_PER_BATCH = 16


class Request:
    """A prompt of a length, and how many tokens will be generated; there is no text."""

    def __init__(self, request_id: str, num_prompt_tokens: int, max_tokens: int) -> None:
        self.request_id = request_id
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
        self.num_computed_tokens = 0

    @property
    def num_tokens_in_all(self) -> int:
        """Count the tokens that must be computed: the last generated one never is."""
        return self.num_prompt_tokens + self.max_tokens - 1

    @property
    def is_prefilling(self) -> bool:
        """Say whether a part of the prompt has not been computed."""
        return self.num_computed_tokens < self.num_prompt_tokens

    @property
    def is_computed(self) -> bool:
        """Say whether nothing is left to schedule."""
        return self.num_computed_tokens >= self.num_tokens_in_all


class Plan:
    """One batch as the profile itself knows it; becomes one line of the truth file."""

    def __init__(self, entries: list[tuple[Request, int]], waiting_requests: int) -> None:
        """Take requests with their numbers of tokens, and count these as computed."""
        self.entries = entries
        self.sequence = 0
        self.begin_ns = 0
        self.end_ns = 0
        self.requests = len(entries)
        self.scheduled_tokens = 0
        self.prefill_tokens = 0
        self.prefill_requests = 0
        self.decode_requests = 0
        self.kv_tokens = 0
        self.waiting_requests = waiting_requests
        for request, tokens in entries:
            self.scheduled_tokens += tokens
            if request.is_prefilling:
                self.prefill_requests += 1
                self.prefill_tokens += tokens
            else:
                self.decode_requests += 1
            request.num_computed_tokens += tokens
            self.kv_tokens += request.num_computed_tokens
        self.generated_tokens = sum(not request.is_prefilling for request, _ in entries)
        self.finished = [request for request, _ in entries if request.is_computed]


class Traffic(threading.Thread):
    """Send requests from a thread: a burst, some stragglers, and a pause once all are answered.

    The engine counts the answered ones in `finished`.
    """

    def __init__(
        self,
        put: Callable[[list[Request]], object],
        *,
        period_seconds: float,
        seed: int,
        name: str = "Traffic",
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._put = put
        self._period_seconds = period_seconds
        self._random = random.Random(seed)
        self._sent = 0
        self.finished = 0

    def run(self) -> None:
        """Send until the process ends."""
        while True:
            self._send(self._random.randint(2, 8))
            for _ in range(self._random.randint(0, 4)):
                time.sleep(self._period_seconds * self._random.uniform(1, 4))
                self._send(1)
            while self.finished < self._sent:
                time.sleep(self._period_seconds / 4)
            time.sleep(self._period_seconds * self._random.uniform(2, 8))

    def _send(self, count: int) -> None:
        requests = []
        for _ in range(count):
            self._sent += 1
            requests.append(
                Request(
                    f"request-{self._sent}",
                    num_prompt_tokens=self._random.randint(8, 160),
                    max_tokens=self._random.randint(2, 24),
                )
            )
        self._put(requests)


class Batcher:
    """Decide the next batch, as the continuous batching of all these engines does."""

    def __init__(self, waiting: deque[Request] | None = None) -> None:
        self.waiting: deque[Request] = deque() if waiting is None else waiting
        self.running: list[Request] = []
        self._most_drafts = 0

    @property
    def has_unfinished(self) -> bool:
        """Say whether a request waits or runs."""
        return bool(self.waiting or self.running)

    def draft(self, most: int) -> None:
        """Let each request that decodes verify up to so many drafts; all of them are accepted."""
        self._most_drafts = most

    def next_mixed(self) -> Plan:
        """Put decodes and (chunks of) prefills into one batch; may come out empty."""
        budget = TOKENS_PER_BATCH
        entries = []
        for request in self.running:
            tokens = _next_tokens(request, budget)
            if tokens == 1:
                tokens += self._drafts(request, budget - 1)
            if tokens:
                entries.append((request, tokens))
                budget -= tokens
        while self.waiting and len(self.running) < REQUESTS_PER_BATCH:
            tokens = _next_tokens(self.waiting[0], budget)
            if not tokens:
                break
            request = self.waiting.popleft()
            self.running.append(request)
            entries.append((request, tokens))
            budget -= tokens
        return Plan(entries, len(self.waiting))

    def next_prefill(self) -> Plan | None:
        """Put whole prompts of waiting requests into one batch."""
        budget = TOKENS_PER_BATCH
        entries = []
        while self.waiting and len(self.running) < REQUESTS_PER_BATCH:
            tokens = self.waiting[0].num_prompt_tokens
            if tokens > budget:
                break
            request = self.waiting.popleft()
            self.running.append(request)
            entries.append((request, tokens))
            budget -= tokens
        return Plan(entries, len(self.waiting)) if entries else None

    def next_decode(self) -> Plan | None:
        """Give each running request one token."""
        entries = [(request, 1) for request in self.running if not request.is_computed]
        return Plan(entries, len(self.waiting)) if entries else None

    def next_separate(self) -> Plan | None:
        """Prefer prefills; never mix them with decodes."""
        return self.next_prefill() or self.next_decode()

    def _drafts(self, request: Request, budget: int) -> int:
        """Give how many tokens are guessed for a request this time; some have none."""
        guessed = request.num_computed_tokens % (self._most_drafts + 1)
        left = request.num_tokens_in_all - request.num_computed_tokens - 1
        return min(guessed, left, budget)

    def finish(self, plan: Plan) -> int:
        """Let go of the requests that got their last token in this batch; how many."""
        if plan.finished:
            gone = {request.request_id for request in plan.finished}
            self.running = [r for r in self.running if r.request_id not in gone]
        return len(plan.finished)


def _next_tokens(request: Request, budget: int) -> int:
    if request.is_computed or budget < 2:
        return 0
    left = request.num_prompt_tokens - request.num_computed_tokens
    if left <= 0:
        return 1
    # A chunk of one token would look like a decode to whoever counts tokens.
    tokens = min(left, budget)
    return tokens - 1 if left - tokens == 1 else tokens
