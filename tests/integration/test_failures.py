"""What breaks in production: a worker, the broker, the database, the receiver; nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from schemas.records import Iteration, Record
from schemas.topics import ALERTS, BATCHES
from streams.analyze import Analysis
from tests.integration.deployment import (
    Deployment,
    TopicReader,
    live_feed,
    publish,
    publisher_to,
    wait_until,
)
from tests.integration.kafka_server import KafkaServer, free_ports
from tests.streams.feed import Feed, Listener
from tests.streams.receiver import Receiver

pytestmark = pytest.mark.integration

OPEN_CHDB = """\
import sys, time
import clickhouse_connect
client = clickhouse_connect.get_client(dsn="chdb:///" + sys.argv[1])
print("open", flush=True)
sys.stdin.read()
client.close()
"""


def states(reader: TopicReader, engine_id: str) -> list[str]:
    return [one["state"] for one in reader.values(ALERTS.name, engine_id=engine_id)]


def reached(reader: TopicReader, feed: Feed) -> Callable[[], bool]:
    """Tell whether the newest batch of a feed is out."""

    def there() -> bool:
        found = reader.values(BATCHES.name, engine_id=feed.engine_id)
        return any(one["sequence"] == feed.sequence for one in found)

    return there


def sequences(batches: Iterable[dict[str, Any]]) -> list[int]:
    return [one["sequence"] for one in batches]


def test_a_worker_killed_in_an_incident_goes_on_with_it(kafka: KafkaServer, tmp_path: Path) -> None:
    feed = live_feed("killed:8000", seed=3)
    with Deployment(kafka, tmp_path, "killed") as run:
        reader = TopicReader(kafka, BATCHES.name, ALERTS.name)
        run.start("analyze")
        publish(kafka, [feed.engine(), *feed.batches(700)])
        publish(kafka, feed.batches(130, factor=1.6))
        wait_until("alert", lambda: "firing" in states(reader, feed.engine_id))
        wait_until("batches", reached(reader, feed))
        run.kill("analyze")
        publish(kafka, feed.batches(100, factor=1.6))
        before = feed.sequence - 100
        run.start("analyze")
        publish(kafka, feed.batches(450))
        wait_until("batches", reached(reader, feed))
        run.start("store")
        run.wait_until_done("store", BATCHES.name, ALERTS.name)
        run.stop("store")
        alerts = reader.values(ALERTS.name, engine_id=feed.engine_id)
        batches = reader.values(BATCHES.name, engine_id=feed.engine_id)
        reader.close()
        [rows] = run.query(
            "SELECT count(), uniqExact(sequence) FROM batches_view "
            f"WHERE engine_id = '{feed.engine_id}'"
        )
    assert len({one["incident_id"] for one in alerts}) == 1
    told = Counter(one["state"] for one in alerts)
    assert (told["firing"], told["resolved"]) == (1, 1)
    revisions = [one["revision"] for one in alerts]
    assert revisions == list(range(len(alerts)))
    after = [one for one in batches if one["sequence"] > before]
    assert {one["verdict"] for one in after if one["sequence"] <= before + 100} == {"slow"}
    assert "unknown" not in {one["verdict"] for one in after}
    assert set(sequences(batches)) == set(range(1, feed.sequence + 1))
    assert rows == [[feed.sequence, feed.sequence]]


def test_a_broker_that_is_killed_costs_nothing_that_was_taken(
    own_kafka: KafkaServer, tmp_path: Path
) -> None:
    feed = live_feed("outage:8000", seed=4)
    with (
        Receiver() as receiver,
        Deployment(own_kafka, tmp_path, "outage", receiver.address) as run,
    ):
        workers = [run.start("analyze"), run.start("notify")]
        reader = TopicReader(own_kafka, BATCHES.name, ALERTS.name)
        with publisher_to(own_kafka) as publisher:
            sent = 0

            def send(records: Iterable[Record], per_second: float) -> None:
                nonlocal sent
                for record in records:
                    publisher.publish(record)
                    sent += isinstance(record, Iteration)
                    time.sleep(1 / per_second)

            send([feed.engine(), *feed.batches(300)], 1000)
            back = threading.Timer(5.0, own_kafka.start)
            steady = threading.Thread(target=send, args=(feed.batches(1000), 100))
            steady.start()
            time.sleep(1.0)
            own_kafka.kill()
            back.start()
            steady.join()
            back.join()
            wait_until("batches after the outage", reached(reader, feed))
            send(feed.batches(60, factor=1.8), 100)
            wait_until("alert after the outage", lambda: len(receiver.deliveries) > 0)
            wait_until("batches", reached(reader, feed))
        found = sequences(reader.values(BATCHES.name, engine_id=feed.engine_id))
        reader.close()
        assert [worker.poll() for worker in workers] == [None, None]
    assert sent == feed.sequence == 1360
    assert set(found) == set(range(1, sent + 1))
    assert receiver.deliveries[0].alert["annotations"]["state"] == "firing"
    keys = [one.headers["Idempotency-Key"] for one in receiver.deliveries]
    assert len(set(keys)) == len(keys)


def judged(feed: Feed, records: Iterable[Any]) -> Listener:
    """Give what analyze would make of records, at the present time."""
    listener = Listener(Analysis(feed.engine_id))
    listener.take(list(records))
    return listener


def test_rows_wait_for_a_database_that_is_away(kafka: KafkaServer, tmp_path: Path) -> None:
    feed = live_feed("no-database:8000", seed=5)
    made = judged(feed, [feed.engine(), *feed.batches(500)]).batches
    with Deployment(kafka, tmp_path, "no-database") as run:
        folder = str(tmp_path / "clickhouse")
        other = subprocess.Popen(
            [sys.executable, "-c", OPEN_CHDB, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"open\n"
            run.start("store")
            publish(kafka, made)
            wait_until("complaint", lambda: "does not open" in run.said("store"))
            time.sleep(3.0)
            other.communicate(timeout=30)
        run.wait_until_done("store", BATCHES.name)
        run.stop("store")
        said = run.said("store")
        [rows] = run.query(
            f"SELECT count(), uniqExact(sequence) FROM batches WHERE engine_id = '{feed.engine_id}'"
        )
    assert rows == [[500, 500]]
    # Which table's rows come first is open; each waiting step says it once.
    assert said.count("Kept and tried again") == said.count("Delivered after") == 1


class LateReceiver(HTTPServer):
    """A receiver on a given port."""

    def __init__(self, port: int) -> None:
        self.keys: list[str] = []
        keys = self.keys

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keys.append(self.headers["Idempotency-Key"])
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", port), Handler)


def test_an_alert_waits_for_a_receiver_that_is_down(kafka: KafkaServer, tmp_path: Path) -> None:
    feed = live_feed("no-receiver:8000", seed=6)
    alerts = judged(feed, [*feed.batches(600), *feed.batches(30, factor=1.6)]).alerts
    [port] = free_ports(1)
    with Deployment(kafka, tmp_path, "no-receiver", f"http://127.0.0.1:{port}/hook") as run:
        run.start("notify")
        publish(kafka, alerts)
        wait_until("complaint", lambda: "is not reachable" in run.said("notify"))
        time.sleep(5.0)
        with LateReceiver(port) as receiver:
            thread = threading.Thread(target=receiver.serve_forever, args=(0.05,))
            thread.start()
            wait_until("delivery", lambda: len(receiver.keys) >= len(alerts))
            run.wait_until_done("notify", ALERTS.name)
            receiver.shutdown()
            thread.join()
        said = run.said("notify")
    assert receiver.keys == [f"{one.incident_id}-{one.revision}" for one in alerts]
    assert said.count("Kept and tried again") == said.count("Delivered after") == 1


def test_workers_share_engines_and_one_takes_over_what_the_other_knew(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    feeds = [live_feed(f"shared-{n}:8000", seed=10 + n) for n in range(8)]
    with Deployment(kafka, tmp_path, "shared") as run:
        reader = TopicReader(kafka, BATCHES.name, ALERTS.name)

        def send(count: int) -> None:
            publish(kafka, chain.from_iterable(feed.batches(count) for feed in feeds))
            for feed in feeds:
                wait_until(f"batches of {feed.engine_id}", reached(reader, feed))

        run.start("analyze", "first")
        publish(kafka, [feed.engine() for feed in feeds])
        send(320)
        second = run.start("analyze", "second")
        wait_until("half of the engines", lambda: run.said("first").count(" is ready with ") == 2)
        send(300)
        first = run.workers["first"]
        assert (first.poll(), second.poll()) == (None, None)
        alone = run.said("first"), run.said("second")
        run.kill("first")
        send(60)
        assert second.poll() is None
        found = {
            feed.engine_id: reader.values(BATCHES.name, engine_id=feed.engine_id) for feed in feeds
        }
        reader.close()
    assert "going on after" in alone[1]
    for feed in feeds:
        batches = found[feed.engine_id]
        assert sequences(batches) == list(range(1, 681)), feed.engine_id
        later = {one["verdict"] for one in batches if one["sequence"] > 320}
        assert later <= {"normal", "drift"}, (feed.engine_id, later)
    taken_over = [feed for feed in feeds if f"{feed.engine_id}: going on" in run.said("second")]
    assert taken_over == feeds
