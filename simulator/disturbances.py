"""The clock of a replica's model: how it is read, set, and lowered for a while."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

_HTTP_TIMEOUT_SECONDS = 30.0


@contextlib.contextmanager
def throttle_clock(base_url: str, ratio: float) -> Iterator[None]:
    """Slow a replica's model to a fraction of its full speed inside the block."""
    before = get_clock_ratio(base_url)
    set_clock_ratio(base_url, ratio)
    try:
        yield
    finally:
        # A replica that ended meanwhile has no clock to restore.
        with contextlib.suppress(ConnectionError):
            set_clock_ratio(base_url, before)


def set_clock_ratio(base_url: str, ratio: float) -> None:
    """Set the fraction of full speed at which a replica's model runs."""
    _call_clock(base_url, json.dumps({"ratio": ratio}).encode())


def get_clock_ratio(base_url: str) -> float:
    """Read the fraction of full speed at which a replica's model runs."""
    return _call_clock(base_url, None)


def _call_clock(base_url: str, body: bytes | None) -> float:
    url = f"{base_url}/replica/clock"
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_SECONDS) as response:
            return float(json.loads(response.read())["ratio"])
    except urllib.error.HTTPError as err:
        with err:
            reason = err.read().decode(errors="replace")
        if err.code == 400:
            raise ValueError(f"the replica refused the clock ratio: {reason}") from err
        raise ConnectionError(
            f"{url} answered {err.code}: only a replica has a clock; check the address"
        ) from err
    except OSError as err:
        raise ConnectionError(f"no answer from {url} ({err}): is the replica running?") from err
