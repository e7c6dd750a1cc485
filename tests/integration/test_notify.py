"""Incidents on a real Kafka: two workers, one of which is killed in the middle of an incident."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from latencyprism.__main__ import main
from schemas.topics import ALERTS, NOTIFICATIONS
from tests.integration.deployment import Deployment, TopicReader, publish, wait_until
from tests.integration.kafka_server import KafkaServer
from tests.streams.made_alerts import SECOND_NS, START_NS, Trouble
from tests.streams.receiver import Receiver

pytestmark = pytest.mark.integration

Capsys = pytest.CaptureFixture[str]


def incidents(run: Deployment, capsys: Capsys, *arguments: str) -> Any:
    """Give what the command says."""
    capsys.readouterr()
    config = str(run.folder / "second.toml")
    assert main(["incidents", *arguments, "--json", "--config", config]) == 0
    return json.loads(capsys.readouterr().out)


def ours(found: list[Any]) -> list[Any]:
    """Leave out what other tests on the same brokers left open."""
    return [one for one in found if one["alert"]["engine_id"].startswith("notify-")]


def test_another_worker_goes_on_with_the_incident_of_one_that_is_killed(
    kafka: KafkaServer, tmp_path: Path, capsys: Capsys
) -> None:
    since = (time.time_ns() - START_NS) / SECOND_NS
    one, two = Trouble("notify-h:1", since, host="notify-h"), Trouble("notify-h:2", since)
    two.host, hushed = one.host, Trouble("notify-q:1", since, host="notify-q")
    with (
        Receiver() as receiver,
        Deployment(kafka, tmp_path, "notify", f"{receiver.address}/hook") as run,
    ):
        reader = TopicReader(kafka, NOTIFICATIONS.name)
        run.start("notify", "first")
        run.start("notify", "second")
        assert "is ready with 0 partitions" in run.said("second")
        fired = [one.fire(since + 1), two.fire(since + 2)]
        publish(kafka, fired)
        wait_until("two members", lambda: len(receiver.deliveries) >= 2)
        [listed] = ours(incidents(run, capsys, "list"))
        assert {one["engine_id"] for one in listed["members"]} == {"notify-h:1", "notify-h:2"}
        incidents(run, capsys, "silence", "--match", "host=notify-q", "--for", "5m")
        incidents(run, capsys, "ack", listed["incident_id"], "--by", "ada")
        wait_until(
            "acknowledgement",
            lambda: bool(reader.values(NOTIFICATIONS.name, acknowledged_by="ada")),
        )
        run.kill("first")
        over = [one.resolve(since + 9), two.resolve(since + 10)]
        publish(kafka, [*fired, hushed.fire(since + 8), hushed.resolve(since + 9), *over, *over])
        wait_until(
            "end", lambda: len(ours(reader.values(NOTIFICATIONS.name, state="resolved"))) >= 2
        )
        run.wait_until_done("notify", ALERTS.name, NOTIFICATIONS.name)
        told = reader.values(NOTIFICATIONS.name)
        reader.close()
        assert ours(incidents(run, capsys, "list")) == []
    mine = [found for found in told if found["incident_id"] == listed["incident_id"]]
    assert [found["revision"] for found in mine] == list(range(len(mine)))
    assert [found["state"] for found in mine].count("resolved") == 1
    silent = [found["silenced_by"] for found in told if found["alert"]["host"] == "notify-q"]
    assert len(silent) == 2
    assert None not in silent
    # A worker that dies between delivery and commit repeats, under the same key: receivers drop it.
    once = {found.headers["Idempotency-Key"]: found.payload for found in receiver.deliveries}
    states = [payload["status"] for payload in once.values()]
    # One engine, two of them, that somebody takes care, and the end.
    assert states == ["firing", "firing", "firing", "resolved"]
