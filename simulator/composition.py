"""What recorded vLLM batches computed, told by what each of them and the next one are made of.

A row of such a file counts the requests that made tokens before. Three things of it are not what a
scheduler would tell, and none of them needs a duration to be put right:

* Requests that are being prefilled are not counted. They show in the next row: the tokens that the
  batches lack were made by requests that ended, and who joined is what the size tells then. And
  where the load is a loop of a known number of requests, those that are not counted are being
  prefilled, or have not arrived yet. Where all tokens that are missing are those of requests that
  ended at their full length, the next row tells exactly how many joined; where some ended early,
  more of them may have been followed, and the loop tells how many.
* Requests that have ended are counted once more: there is nothing left to compute for them.
* A prompt that is cut at the token budget goes on in the next batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# What vLLM computes in one iteration at most, by default.
TOKEN_BUDGET = 2048
# Means are recorded with two digits, so that each request is off by this at most.
ROUNDED_TOKENS = 0.005


class Counted(Protocol):
    """What a row tells of the requests that it counts."""

    @property
    def requests(self) -> int:
        """How many."""
        ...

    @property
    def mean_input(self) -> float:
        """Tokens of the prompt, over them."""
        ...

    @property
    def mean_output(self) -> float:
        """Tokens made so far, over them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What a batch computed.

    Attributes:
        decode_requests: Those that made a token and had one before.

        prompts: Those of which a part of the prompt was computed.

        prefill_tokens: All of these parts.

        context_tokens: Of the requests that decode.
    """

    decode_requests: int
    prompts: int = 0
    prefill_tokens: int = 0
    context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """From one batch to the next.

    Attributes:
        joined: Requests that decode in the next batch for the first time; at least so many where
            it is not ``exact``.

        ended: Requests that are not in the next batch any more; likewise.

        ended_tokens: Made by them.
    """

    joined: int
    ended: int
    ended_tokens: float
    exact: bool


def computed(
    rows: Sequence[Counted], output_length: int, concurrency: int | None = None
) -> list[Computed]:
    """Tell what each batch of one load computed.

    Args:
        rows: In the order of their time.

        output_length: Tokens that each request makes at most.

        concurrency: Requests of the loop; None where that is not known. A load that ever has more
            is no such loop.
    """
    if concurrency is not None and any(row.requests > concurrency for row in rows):
        concurrency = None
    found: list[Computed] = []
    begun_tokens = 0
    for row, after in zip(rows, (*rows[1:], None), strict=True):
        change = change_of(row, after, output_length)
        absent = change.joined if concurrency is None else concurrency - row.requests
        done = min(absent, _most_done(row, change, begun_tokens))
        # Where some ended early, as many more as joined beyond those that must have.
        ended = change.ended + (done - change.joined if change.ended and not change.exact else 0)
        decoding = max(0, row.requests - ended)
        tokens, begun_tokens, is_cut = _prefill(row, decoding, done, absent, begun_tokens)
        context = decoding * row.mean_input + row.requests * row.mean_output - change.ended_tokens
        found.append(
            Computed(
                decode_requests=decoding,
                prompts=done + is_cut if tokens else 0,
                prefill_tokens=tokens,
                context_tokens=max(0, int(context)) if decoding else 0,
            )
        )
    return found


def change_of(row: Counted, after: Counted | None, output_length: int) -> Change:
    """Tell who came and who went, from the sizes and the tokens made.

    >>> from types import SimpleNamespace as Row
    >>> four = Row(requests=4, mean_input=100.0, mean_output=20.0)
    >>> change_of(four, Row(requests=4, mean_input=100.0, mean_output=8.5), 50)
    Change(joined=1, ended=1, ended_tokens=50.0, exact=True)
    >>> change_of(four, Row(requests=4, mean_input=100.0, mean_output=16.0), 50)
    Change(joined=1, ended=1, ended_tokens=20.0, exact=False)
    """
    if after is None:
        return Change(0, 0, 0.0, exact=False)
    # Each request makes one token; what is then missing was made by those that ended.
    missing = row.requests * row.mean_output + after.requests * (1 - after.mean_output)
    tolerance = ROUNDED_TOKENS * (row.requests + after.requests) + 1e-6
    if missing < -tolerance:
        # Batches between them were not recorded.
        return Change(0, 0, 0.0, exact=False)
    gone = row.requests - after.requests
    ended = max(0, gone, math.ceil((missing - tolerance) / output_length))
    exact = abs(missing - ended * output_length) <= tolerance
    return Change(ended - gone, ended, missing if ended else 0.0, exact)


def _most_done(row: Counted, change: Change, begun_tokens: int) -> int:
    """Give how many prompts a batch may have got done; a cache lets more join than fit."""
    if change.exact:
        return change.joined
    fitting = (TOKEN_BUDGET - row.requests + begun_tokens) // max(row.mean_input, 1.0)
    return max(change.joined, int(fitting))


def _prefill(
    row: Counted, decoding: int, done: int, absent: int, begun_tokens: int
) -> tuple[int, int, bool]:
    """Tell of the prompts that a batch got done.

    Returns:
        tokens: Computed of prompts.

        left_tokens: Those of them that belong to a prompt that is not done yet.

        is_cut: Whether there is such a prompt.
    """
    budget = max(0, TOKEN_BUDGET - decoding)
    # One prompt more would not have fitted: it was cut, and the batch is full.
    is_cut = done < absent and (done + 1) * row.mean_input - begun_tokens > budget
    done_tokens = int(done * row.mean_input)
    tokens = budget if is_cut else max(0, min(done_tokens - begun_tokens, budget))
    left_tokens = max(0, begun_tokens + tokens - done_tokens) if done < absent else 0
    return tokens, left_tokens, is_cut
