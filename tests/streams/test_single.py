"""One worker has all partitions, and keeps them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("aiokafka", reason="no aiokafka: pip install 'latencyprism[stream]'")

from streams.single import SingleAssignor


class Cluster:
    def partitions_for_topic(self, _: str) -> set[int]:
        return {1, 0, 2}


def shared_out(members: dict[str, SingleAssignor]) -> dict[str, int]:
    """Give how many partitions each member gets, and let them know."""
    metadata: dict[str, Any] = {name: one.metadata({"b", "a"}) for name, one in members.items()}
    # As over the wire.
    read = {name: type(one).decode(one.encode()) for name, one in metadata.items()}
    found = next(iter(members.values())).assign(Cluster(), read)
    for name, one in members.items():
        one.on_assignment(type(found[name]).decode(found[name].encode()))
    return {name: sum(len(p) for _, p in one.assignment) for name, one in found.items()}


def test_one_has_all_and_keeps_them_when_others_come() -> None:
    members = {"m": SingleAssignor()}
    assert shared_out(members) == {"m": 6}
    members = {"a": SingleAssignor(), "z": SingleAssignor()} | members
    assert shared_out(members) == {"a": 0, "m": 6, "z": 0}
    del members["m"]
    assert shared_out(members) == {"a": 6, "z": 0}
