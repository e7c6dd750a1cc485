"""Slow clients: some of an engine's clients hardly read their streams."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from simulator.fleet.effect import Effect
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Step, Work

_BYTES_PER_READ = 4
_READS_PER_SECOND = 5.0
# The kernel doubles it, and takes no less.
_RECEIVE_BUFFER_BYTES = 1_024
OUTPUT_TOKENS = 32
_ASK_SECONDS = 0.05
_PROMPT = "count slowly "


class SlowClients(Injector):
    """Ask for streams over connections with small buffers, and read a few bytes a second.

    Their requests are short: what they cost the engine is over in a moment, and what lasts is that
    nobody takes the answers.
    """

    summary = "clients that read their streams a few bytes a second, beside the usual load"
    touches = "holds connections of the engine's API; the engine computes their requests once"
    causes = ("clients_slow",)
    unit = "clients"
    levels = Levels(light=4.0, medium=16.0, heavy=64.0)
    limits = (1.0, 1_024.0)
    needs = Needs(modules=("aiohttp",))

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Also ask for an address that its clients can speak to."""
        found = super().obstacles(target, machine)
        if not (target.url or "").startswith("http://"):
            found.append(
                f"its clients cannot speak to {target.url}: give --url as http://HOST:PORT"
            )
        return found

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Start the clients, all in one process."""
        del machine
        return [
            Work(fault="slow_clients", options={"url": str(target.url), "clients": intensity}),
        ]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Ask and hardly read, until all is over."""
        asyncio.run(_hold(str(options["url"]), round(options["clients"]), running))

    def effect(self, intensity: float) -> Effect:
        """Nothing, measured on the replica: the server keeps what its clients do not take."""
        del intensity
        return Effect()


async def _hold(url: str, clients: int, running: Callable[[], bool]) -> None:
    import aiohttp

    from simulator.load import find_model_name

    async with aiohttp.ClientSession(url) as session:
        model_name = await find_model_name(session)
    reading = [asyncio.create_task(_read_slowly(url, model_name)) for _ in range(clients)]
    try:
        while running():
            await asyncio.wait(reading, timeout=_ASK_SECONDS)
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def _read_slowly(url: str, model_name: str) -> None:
    """Keep one stream after the other open; a server that hangs up is asked again later."""
    while True:
        try:
            await _read_one(url, model_name)
        except OSError:
            await asyncio.sleep(1.0)


async def _read_one(url: str, model_name: str) -> None:
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    family, _, _, _, where = (await loop.getaddrinfo(*address, type=socket.SOCK_STREAM))[0]
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        # Before it connects: the window that the server sees is made of it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        connection.setblocking(False)
        await loop.sock_connect(connection, where)
        await loop.sock_sendall(connection, _request(parts.netloc, model_name))
        part = b"begin"
        while part:
            await asyncio.sleep(1 / _READS_PER_SECOND)
            part = await loop.sock_recv(connection, _BYTES_PER_READ)


def _request(host: str, model_name: str) -> bytes:
    body = json.dumps(
        {
            "model": model_name,
            "prompt": _PROMPT,
            "max_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
    )
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()
