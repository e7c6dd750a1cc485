"""An incident's two captures of a real engine process, and what differs between them."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from collectors import capture_requests as requests_module
from collectors.capture import Target, find_py_spy
from collectors.difference import read_difference
from collectors.discovery import Scanner
from collectors.engines import find_engines, load
from schemas.records import Alert, AlertState, Capture
from simulator.replica.process import ReplicaProcess
from streams.capture_policy import CapturePolicy, CaptureSettings
from tests.collectors.capturing import Requests
from tests.collectors.engine import free_port, needs_native
from tests.collectors.engine import load as load_of
from tests.schemas.samples import full

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        find_py_spy() is None, reason="no py-spy command: pip install 'latencyprism[capture]'"
    ),
]


@pytest.fixture
def replica() -> Iterator[ReplicaProcess]:
    with ReplicaProcess(port=free_port(), work_ratio=0.3) as running, load_of(running.base_url):
        yield running


def disturb(replica: ReplicaProcess, worker_delay_ms: float) -> None:
    body = json.dumps({"worker_delay_ms": worker_delay_ms}).encode()
    asked = urllib.request.Request(
        f"{replica.base_url}/replica/disturbances",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 200


class Incident:
    """What the policy, told of an incident, has the agent take."""

    def __init__(self, replica: ReplicaProcess, folder: Path) -> None:
        port = int(replica.base_url.rpartition(":")[2])
        framework = load("vllm")
        [engine] = [one for one in find_engines(Scanner().scan(), [framework]) if one.port == port]
        self.target = Target(f"h:{engine.name}", "h", engine, framework)
        self.requests = Requests(self.target, folder)
        self.policy = CapturePolicy(CaptureSettings(seconds=2.0, calm_seconds=0.5))

    def step(self, state: AlertState) -> list[Capture]:
        now_ns = time.time_ns()
        alert = replace(
            full(Alert),
            incident_id="i",
            engine_id=self.target.engine_id,
            host="h",
            severity="page",
            state=state,
            at_ns=now_ns,
        )
        return self.policy.add(alert, now_ns)

    def take(self, asked: Capture) -> Capture:
        self.requests.listener.handle(asked)
        done = self.requests.captures[-1]
        self.policy.hear(done)
        return done


@needs_native
def test_the_difference_of_both_captures_names_the_function_that_was_slow(
    replica: ReplicaProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_module, "PAUSE_SECONDS", 0.0)
    incident = Incident(replica, tmp_path)
    disturb(replica, 20.0)
    [asked] = incident.step("firing")
    first = incident.take(asked)
    disturb(replica, 0.0)
    assert incident.step("resolved") == []
    time.sleep(0.6)
    [asked] = incident.policy.tick(time.time_ns())
    second = incident.take(asked)
    assert [(one.state, one.error) for one in (first, second)] == [("done", None)] * 2
    assert "difference.svg" not in first.files
    found = read_difference(Path(second.folder or "") / "difference.json")
    assert (found.during.capture_id, found.reference.capture_id) == (
        first.capture_id,
        second.capture_id,
    )
    [slow] = [one for one in found.functions if one.name == "DisturbedForward.__call__"]
    assert slow in [one for one in found.functions if one.growth > 0][:3]
    assert (slow.role, slow.file) == ("worker", "disturbances.py")
    assert slow.growth > 0.2
    roles = [one.role for one in found.processes]
    assert roles == ["engine_core", "worker", "api_server"]
    svg = (Path(second.folder or "") / "difference.svg").read_text()
    assert "DisturbedForward.__call__" in svg
