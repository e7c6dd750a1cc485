"""`latencyprism topics` against a real Kafka."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from schemas.topics import TOPICS
from tests.integration.deployment import ROOT
from tests.integration.kafka_server import KafkaServer

pytestmark = pytest.mark.integration


def run_topics(config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "latencyprism", "topics", "--config", config, *flags],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def write_config(folder: Path, bootstrap: str, partitions: int = 3) -> Path:
    config = folder / "latencyprism.toml"
    config.write_text(f'[kafka]\nbootstrap_servers = "{bootstrap}"\npartitions = {partitions}\n')
    return config


def test_topics_are_named_then_created_then_left_alone(
    own_kafka: KafkaServer, tmp_path: Path
) -> None:
    config = write_config(tmp_path, own_kafka.bootstrap)
    missing = run_topics(config)
    assert missing.returncode == 1
    assert [line.split()[0] for line in missing.stdout.splitlines()] == list(TOPICS)
    assert missing.stdout.count("missing: run with --create") == len(TOPICS)

    created = run_topics(config, "--create")
    assert (created.returncode, created.stderr) == (0, "")
    assert created.stdout.count("3 partitions") == len(TOPICS)

    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap})
    found = admin.list_topics(timeout=10).topics
    assert {name: len(found[name].partitions) for name in TOPICS} == dict.fromkeys(TOPICS, 3)
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in TOPICS])
    for resource, future in asked.items():
        topic, options = TOPICS[resource.name], future.result(timeout=10)
        policy = "compact" if topic.compacted else "delete"
        assert options["cleanup.policy"].value == policy, resource.name
        if not topic.compacted:
            assert options["retention.ms"].value == str(topic.retention_ms), resource.name

    again = run_topics(write_config(tmp_path, own_kafka.bootstrap, partitions=7))
    assert again.returncode == 0
    assert again.stdout == created.stdout
    once_more = run_topics(config, "--create")
    assert (once_more.returncode, once_more.stdout) == (0, created.stdout)


def test_without_a_broker_it_says_what_to_check(tmp_path: Path) -> None:
    done = run_topics(write_config(tmp_path, "127.0.0.1:1"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "127.0.0.1:1 does not answer" in done.stderr
    assert "check [kafka] bootstrap_servers" in done.stderr
