"""Each negative control in a simulated fleet, with the whole analysis behind it.

How many false incidents it causes is told (``--log-cli-level=info`` shows it) and not judged: that
is what the score of the fault gym is for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from schemas.records import Alert, Batch, Engine, Fault, Iteration
from simulator import controls
from simulator.fleet import presets
from simulator.fleet.episodes import Episode
from simulator.fleet.fleet import simulate

pytest.importorskip("river", reason="no river: pip install 'latencyprism[stream]'")

from streams.offline import Offline

log = logging.getLogger(__name__)

BEGIN_SECONDS, END_SECONDS, SECONDS = 12.0, 22.0, 30.0


@pytest.mark.parametrize("name", controls.available())
def test_a_fleet_shows_it_and_the_truth_calls_it_a_control(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    episode = Episode(name=name, begin_seconds=BEGIN_SECONDS, end_seconds=END_SECONDS)
    records = list(simulate([presets.load("a100_vllm")], [episode], seconds=SECONDS, seed=5))

    truth = [one for one in records if isinstance(one, Fault)]
    assert [one.state for one in truth] == ["begun", "ended"]
    assert {(one.kind, one.name, one.causes) for one in truth} == {("control", name, ())}
    assert truth[-1].end_ns is not None
    assert truth[-1].end_ns - truth[-1].begin_ns == (END_SECONDS - BEGIN_SECONDS) * 1e9

    processes = {one.process_start_ns for one in records if isinstance(one, Iteration)}
    inventories = {(one.model, one.watched_ranks) for one in records if isinstance(one, Engine)}
    # There and back again.
    assert len(processes) == (3 if controls.load(name).redeploys else 1)
    assert len(inventories) == (2 if controls.load(name).redeploys else 1)

    offline = Offline()
    results = [result for record in records for result in offline.feed(record)]
    judged = {one.verdict for one in results if isinstance(one, Batch)}
    assert "normal" in judged
    incidents = {one.incident_id: one.cause for one in results if isinstance(one, Alert)}
    record_property("false_incidents", len(incidents))
    log.info("%s: %d false incidents %s", name, len(incidents), sorted(incidents.values()))
