"""A recorded stream in a file: one JSON line per record, with the topic that it belongs to.

A name that ends in ``.gz`` is compressed. A line looks like
``{"topic":"latencyprism.iterations.v1","record":{...}}``.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import orjson

from schemas.codec import DecodeError, encode, from_raw
from schemas.records import Fault, Iteration, Record
from schemas.topics import TOPICS, topic_of

_GZIP_MAGIC = b"\x1f\x8b"


class RecordingError(ValueError):
    """A file cannot be written, or is no recording; the text ends with what to do."""


class RecordingWriter:
    """Write records to a file, in the order in which they come.

    The file has its name only once it is whole: until then it is called ``.NAME.partial``, and
    where the ``with`` block ends by an error it goes. The same records give the same bytes.

    Args:
        path: Written anew.

    Raises:
        RecordingError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0
        # A device or a pipe has to keep its name.
        in_place = path.exists() and not path.is_file()
        self._partial = path if in_place else path.with_name(f".{path.name}.partial")
        try:
            self._raw: BinaryIO = self._partial.open("wb")
        except OSError as err:
            raise RecordingError(
                f"cannot write {path} ({err.strerror}): choose another file"
            ) from err
        self._file: BinaryIO = self._raw
        if path.suffix == ".gz":
            # Fast, for the stream is large; without name and time, so that equal is equal.
            zipped = gzip.GzipFile("", "wb", compresslevel=1, fileobj=self._raw, mtime=0)
            self._file = cast(BinaryIO, zipped)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def write(self, record: Record) -> None:
        """Append one record."""
        self.write_encoded(topic_of(record).name, encode(record))

    def write_encoded(self, topic: str, value: bytes) -> None:
        """Append a record as it came from a topic, with fields that this version does not know."""
        if b"\n" in value:
            value = orjson.dumps(orjson.loads(value))
        try:
            self._file.write(_line(topic, value))
        except OSError as err:
            raise self._failed(err) from err
        self.records += 1

    def close(self) -> None:
        """Write out what is left and give the file its name."""
        try:
            self._file.close()
            self._raw.close()
            if self._partial != self.path:
                self._partial.replace(self.path)
        except OSError as err:
            raise self._failed(err) from err

    def discard(self) -> None:
        """Give up: the file goes, one of an earlier run stays."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._raw.close()
        if self._partial != self.path:
            self._partial.unlink(missing_ok=True)

    def _failed(self, err: OSError) -> RecordingError:
        return RecordingError(
            f"cannot write {self.path} ({err.strerror}): make room there, or choose another file"
        )


def line_of(record: Record) -> bytes:
    """Give the line of a record, to append to a file that grows."""
    return _line(topic_of(record).name, encode(record))


def _line(topic: str, value: bytes) -> bytes:
    return b'{"topic":"%b","record":%b}\n' % (topic.encode(), value)


def read_recording(path: Path, skipped: Counter[str] | None = None) -> Iterator[Record]:
    """Read the records of a file one by one, compressed or not, whatever its name.

    What a writer that was killed left half-written at the end is left out, and so are the topics of
    a later version.

    Args:
        path: The file.

        skipped: Where to count what is left out, by reason.

    Raises:
        RecordingError: No such file, or a line that is no record.
    """
    skipped = Counter() if skipped is None else skipped
    for number, line in enumerate(_lines(path, skipped), start=1):
        record = _record_of(path, number, line, skipped)
        if record is not None:
            yield record


def seen_ns(record: Record) -> int:
    """Give when the sender of a record can have known it: its place in a stream.

    An iteration is known by its end, though Kafka has it by its beginning; likewise the whole truth
    about a fault.
    """
    if isinstance(record, Fault):
        return record.end_ns or record.begin_ns
    if isinstance(record, Iteration):
        return record.end_ns or record.begin_ns + (record.running_ns or 0)
    return int(getattr(record, topic_of(record).time))


def _lines(path: Path, skipped: Counter[str]) -> Iterator[bytes]:
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw
            for line in file:
                if not line.endswith(b"\n"):
                    skipped["half a line at the end: its writer was stopped"] += 1
                    return
                yield line
    except (EOFError, zlib.error) as err:
        # The compressed stream ends in the middle: its writer was killed, or a copy was cut.
        skipped[f"the end of the compressed file, which is cut or damaged ({err})"] += 1
    except OSError as err:
        raise RecordingError(
            f"cannot read {path} ({err.strerror or err}): check the name, or copy it again"
        ) from err


def _record_of(path: Path, number: int, line: bytes, skipped: Counter[str]) -> Record | None:
    try:
        raw = orjson.loads(line)
        name = raw["topic"]
        topic = TOPICS.get(name)
        if topic is not None:
            return from_raw(topic.record, raw["record"])
    except (orjson.JSONDecodeError, KeyError, TypeError, DecodeError) as err:
        raise RecordingError(
            f"{path}, line {number} is no record ({_why(err)}): give a file that "
            "'latencyprism record' wrote, or record the stream again"
        ) from err
    skipped[f"records of {name}, a topic that this version does not know: upgrade to read it"] += 1
    return None


def _why(err: Exception) -> str:
    if isinstance(err, DecodeError):
        return str(err)
    if isinstance(err, orjson.JSONDecodeError):
        return f"not JSON: {err}"
    return "it has no topic and record"
