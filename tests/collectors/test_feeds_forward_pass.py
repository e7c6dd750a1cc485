"""SGLang's forward pass metrics: found without configuration, decoded into numbers only."""

from __future__ import annotations

import importlib
import math
import os
import pickle
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collectors.discovery import EngineProcess, Process
from collectors.engines import load
from collectors.feeds import FeedEnded, FeedUnavailable, Said
from collectors.feeds import forward_pass as forward_pass_module
from collectors.feeds.forward_pass import ForwardPassFeed, listening_paths, read, socket_of
from schemas.records import Workload

SGLANG = load("sglang").feed
OPTION = "--enable-forward-pass-metrics"
# As sglang/srt/observability/forward_pass_metrics.py has it; at first there was neither version
# nor counter_id.
BATCH: dict[str, Any] = {
    "version": 1,
    "worker_id": "w",
    "dp_rank": 0,
    "counter_id": 5,
    "wall_time": 0.0125,
    "scheduled_requests": {
        "num_prefill_requests": 2,
        "sum_prefill_tokens": 300,
        "var_prefill_length": 2.5,
        "sum_prefill_kv_tokens": 64,
        "num_decode_requests": 6,
        "sum_decode_kv_tokens": 1200,
        "var_decode_kv_tokens": 9.0,
    },
    "queued_requests": {
        "num_prefill_requests": 3,
        "sum_prefill_tokens": 900,
        "var_prefill_length": 0.0,
        "num_decode_requests": 1,
        "sum_decode_kv_tokens": 50,
        "var_decode_kv_tokens": 0.0,
    },
}


def frames(message: object = BATCH, number: int = 5) -> list[bytes]:
    return [b"", number.to_bytes(8, "big"), msgspec.msgpack.encode(message)]


def said(message: object = BATCH, *, has_drafts: bool = False) -> Said | None:
    return read(frames(message), 10, 20, has_drafts)


def engine(*options: str, name: str = "30000") -> EngineProcess:
    """An engine whose scheduler is this very process."""
    words = ("python", "-m", "sglang.launch_server", *options)
    core = Process(pid=os.getpid(), parent_pid=1, start_ticks=1, arguments=words)
    return EngineProcess(framework="sglang", name=name, core=core, port=30000)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lp") as name:
        yield Path(name)


def listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


def test_a_batch_is_told_with_its_workload() -> None:
    assert said() == Said(
        index=5,
        duration_ns=12_500_000,
        after_ns=10,
        at_ns=20,
        workload=Workload(
            requests=8,
            scheduled_tokens=306,
            prefill_tokens=300,
            decode_requests=6,
            kv_tokens=1564,
            waiting_requests=4,
        ),
    )


def test_the_first_versions_said_no_version() -> None:
    old = {key: value for key, value in BATCH.items() if key not in ("version", "counter_id")}
    assert said(old) == said()


def test_a_message_without_a_time_is_a_sign_of_life() -> None:
    found = said({"worker_id": "w", "wall_time": 0.0})
    assert found is not None
    assert found.is_heartbeat


def test_with_drafts_only_the_requests_are_known() -> None:
    found = said(has_drafts=True)
    assert found is not None
    assert found.workload == Workload(requests=8, waiting_requests=4)


def test_a_batch_that_it_cannot_name_has_no_workload() -> None:
    found = said({"wall_time": 0.01})
    assert found is not None
    assert found.workload == Workload(waiting_requests=0)


@pytest.mark.parametrize(
    "message",
    [
        BATCH | {"version": 2},
        BATCH | {"wall_time": math.nan},
        BATCH | {"wall_time": -1.0},
        BATCH | {"wall_time": 1e9},
        BATCH | {"wall_time": "long"},
        BATCH | {"scheduled_requests": [1, 2, 3]},
        [1, "w", 0, 5, 0.0125],
        "text",
    ],
)
def test_a_message_of_another_kind_is_none(message: object) -> None:
    assert said(message) is None


def test_numbers_that_cannot_be_are_no_workload() -> None:
    found = said(BATCH | {"scheduled_requests": {"num_prefill_requests": -3}})
    assert found is not None
    assert found.workload == Workload()


