"""What a worker keeps of an engine: small, plain, and read by the next version as far as it can."""

from __future__ import annotations

import json
import logging
from dataclasses import fields, replace
from typing import Any

import pytest

from models.judge import WARM_BATCHES, Judgement
from models.phases import Around
from schemas.records import Batch
from streams.analyze import STATE_VERSION, Analysis
from streams.config import StreamSettings
from streams.judged import as_judged, judged_batch
from tests.streams.feed import ENGINE_ID, Feed, Listener

MOST_BYTES = 64 * 1024


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def state(feed: Feed) -> dict[str, Any]:
    """State of an engine in an incident."""
    listener = Listener()
    listener.take([feed.engine()])
    listener.take(feed.batches(600))
    listener.take(feed.batches(100, factor=1.6))
    assert listener.states[0] == "firing"
    found: dict[str, Any] = json.loads(json.dumps(listener.analysis.to_state()))
    return found


def first_version(state: dict[str, Any]) -> dict[str, Any]:
    """Give the state as the first version wrote it."""
    new = {"last_source", "change", "learnt", "regimes"}
    old = {name: value for name, value in state.items() if name not in new}
    incident = {
        name: value
        for name, value in state["incidents"]["open"].items()
        if name not in {"halt", "sum_gaps_ns", "gap_ns", "usual_gap_ns", "steadiness"}
    }
    judge = {"version": 1, "warm_batches": 200, "judged": 700, "alarm": True, "baseline": {}}
    return old | {"version": 1, "judges": {"single": judge}, "incidents": {"open": incident}}


def test_it_is_small(state: dict[str, Any]) -> None:
    assert state["version"] == STATE_VERSION
    assert len(json.dumps(state)) < MOST_BYTES / 2


def test_a_state_of_the_first_version_is_read_and_what_cannot_be_is_learnt_anew(
    feed: Feed, state: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    listener = Listener(Analysis.from_state(ENGINE_ID, first_version(state)))
    [said] = caplog.messages
    assert said.startswith(f"{ENGINE_ID}: its single baseline cannot be read")
    assert said.endswith("and is learnt anew.")
    results = listener.take(feed.batches(WARM_BATCHES + 500))
    verdicts = [one.verdict for one in results if isinstance(one, Batch)]
    assert set(verdicts[:WARM_BATCHES]) == {"unknown"}
    assert verdicts[-1] == "normal"
    # Messages that come again are still known as such.
    assert listener.analysis.batches == 700 + len(verdicts)
    assert listener.states[-1] == "resolved"


def test_the_inventory_of_the_first_version_is_no_other_setting(
    feed: Feed, state: dict[str, Any]
) -> None:
    listener = Listener(Analysis.from_state(ENGINE_ID, first_version(state)))
    listener.take([feed.engine()])
    (batch,) = listener.take(feed.batch())
    assert isinstance(batch, Batch)
    assert "anew" not in (batch.reason or "")


@pytest.mark.parametrize("part", ["surroundings", "progress"])
def test_one_part_that_cannot_be_read_costs_only_itself(
    feed: Feed, state: dict[str, Any], part: str, caplog: pytest.LogCaptureFixture
) -> None:
    state["learnt"][part] = {"what": "is this"}
    listener = Listener(Analysis.from_state(ENGINE_ID, state))
    assert "cannot be read" in caplog.text
    listener.take(feed.batches(300))
    assert listener.batches[0].verdict != "unknown"


def test_the_budget_is_as_configured_now(state: dict[str, Any]) -> None:
    for budget in (0.1, 1.0, 10.0):
        settings = StreamSettings(false_incidents_per_week=budget)
        analysis = Analysis.from_state(ENGINE_ID, state, settings=settings)
        assert analysis.calibrations()["single"].budget_per_week == budget
    strict, loose = (
        Analysis.from_state(
            ENGINE_ID, state, settings=StreamSettings(false_incidents_per_week=budget)
        ).calibrations()["single"]
        for budget in (0.01, 100.0)
    )
    assert strict.threshold > loose.threshold


def test_the_log_says_how_thresholds_came_about(state: dict[str, Any]) -> None:
    worker = pytest.importorskip("streams.workers.analyze", reason="no faust")
    (line,) = worker.calibration_lines(Analysis.from_state(ENGINE_ID, state))
    assert line.startswith(f"{ENGINE_ID}: single batches: threshold ")
    assert "false incidents a week foreseen where 1 are allowed; 700 batches" in line


def test_a_worker_survives_a_state_that_it_cannot_read(
    feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    worker = pytest.importorskip("streams.workers.analyze", reason="no faust")
    for state in (b'{"version": 99}', b'{"version": 2}', b"no json", b"[]"):
        analysis = worker.restore(ENGINE_ID, state, StreamSettings())
        assert analysis.batches == 0
        assert "learning it anew" in caplog.text
        caplog.clear()


def test_judging_a_batch_loses_nothing_of_it(feed: Feed) -> None:
    (batch,) = Listener().take(feed.batch())
    assert isinstance(batch, Batch)
    timed = replace(batch, counters={"xpu": 1.0}, missed=3, ranks=2, iterations=7, revision=4)
    judgement = Judgement(verdict="slow", reason="why", expected_ms=1.0, score=0.4)
    around = Around(gap_ns=5, expected_gap_ns=4, score=1.5, slow_parts=("gap",), reason="a gap")
    judged = judged_batch(timed, judgement, around, "learning anew: ranks 4 -> 2")
    given = {
        "verdict": "slow",
        "reason": "learning anew: ranks 4 -> 2; a gap; why",
        "expected_ns": 1_000_000,
        "score": 1.5,
        "gap_ns": 5,
        "expected_gap_ns": 4,
        "slow_parts": ("gap",),
    }
    written = {*given, "low_ns", "high_ns", "residual", "terms_ns"}
    assert {name: getattr(judged, name) for name in given} == given
    kept = [one.name for one in fields(Batch) if one.name not in written]
    assert all(getattr(judged, name) == getattr(timed, name) for name in kept)
    assert as_judged(replace(timed, revision=5), judged) == replace(judged, revision=5)
