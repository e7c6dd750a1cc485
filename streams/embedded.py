"""A Kafka broker inside this process, for the demo and for tests without services."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

# Fixed by librdkafka; its mock broker answers no CreateTopics request that could ask for another.
PARTITIONS = 4


class EmbeddedBroker:
    """librdkafka's mock broker: the real protocol over loopback TCP, everything in memory.

    It lives in threads of librdkafka, so the process may do other work, and it ends with the
    `with` block or the process: all messages, offsets and groups are then gone. A partition keeps
    its newest 5 MiB and is never compacted. A topic appears, with `PARTITIONS` partitions, when a
    client first names it; a request that creates a topic is answered by a closed connection. For
    the demo and for tests, not for data that somebody wants to keep.
    """

    def __init__(self) -> None:
        self.bootstrap = ""
        self._owner: Producer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on a free loopback port and say so in `bootstrap`."""
        # log_level 4: that a mock cluster is in use is the purpose here, not a notice.
        self._owner = Producer({"test.mock.num.brokers": 1, "log_level": 4})
        brokers = self._owner.list_topics(timeout=10).brokers
        self.bootstrap = ",".join(f"{one.host}:{one.port}" for one in brokers.values())

    def stop(self) -> None:
        """Close the port and forget everything; safe to call twice."""
        # The broker's life is that of its client, whose destructor ends it.
        self._owner = None
        self.bootstrap = ""

    def create_topics(self, names: list[str], *, timeout_seconds: float = 10.0) -> None:
        """Let these topics exist before anyone subscribes to them."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 4})
        deadline = time.monotonic() + timeout_seconds
        for name in names:
            admin.list_topics(name, timeout=max(deadline - time.monotonic(), 0.1))
