"""The router, which the real TGI writes in Rust: it holds the queue and decides the batches."""

from __future__ import annotations

import pickle
import socket
import struct
import time
from typing import Any, NoReturn

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.traffic import Batcher

HEADER = struct.Struct("<I")


def send(connection: socket.socket, message: Any) -> None:
    """Send one message with its length."""
    data = pickle.dumps(message)
    connection.sendall(HEADER.pack(len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """Wait for one message."""
    size = HEADER.unpack(_exactly(connection, HEADER.size))[0]
    return pickle.loads(_exactly(connection, size))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise SystemExit
        data += part
    return data


def run_router(host: Host, connection: socket.socket) -> NoReturn:
    """Call Prefill and Decode of the shard, one call at a time."""
    batcher = Batcher()
    inbox: list[Any] = []
    traffic = host.traffic(inbox.append)
    traffic.start()
    while True:
        while inbox:
            batcher.waiting.extend(inbox.pop(0))
        plan = batcher.next_separate()
        if plan is None:
            time.sleep(0.001)
            continue
        method = "Prefill" if plan.prefill_tokens else "Decode"
        send(connection, (method, plan))
        receive(connection)
        traffic.finished += batcher.finish(plan)