@pytest.mark.parametrize("payload", [b"", b"\xff" * 100, b"\xc1", os.urandom(300)])
def test_garbage_is_none(payload: bytes) -> None:
    assert read([b"", bytes(8), payload], 0, 1, False) is None
    assert read([payload], 0, 1, False) is None
    assert read([b"", b"", payload], 0, 1, False) is None


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


def test_a_pickle_is_never_opened() -> None:
    assert read([b"", bytes(8), pickle.dumps(Trap())], 0, 1, False) is None


def test_the_socket_is_found_by_asking_the_kernel(folder: Path) -> None:
    with listen(folder / "other"), listen(folder / "metrics.0"), listen(folder / "metrics.1"):
        paths = listening_paths(os.getpid())
        assert {str(folder / "other"), str(folder / "metrics.0")} <= set(paths)
        assert socket_of(engine()).endswith(str(folder / "metrics.0"))
        assert socket_of(engine(name="30000/dp1")).endswith(str(folder / "metrics.1"))


def test_without_a_socket_it_is_said_what_to_do() -> None:
    with pytest.raises(FeedUnavailable, match="run the agent on its host"):
        socket_of(engine(name="30000/dp77"))


def test_a_path_that_the_kernel_would_not_take_is_said(folder: Path) -> None:
    deep = folder / ("x" * (105 - len(str(folder)) - 10))
    deep.mkdir()
    with listen(deep / "m.0"), pytest.raises(FeedUnavailable, match="TMPDIR"):
        socket_of(engine())


def test_where_it_is_off_the_option_is_named() -> None:
    with pytest.raises(FeedUnavailable, match=f"start the engine with {OPTION}"):
        ForwardPassFeed(SGLANG, engine())


def test_without_pyzmq_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    with (
        listen(folder / "metrics.0"),
        pytest.raises(FeedUnavailable, match=r"pip install 'latencyprism\[feeds\]'"),
    ):
        ForwardPassFeed(SGLANG, engine(OPTION))


class Published:
    """A publisher as SGLang's, and the feed that listens to it."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("zmq", reason="pip install 'latencyprism[feeds]'")
        zmq: Any = importlib.import_module("zmq")
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUB)
        self.socket.bind(f"ipc://{folder}/metrics.0")
        self.feed = ForwardPassFeed(SGLANG, engine(OPTION))
        self.number = 0

    def publish(self, message: object = BATCH) -> None:
        self.socket.send_multipart(frames(message, self.number))
        self.number += 1

    def hear(self, count: int) -> list[Said]:
        """Give so many; a subscriber that has just connected misses the first."""
        found: list[Said] = []
        deadline = time.monotonic() + 10
        while len(found) < count:
            assert time.monotonic() < deadline
            found += self.feed.poll(0.05)
        return found

    def close(self) -> None:
        self.feed.close()
        self.context.destroy(linger=0)


@pytest.fixture
def published(folder: Path) -> Iterator[Published]:
    published = Published(folder)
    while not published.feed.poll(0.02):
        published.publish({"wall_time": 0.0})
    while published.feed.poll(0.05):
        pass
    yield published
    published.close()


def test_what_is_published_is_heard_in_order(published: Published) -> None:
    first = published.number
    for _ in range(50):
        published.publish()
    heard = published.hear(50)
    assert [one.index for one in heard] == list(range(first, first + 50))
    assert all(one.after_ns <= one.at_ns for one in heard)
    assert heard[0].workload.requests == 8


def until_it_ends(feed: ForwardPassFeed) -> tuple[list[Said], str]:
    """Give all that it still says, and why it ends."""
    heard: list[Said] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            heard += feed.poll(0.02)
        except FeedEnded as err:
            return heard, str(err)
    raise AssertionError("it never ends")


def test_a_message_too_large_is_not_taken_into_memory(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is dropped; the feed ends and is opened anew later."""
    monkeypatch.setattr(forward_pass_module, "SILENCE_SECONDS", 0.2)
    published.publish({"worker_id": "x" * 1_000_000, "wall_time": 0.01})
    heard, _ = until_it_ends(published.feed)
    assert heard == []


def test_silence_is_its_end(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_pass_module, "SILENCE_SECONDS", 0.05)
    _, why = until_it_ends(published.feed)
    assert "said nothing" in why
