"""What a batch computed is told by what it and the next one are made of, never by durations."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from simulator.composition import TOKEN_BUDGET, Computed, computed

PROMPT, OUTPUT = 100, 50


@dataclass
class Row:
    requests: int
    mean_output: float
    mean_input: float = PROMPT


def tokens(*rows: Row, concurrency: int | None = None, output: int = OUTPUT) -> list[int]:
    return [one.prefill_tokens for one in computed(rows, output, concurrency)]


class Loop:
    """A closed loop on an engine that cuts prompts at its budget; it knows the truth."""

    def __init__(self, concurrency: int, prompt: int, output: int, seed: int) -> None:
        self._draw = random.Random(seed)
        self._prompt, self._output = prompt, output
        self._waiting = [prompt] * concurrency
        self._made: list[tuple[int, int]] = []
        # The first ones end at any time, or all would go on in step.
        self._unequal = concurrency

    def batch(self, early: float) -> tuple[Row, int, int]:
        """Compute a batch: those that decode make a token, prompts fill what is left.

        Returns:
            Its row, and how many requests decode and how many tokens are of prompts in truth.
        """
        made = [done for done, _ in self._made]
        decoding = sum(done < length for done, length in self._made)
        budget = most = TOKEN_BUDGET - decoding
        while self._waiting and budget:
            taken = min(self._waiting[0], budget)
            budget -= taken
            self._waiting[0] -= taken
            if not self._waiting[0]:
                del self._waiting[0]
                self._made.append((0, self._length(early)))
        going = [(done + 1, length) for done, length in self._made]
        self._made = [(done, length) for done, length in going if done <= length]
        self._waiting += [self._prompt] * (len(going) - len(self._made))
        mean = round(sum(made) / len(made), 2) if made else 0.0
        return Row(len(made), mean, self._prompt), decoding, most - budget

    def _length(self, early: float) -> int:
        self._unequal -= 1
        is_early = self._unequal >= 0 or self._draw.random() < early
        return self._draw.randrange(5, self._output) if is_early else self._output


def share(found: Iterable[bool]) -> float:
    return statistics.fmean(found)


@pytest.mark.parametrize("prompt", [128, 512, 1024])
@pytest.mark.parametrize("early", [0.0, 0.2])
@pytest.mark.parametrize("concurrency", [8, 64, 200])
def test_a_loop_tells_its_prompts(prompt: int, early: float, concurrency: int) -> None:
    loop = Loop(concurrency, prompt, 64, seed=1)
    batches = [batch for _ in range(400) if (batch := loop.batch(early))[0].requests]
    found = computed([row for row, _, _ in batches], 64, concurrency)
    # What the last batch did would show in the next one.
    pairs = list(zip(found, batches, strict=True))[:-1]
    assert any(prefill for _, (_, _, prefill) in pairs)
    # Early ends may add up to a whole answer, and nothing tells that more requests joined.
    least = 0.9 if early else 0.98
    assert share(one.prefill_tokens == prefill for one, (_, _, prefill) in pairs) >= least
    assert share(one.decode_requests == decoding for one, (_, decoding, _) in pairs) >= least
    missed = share(prefill > 0 and not one.prefill_tokens for one, (_, _, prefill) in pairs)
    assert missed <= (0.01 if early else 0)


def test_one_that_ends_early_and_is_followed_is_seen_without_a_loop() -> None:
    # Of four with 20 tokens each, one ends early, and another one takes its place.
    assert tokens(Row(4, 20), Row(4, (3 * 21 + 1) / 4)) == [PROMPT, 0]


def test_a_loop_tells_what_two_early_ends_hide() -> None:
    # Three of four decode and one is being prefilled; two end early, and it joins.
    rows = (Row(3, 20), Row(2, (21 + 1) / 2))
    assert tokens(*rows) == [0, 0]
    assert tokens(*rows, concurrency=4)[0] == PROMPT


def test_requests_that_have_not_arrived_yet_are_no_prefill() -> None:
    # Seven of eight have ended; nobody joins, so that nothing of them was computed.
    assert tokens(Row(1, 10), Row(1, 11), concurrency=8)[0] == 0


def test_a_batch_in_which_all_decode_has_no_prefill() -> None:
    # One follows another, but its prompt was computed in a batch of its own, which has no row.
    assert tokens(Row(1, OUTPUT), Row(1, 1), concurrency=1)[0] == 0


def test_a_prompt_that_is_cut_fills_the_batch_and_leaves_less_for_the_next() -> None:
    # Five prompts of 512 tokens are to be done, and 2,044 tokens fit beside four requests.
    rows = (Row(4, 10, 512), Row(7, (4 * 11 + 3) / 7, 512), Row(9, (4 * 12 + 3 * 2 + 2) / 9, 512))
    found = tokens(*rows, concurrency=9)
    assert found[:2] == [2044, 5 * 512 - 2044]


def test_a_prompt_longer_than_a_batch_fills_one_that_nobody_joins() -> None:
    rows = (Row(4, 10, 5000), Row(4, 11, 5000), Row(4, 12, 5000), Row(5, (4 * 13 + 1) / 5, 5000))
    assert tokens(*rows, concurrency=5)[:3] == [2044, 2044, 5000 - 2 * 2044]


def test_a_load_that_has_more_requests_than_its_name_tells_is_no_loop() -> None:
    assert tokens(Row(9, 10), Row(9, 11), Row(8, 12), Row(8, 13), concurrency=8) == [0] * 4


def test_the_last_batch_of_a_loop_prefills_those_that_are_absent() -> None:
    assert tokens(Row(6, 10), concurrency=8) == [2 * PROMPT]
    assert tokens(Row(6, 10)) == [0]


def test_a_request_that_has_ended_computes_nothing_more() -> None:
    # One of four has its 50 tokens; it is counted once more.
    rows = (Row(4, (3 * 20 + OUTPUT) / 4), Row(3, 21))
    assert computed(rows, OUTPUT)[0] == Computed(
        decode_requests=3, context_tokens=3 * (PROMPT + 20)
    )
    rows = (Row(1, OUTPUT), Row(1, 1))
    assert computed(rows, OUTPUT, 1)[0] == Computed(decode_requests=0)


def test_batches_that_are_missing_between_two_rows_tell_of_nobody() -> None:
    fewer = computed((Row(4, 10), Row(2, 30)), OUTPUT)[0]
    assert (fewer.decode_requests, fewer.prefill_tokens) == (4, 0)
    more = computed((Row(4, 10), Row(6, 30)), OUTPUT)[0]
    assert (more.decode_requests, more.prefill_tokens) == (4, 0)
