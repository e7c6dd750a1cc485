"""Listen to the forward pass metrics that SGLang publishes over ZMQ.

One message for each batch: three frames, of which the second numbers the messages and the third is
a msgpack map of numbers. It is decoded into the types below and nothing else; what they do not name
is skipped. SGLang makes up the socket's path, so the kernel is asked on which one the scheduler
listens.
"""

import math
import os
import re
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from collectors.discovery import PROC, EngineProcess
from collectors.engines.described import FeedText
from collectors.feeds.base import FeedEnded, FeedUnavailable, Said
from collectors.feeds.log import data_rank
from schemas.records import Workload

VERSION = 1
FRAMES, NUMBER_BYTES = 3, 8
# A message has some 300 bytes.
MESSAGE_BYTES = 65_536
WAITING_MESSAGES = 10_000

# The publisher gives a sign of life each second.
SILENCE_SECONDS = 5.0

# What the kernel takes as the path of a socket.
PATH_BYTES = 107
_LISTENING = 0x10000
_LONGEST_SECONDS = 3600.0


class Scheduled(msgspec.Struct, frozen=True, kw_only=True):
    """What the batch held."""

    num_prefill_requests: int = 0
    sum_prefill_tokens: int = 0
    sum_prefill_kv_tokens: int = 0
    num_decode_requests: int = 0
    sum_decode_kv_tokens: int = 0


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """What waited beside it."""

    num_prefill_requests: int = 0
    num_decode_requests: int = 0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One batch; without a time it is a sign of life."""

    version: int = VERSION
    wall_time: float = 0.0
    scheduled_requests: Scheduled = Scheduled()
    queued_requests: Queued = Queued()


_DECODER = msgspec.msgpack.Decoder(Message)


class ForwardPassFeed:
    """The forward pass metrics of one engine.

    Args:
        described: The option that switches them on.

        engine: Whose they are.

        proc: Where ``/proc`` is.

    Raises:
        FeedUnavailable: They are off, cannot be reached, or pyzmq is not installed.
    """

    name = "its forward pass metrics"

    def __init__(self, described: FeedText, engine: EngineProcess, proc: Path = PROC) -> None:
        if not has_option(engine, (described.option,)):
            raise FeedUnavailable(f"they are off: start the engine with {described.option}")
        path = socket_of(engine, proc)
        try:
            self._zmq = import_module("zmq")
        except ImportError as err:
            raise FeedUnavailable("they need pyzmq: pip install 'latencyprism[feeds]'") from err
        self._has_drafts = has_option(engine, described.draft_options)
        self._context: Any = self._zmq.Context()
        self._socket: Any = self._context.socket(self._zmq.SUB)
        self._socket.setsockopt(self._zmq.RCVHWM, WAITING_MESSAGES)
        self._socket.setsockopt(self._zmq.MAXMSGSIZE, MESSAGE_BYTES)
        self._socket.setsockopt(self._zmq.SUBSCRIBE, b"")
        self._socket.connect(f"ipc://{path}")
        self._emptied_ns = self._heard_ns = time.monotonic_ns()

    def poll(self, timeout_seconds: float) -> list[Said]:
        """Give the batches published since the last call, waiting at most so long.

        Raises:
            FeedEnded: There was no sign of life for some seconds.
        """
        after_ns = self._emptied_ns
        try:
            if not self._socket.poll(0):
                # What comes now comes while we wait.
                ready = self._socket.poll(int(timeout_seconds * 1000))
                after_ns = time.monotonic_ns()
                if not ready:
                    self._emptied_ns = after_ns
                    self._check_silence()
                    return []
            messages = list(self._waiting())
        except self._zmq.ZMQError as err:
            raise FeedEnded(f"they cannot be read: {err}") from err
        self._emptied_ns = self._heard_ns = time.monotonic_ns()
        said = (read(frames, after_ns, self._heard_ns, self._has_drafts) for frames in messages)
        return [one for one in said if one is not None]

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)

    def _waiting(self) -> Iterator[list[bytes]]:
        for _ in range(WAITING_MESSAGES):
            try:
                yield self._socket.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return

    def _check_silence(self) -> None:
        if time.monotonic_ns() - self._heard_ns > SILENCE_SECONDS * 1e9:
            raise FeedEnded(f"they said nothing for {SILENCE_SECONDS:.0f} s")


def read(frames: list[bytes], after_ns: int, at_ns: int, has_drafts: bool) -> Said | None:
    """Give what a message says, or None where it is none of those known."""
    if len(frames) != FRAMES or len(frames[1]) != NUMBER_BYTES:
        return None
    try:
        message = _DECODER.decode(frames[2])
    except (msgspec.DecodeError, ValueError):
        return None
    seconds = message.wall_time
    if message.version != VERSION or not math.isfinite(seconds):
        return None
    if not 0 <= seconds <= _LONGEST_SECONDS:
        return None
    return Said(
        index=int.from_bytes(frames[1], "big"),
        duration_ns=round(seconds * 1e9),
        after_ns=after_ns,
        at_ns=at_ns,
        workload=workload(message, has_drafts),
        is_heartbeat=seconds == 0,
    )


def workload(message: Message, has_drafts: bool) -> Workload:
    """Give the workload of a message; nothing where a number cannot be."""
    scheduled, queued = message.scheduled_requests, message.queued_requests
    numbers = [*msgspec.structs.astuple(scheduled), *msgspec.structs.astuple(queued)]
    requests = scheduled.num_prefill_requests + scheduled.num_decode_requests
    if min(numbers) < 0 or max(numbers) >= 1 << 63:
        return Workload()
    waiting_requests = queued.num_prefill_requests + queued.num_decode_requests
    if requests == 0 or has_drafts:
        # With drafts nobody says how many tokens a request decodes.
        return Workload(requests=requests or None, waiting_requests=waiting_requests)
    return Workload(
        requests=requests,
        scheduled_tokens=scheduled.sum_prefill_tokens + scheduled.num_decode_requests,
        prefill_tokens=scheduled.sum_prefill_tokens,
        decode_requests=scheduled.num_decode_requests,
        kv_tokens=scheduled.sum_prefill_tokens
        + scheduled.sum_prefill_kv_tokens
        + scheduled.sum_decode_kv_tokens,
        waiting_requests=waiting_requests,
    )


def has_option(engine: EngineProcess, names: tuple[str, ...]) -> bool:
    """Tell whether the engine was started with one of these options."""
    words = (engine.api_server or engine.core).words
    return any(word.partition("=")[0] in names for word in words)


def socket_of(engine: EngineProcess, proc: Path = PROC) -> str:
    """Give the path of the socket on which a scheduler publishes: it ends in the data rank.

    Raises:
        FeedUnavailable: There is none, or it may not be connected to.
    """
    ends_right = re.compile(rf"/.*\.{data_rank(engine)}")
    schedulers = [rank.process for rank in engine.ranks if rank.role == "engine_core"]
    for process in (engine.core, *schedulers):
        for inner in listening_paths(process.pid, proc):
            if ends_right.fullmatch(inner) is None:
                continue
            path = f"{proc}/{process.pid}/root{inner}"
            if len(os.fsencode(path)) > PATH_BYTES:
                raise FeedUnavailable(f"the path {path} is too long: shorten the engine's TMPDIR")
            if not os.access(path, os.R_OK | os.W_OK):
                raise FeedUnavailable(
                    f"{path} may not be connected to: run the agent as the engine's user"
                )
            return path
    raise FeedUnavailable("no scheduler listens on such a socket: run the agent on its host")


def listening_paths(pid: int, proc: Path = PROC) -> list[str]:
    """Give the paths of the Unix sockets on which a process listens."""
    folder = proc / str(pid)
    try:
        lines = (folder / "net" / "unix").read_text(errors="replace").splitlines()[1:]
        links = [os.readlink(entry.path) for entry in os.scandir(folder / "fd")]
    except OSError as err:
        raise FeedUnavailable(
            f"the sockets of process {pid} may not be listed ({err.strerror}): "
            "run the agent as the engine's user"
        ) from err
    mine = {link[8:-1] for link in links if link.startswith("socket:[")}
    fields = (line.split(maxsplit=7) for line in lines)
    return sorted(
        one[7]
        for one in fields
        if len(one) == 8 and one[6] in mine and int(one[3], 16) & _LISTENING
    )
