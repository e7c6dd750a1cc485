"""Engines of a simulated fleet, some of them slow from their first batch on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from models.judge import Judge, Judgement
from schemas.records import Engine, Iteration
from simulator.fleet import presets
from simulator.fleet.fleet import Fleet
from simulator.fleet.setting import Setting
from streams.peers import Peers, SlowStart, Start

A100_VLLM = presets.load("a100_vllm")
NEWER = replace(A100_VLLM, version="0.11.0")
SECONDS = 20.0
DEVICE_COSTS = ("kv_ms", "attention_ms", "mixed_request_ms", "prefill_ms", "mixed_ms", "lora_ms")


def slowed(setting: Setting, factor: float) -> Setting:
    """Let the accelerator take ``factor`` times as long, as with its clock locked too low."""
    cost = setting.cost
    changes: dict[str, Any] = {name: getattr(cost, name) * factor for name in DEVICE_COSTS}
    for name in ("decode_ms", "mixed_tokens_ms"):
        changes[name] = tuple((size, took * factor) for size, took in getattr(cost, name))
    return replace(setting, cost=replace(cost, **changes))


@dataclass(frozen=True, slots=True)
class Told:
    """What was told of an engine, and after how many batches."""

    batches: int
    slow_start: SlowStart


class FleetWatch:
    """Learns the engines of a fleet and looks at their start, as the analysis does.

    Attributes:
        told: By the engine's number.
    """

    def __init__(self, settings: Sequence[Setting], seed: int) -> None:
        self._fleet = Fleet(settings, seed=seed)
        self._settings = settings
        numbers = {place.engine_id: row for row, place in enumerate(self._fleet.places)}
        self._numbers = numbers
        self._peers = Peers()
        self.judges = [Judge() for _ in settings]
        self.judgements: list[list[Judgement]] = [[] for _ in settings]
        self._starts = [Start(self._peers) for _ in settings]
        self._engines: dict[int, Engine] = {}
        self.told: dict[int, Told] = {}

    def watch(self, seconds: float) -> None:
        for record in self._fleet.records(seconds):
            if isinstance(record, Engine):
                row = self._numbers[record.engine_id]
                self._engines[row] = self._described(record, self._settings[row])
            elif isinstance(record, Iteration) and record.end_ns and record.rank == 0:
                self._take(self._numbers[record.engine_id], record, record.end_ns)

    def _take(self, row: int, iteration: Iteration, end_ns: int) -> None:
        judge = self.judges[row]
        judgement = judge.judge(iteration.workload, (end_ns - iteration.begin_ns) / 1e6, end_ns)
        self.judgements[row].append(judgement)
        look = self._starts[row].look(
            self._engines[row],
            iteration.source,
            judge.norms,
            batches=judge.learnt,
            at_ns=end_ns,
            suspect=judgement.score is not None and judgement.score >= 1,
        )
        if look is None:
            return
        assert look.norms is not None
        self._peers.add(look.norms)
        if look.slow_start is not None:
            self.told[row] = Told(judge.learnt, look.slow_start)
            judge.rebase(look.slow_start.factor)

    @staticmethod
    def _described(engine: Engine, setting: Setting) -> Engine:
        model = setting.device.model if setting.device is not None else "a CPU"
        models = (model,) * max(len(engine.device_ids), 1)
        return replace(engine, device_models=models, command_digest="0" * 16)


def told(settings: Sequence[Setting], seed: int = 1, seconds: float = SECONDS) -> dict[int, Told]:
    watch = FleetWatch(settings, seed)
    watch.watch(seconds)
    return watch.told


@pytest.mark.parametrize("seed", range(2))
def test_one_slow_engine_among_healthy_ones_is_found_and_no_other(seed: int) -> None:
    watch = FleetWatch([*[A100_VLLM] * 6, slowed(A100_VLLM, 1.3)], seed)
    watch.watch(SECONDS)
    found = watch.told
    assert list(found) == [6]
    slow_start = found[6].slow_start
    assert found[6].batches <= 250
    # What it learnt is no longer normal, and it is not learnt again.
    assert {one.verdict for one in watch.judgements[6][-100:]} == {"slow"}
    assert {one.verdict for one in watch.judgements[0][-100:]} <= {"normal", "drift"}
    assert slow_start.by == "peers"
    assert slow_start.ratio == pytest.approx(1.29, abs=0.03)


def test_of_six_of_which_three_are_slow_the_slow_ones_are_found() -> None:
    # Each slow one has three healthy peers and two slow ones.
    fleet = [*[A100_VLLM] * 3, *[slowed(A100_VLLM, 1.3)] * 3]
    assert set(told(fleet, seconds=45.0)) == {3, 4, 5}


def test_where_most_are_slow_nothing_wrong_is_said_of_the_others() -> None:
    # Those that were compared before most of the slow ones had something to tell are found.
    found = told([*[A100_VLLM] * 2, *[slowed(A100_VLLM, 1.3)] * 4])
    assert not {0, 1} & set(found)


def test_another_version_that_is_slower_is_no_fault() -> None:
    slower = slowed(NEWER, 1.4)
    assert told([*[A100_VLLM] * 3, *[slower] * 3]) == {}


def test_in_a_mixed_fleet_each_is_held_against_its_own_kind() -> None:
    found = told([*[A100_VLLM] * 3, *[slowed(NEWER, 1.4)] * 3, slowed(NEWER, 1.4 * 1.4)])
    assert list(found) == [6]
    comparison = found[6].slow_start.comparison
    assert comparison is not None
    assert len(comparison.ratios) >= 2
    assert found[6].slow_start.ratio == pytest.approx(1.39, abs=0.04)


@pytest.mark.parametrize("name", presets.available())
def test_healthy_engines_of_no_preset_are_told(name: str) -> None:
    assert told([presets.load(name)] * 4, seconds=15.0) == {}
