"""Knobs of the engine replica."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator

import msgspec

from simulator.injection.steps.base import BaseStep, StepError

HTTP_SECONDS = 30.0


class Post(BaseStep, tag="post", frozen=True, kw_only=True):
    """Turn knobs of the engine replica; undone by turning them to where they were.

    Attributes:
        url: Tells the knobs when it is asked (GET), and takes those to turn (POST).

        before: What it told of them.
    """

    url: str
    body: dict[str, float]
    before: dict[str, float] | None = None

    def prepare(self) -> Post:
        """Remember how far they are turned."""
        with self._explained("tell", list(self.body)):
            told = _ask(self.url)
            return msgspec.structs.replace(self, before={key: told[key] for key in self.body})

    def do(self) -> None:
        """Turn them."""
        with self._explained("take", self.body):
            _ask(self.url, self.body)

    def undo(self) -> None:
        """Turn them back; a replica that ended has nothing left to undo."""
        if self.before is None:
            return
        try:
            _ask(self.url, self.before)
        except OSError as err:
            if not isinstance(getattr(err, "reason", err), ConnectionError):
                raise StepError(
                    f"{self.url} did not take {self.before} ({err}): post it by hand, or start "
                    "the replica anew"
                ) from err

    def claims(self) -> tuple[str, ...]:
        """Name each of the settings there."""
        return tuple(f"{key} of {self.url}" for key in self.body)

    def show(self) -> tuple[str, ...]:
        """Give the commands that would do it."""
        first = f"curl -d '{msgspec.json.encode(self.body).decode()}' {self.url}"
        if self.before is None:
            return (first, "undo: the values of before")
        return (first, f"undo: curl -d '{msgspec.json.encode(self.before).decode()}' {self.url}")

    @contextlib.contextmanager
    def _explained(self, verb: str, what: object) -> Iterator[None]:
        try:
            yield
        except (OSError, LookupError, msgspec.MsgspecError) as err:
            raise StepError(
                f"{self.url} did not {verb} {what} ({err}): this fault is for the engine replica "
                "('latencyprism simulate engine'); check --url"
            ) from err


def _ask(url: str, body: dict[str, float] | None = None) -> dict[str, float]:
    data = None if body is None else msgspec.json.encode(body)
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as response:
        return msgspec.json.decode(response.read(), type=dict[str, float])
