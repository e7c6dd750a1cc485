"""A recorded stream in a file: one JSON line per record, with the topic that it belongs to.

A name that ends in ``.gz`` is compressed. A line looks like
``{"topic":"latencyprism.iterations.v1","record":{...}}``.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import orjson

from schemas.codec import DecodeError, decode, encode
from schemas.records import Record
from schemas.topics import TOPICS, topic_of


class RecordingError(ValueError):
    """A file cannot be written, or is no recording; the text ends with what to do."""


class RecordingWriter:
    """Write records to a file, in the order in which they come.

    Args:
        path: Written anew.

    Raises:
        RecordingError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0
        try:
            self._file: BinaryIO | gzip.GzipFile = (
                # Fast, for the stream is large; and without a time, so that equal is equal.
                gzip.GzipFile(path, "wb", compresslevel=1, mtime=0)
                if path.suffix == ".gz"
                else path.open("wb")
            )
        except OSError as err:
            raise RecordingError(
                f"cannot write {path} ({err.strerror}): choose another file"
            ) from err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(
            b'{"topic":"%b","record":%b}\n' % (topic_of(record).name.encode(), encode(record))
        )
        self.records += 1

    def close(self) -> None:
        """Write out what is left and close the file."""
        self._file.close()


def read_recording(path: Path) -> Iterator[Record]:
    """Read the records of a file one by one; a half-written last line is left out.

    Raises:
        RecordingError: No such file, or a line that is no record.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                yield _record_of(path, number, line)
    except EOFError:
        # The compressed stream ends in the middle: its writer was killed.
        return
    except OSError as err:
        raise RecordingError(f"cannot read {path} ({err}): check the name") from err


def _record_of(path: Path, number: int, line: bytes) -> Record:
    try:
        raw = orjson.loads(line)
        topic = TOPICS[raw["topic"]]
        return decode(topic.record, orjson.dumps(raw["record"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, DecodeError) as err:
        raise RecordingError(
            f"{path}, line {number} is no record ({err}): record the stream again"
        ) from err
