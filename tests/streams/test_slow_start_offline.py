"""A slow start from the records of a fleet to the alert."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import Alert, Batch, Norms
from simulator.fleet import presets
from simulator.fleet.fleet import Fleet
from simulator.fleet.setting import Setting
from streams.offline import Offline

A100_VLLM = presets.load("a100_vllm")
HEALTHY = 6


def slowed(setting: Setting, factor: float) -> Setting:
    """Let decoding take so many times as long."""
    knots = tuple((size, took * factor) for size, took in setting.cost.decode_ms)
    mixed = tuple((size, took * factor) for size, took in setting.cost.mixed_tokens_ms)
    return replace(setting, cost=replace(setting.cost, decode_ms=knots, mixed_tokens_ms=mixed))


@pytest.fixture(scope="module")
def results() -> tuple[str, list[Alert | Batch | Norms]]:
    fleet = Fleet([*[A100_VLLM] * HEALTHY, slowed(A100_VLLM, 1.3)], seed=2)
    offline = Offline()
    found = [one for record in fleet.records(25.0) for one in offline.feed(record)]
    return fleet.places[HEALTHY].engine_id, found


def test_one_alert_names_the_peers_the_ratio_and_where_they_were_compared(
    results: tuple[str, list[Alert | Batch | Norms]],
) -> None:
    slow_id, found = results
    (alert,) = [one for one in found if isinstance(one, Alert)]
    assert (alert.engine_id, alert.state, alert.cause) == (slow_id, "firing", "unknown")
    assert "times as slow from its first batch as" in alert.summary
    assert len(alert.evidence.peers) >= 2
    for ratio in alert.evidence.peers.values():
        assert ratio == pytest.approx(1.29, abs=0.04)
    assert alert.evidence.ratio == pytest.approx(1.29, abs=0.04)
    assert alert.evidence.peer_cells
    assert alert.batch_sequence <= 260


def test_its_terms_add_up_and_all_of_its_batches_from_there_on_are_slow(
    results: tuple[str, list[Alert | Batch | Norms]],
) -> None:
    slow_id, found = results
    own = [one for one in found if isinstance(one, Batch) and one.engine_id == slow_id]
    first = next(number for number, one in enumerate(own) if one.verdict == "slow")
    assert {one.verdict for one in own[first : first + 100]} == {"slow"}
    assert sum(own[first].terms_ns.values()) == pytest.approx(own[first].expected_ns, rel=1e-3)


def test_its_norms_are_no_norms_for_others(
    results: tuple[str, list[Alert | Batch | Norms]],
) -> None:
    slow_id, found = results
    own = [one for one in found if isinstance(one, Norms) and one.engine_id == slow_id]
    assert own[-1].suspect
    assert not any(one.suspect for one in found if isinstance(one, Norms) if one not in own)
