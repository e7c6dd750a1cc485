"""Post one body to one address: taken, to be tried again, or refused for good.

Nothing of a url but scheme, host and port is ever told. Redirects are not followed: that would send
the body, and its signature, to whoever the answer names.
"""

import contextlib
import email.utils
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

from streams.delivery.address import Address

# Answers of a receiver or of a proxy in front of it that somebody is about to mend: a token that
# is being rolled out, a route that is being made. They are tried again until the limit.
PASSING = frozenset({401, 403, 404, 408, 425, 429})
MOST_ANSWER_BYTES = 64 * 1024


class NotTakenError(RuntimeError):
    """The receiver took nothing now; the same delivery is to be tried again.

    Args:
        message: What is wrong.

        retry_after_seconds: What the receiver asked for, if it did.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RefusedError(RuntimeError):
    """The receiver will never take this delivery; the text says why."""


class Poster:
    """Post to one address, over a connection that is kept open.

    Args:
        address: Where to.

        timeout_seconds: For all of one delivery, however slowly its answer drips.
    """

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._context = ssl.create_default_context() if address.https else None
        self._connection: _Connection | None = None
        self._aborted = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a body, and return when the receiver has taken it.

        Raises:
            NotTakenError: It may take it later.

            RefusedError: It never will.
        """
        status, reason, asked = self._request(body, headers)
        if 200 <= status < 300:
            return
        told = f"{self._address.shown} answered {status} {reason}".rstrip()
        if status in PASSING or status >= 500:
            raise NotTakenError(told, retry_after(asked))
        if 300 <= status < 400:
            told += ": redirects are not followed, set the url to the final address"
        raise RefusedError(told)

    def abort(self) -> None:
        """Break off the delivery that another thread is making, and make no more."""
        self._aborted = True
        self.close()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _request(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, str | None]:
        # A kept connection may have been closed by the other side meanwhile: one fresh try.
        for fresh in (self._connection is None, True):
            if fresh:
                self.close()
            connection = self._connection or _Connection(self._address, self._context)
            self._connection = connection
            try:
                return connection.exchange(body, headers, self._timeout_seconds)
            except (OSError, UnicodeError, http.client.HTTPException) as err:
                self.close()
                if fresh or self._aborted or isinstance(err, TimeoutError):
                    told = str(err) or type(err).__name__
                    raise NotTakenError(f"{self._address.shown} is not reachable: {told}") from err
        raise AssertionError("unreachable")


class _Connection:
    """One HTTP connection, to an address that was judged."""

    def __init__(self, address: Address, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._context = context
        self._http = http.client.HTTPConnection(address.host, address.port)
        if context is not None:
            # What the Host header leaves out.
            self._http.default_port = 443
        self._socket: socket.socket | None = None

    def exchange(
        self, body: bytes, headers: Mapping[str, str], timeout_seconds: float
    ) -> tuple[int, str, str | None]:
        """Send a request; give status, reason and ``Retry-After`` of the answer."""
        deadline = time.monotonic() + timeout_seconds
        if self._http.sock is None:
            self._http.sock = self._connect(deadline)
        timed: Any = self._http.sock
        timed.deadline = deadline
        self._http.request("POST", self._address.target, body, dict(headers))
        answer = self._http.getresponse()
        # The body says nothing to us, but the connection is free again only behind it.
        read = answer.read(MOST_ANSWER_BYTES)
        if len(read) == MOST_ANSWER_BYTES:
            self.close()
        elif answer.length:
            raise http.client.IncompleteRead(read, answer.length)
        return answer.status, answer.reason, answer.headers.get("Retry-After")

    def close(self) -> None:
        """Close it, even under a request of another thread."""
        opened = self._socket
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self._http.close()

    def _connect(self, deadline: float) -> "_TimedSocket":
        opened = self._address.connect(_left(deadline))
        try:
            opened.settimeout(_left(deadline))
            if self._context is not None:
                opened = self._context.wrap_socket(opened, server_hostname=self._address.host)
        except BaseException:
            opened.close()
            raise
        self._socket = opened
        return _TimedSocket(opened, deadline)


class _TimedSocket:
    """A socket whose every step has what is left until a deadline; as http.client uses one."""

    def __init__(self, wrapped: socket.socket, deadline: float) -> None:
        self._wrapped = wrapped
        self.deadline = deadline

    def sendall(self, data: Any) -> None:
        """Send everything."""
        self._wrapped.settimeout(_left(self.deadline))
        self._wrapped.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Give what the answer is read from."""
        del mode
        return io.BufferedReader(_TimedReader(self, self._wrapped))

    def tighten(self) -> None:
        """Let the next step take what is left."""
        self._wrapped.settimeout(_left(self.deadline))

    def close(self) -> None:
        """Close it."""
        self._wrapped.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: _TimedSocket, wrapped: socket.socket) -> None:
        self._timed = timed
        # It keeps the socket open until the answer is read, as http.client expects.
        self._raw = wrapped.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed.tighten()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(deadline: float) -> float:
    left_seconds = deadline - time.monotonic()
    if left_seconds <= 0:
        raise TimeoutError("timed out")
    return left_seconds


def retry_after(header: str | None, clock_seconds: Callable[[], float] = time.time) -> float | None:
    """Read ``Retry-After``: seconds or a date; None where there is none.

    >>> retry_after("7"), retry_after(None), retry_after("soon")
    (7.0, None, None)
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        at = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(at.timestamp() - clock_seconds(), 0.0)
