"""Let one worker of a role have all partitions while the others stand by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka.coordinator import protocol  # type: ignore[import-untyped] # no types upstream

VERSION = 0
# What a worker that has the partitions tells the others.
HAS_THEM = b"has them"


class SingleAssignor:
    """Gives all partitions to the worker that has them, else to any one.

    For a role that must see everything in one place, and has little to do. What it must offer is
    said in `aiokafka.coordinator.assignors.abstract`.
    """

    name = "single"

    def __init__(self) -> None:
        self._has_them = False

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Share out; called at one of the workers, for all of them."""
        names = sorted(members)
        chosen = [*(one for one in names if members[one].user_data == HAS_THEM), *names][0]
        everything = [
            (topic, sorted(cluster.partitions_for_topic(topic) or ()))
            for topic in sorted(members[chosen].subscription)
        ]
        return {
            one: protocol.ConsumerProtocolMemberAssignment(
                VERSION, everything if one == chosen else [], b""
            )
            for one in names
        }

    def metadata(self, topics: Any) -> Any:
        """Tell what this worker wants and has."""
        return protocol.ConsumerProtocolMemberMetadata(
            VERSION, list(topics), HAS_THEM if self._has_them else b""
        )

    def on_assignment(self, assignment: Any) -> None:
        """Take note of what this worker was given."""
        self._has_them = bool(assignment.assignment)
