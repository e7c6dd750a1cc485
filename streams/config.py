"""What the stream workers are told: section ``[stream]`` of the configuration file."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec

API_TOKEN = "LATENCYPRISM_API_TOKEN"
"""Environment variable with what a request to the API of incidents has to bring."""


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the workers read from Kafka and keep their state.

    Attributes:
        application: Prefix of the consumer groups and of the changelog topic.

        data_dir: Folder for Faust's own files; empty for one under the system's temporary folder.

        checkpoint_batches: An engine's baseline is checkpointed every so many batches.

        fetch_wait_ms: How long a fetch waits on the broker for new messages. A real Kafka
            answers as soon as one arrives, so this only limits idle traffic.

        embedded: The broker is the embedded one of `latencyprism demo`, which cannot create
            topics on request.

        changelog_replicas: Copies of the topic that keeps the workers' state.

        false_incidents_per_week: How many false incidents of one engine in a week of work are put
            up with, 0.001 to 1000; thresholds follow from it. Fewer of them means faults are seen
            later.

        adopt_after_hours: A slowdown that lasts so many hours, steadily, is taken as the new
            normal; 0 for never, 8760 (a year) at most.

        least_peers: An engine that was slow from its first batch is called so when so many of its
            peers (same framework, version, model, accelerators, ranks and flags) agree.
    """

    application: str = "latencyprism"
    data_dir: str = ""
    checkpoint_batches: Annotated[int, msgspec.Meta(ge=1)] = 200
    fetch_wait_ms: Annotated[int, msgspec.Meta(ge=1)] = 100
    embedded: bool = False
    changelog_replicas: Annotated[int, msgspec.Meta(ge=1)] = 1
    false_incidents_per_week: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] = 1.0
    adopt_after_hours: Annotated[float, msgspec.Meta(ge=0, le=8760)] = 0.0
    least_peers: Annotated[int, msgspec.Meta(ge=1)] = 2

    def folder(self, role: str) -> Path:
        """Give the folder of one worker role."""
        # One for each user: whoever came first would own a common one.
        base = self.data_dir or f"{tempfile.gettempdir()}/latencyprism-{os.getuid()}"
        return Path(base) / role
