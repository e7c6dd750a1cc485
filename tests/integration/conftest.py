"""What integration tests share: one real Apache Kafka for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kafka_server import KafkaServer, KafkaUnavailableError


def new_server(folder: Path) -> KafkaServer:
    """Return a server not yet started; skip the test where there is no Java, fail it in CI."""
    try:
        return KafkaServer(folder)
    except KafkaUnavailableError as err:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(err))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A running Kafka that tests share: each takes topics and groups of its own."""
    with new_server(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    """A running Kafka that one test may kill."""
    with new_server(tmp_path / "kafka") as server:
        yield server
