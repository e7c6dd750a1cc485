from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.codec import encode
from schemas.recording import RecordingError, RecordingWriter, read_recording, seen_ns
from schemas.records import Fault, Record
from schemas.topics import ITERATIONS
from tests.schemas.samples import full, full_records
from tests.streams.feed import Feed

NAMES = ("stream.jsonl", "stream.jsonl.gz")


def recorded(path: Path, records: list[Record]) -> Path:
    with RecordingWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


def refused(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        list(read_recording(path))
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_record_comes_back_in_its_order(tmp_path: Path, name: str) -> None:
    records = full_records()
    assert list(read_recording(recorded(tmp_path / name, records))) == records


@pytest.mark.parametrize("name", NAMES)
def test_the_same_records_give_the_same_bytes_under_any_name(tmp_path: Path, name: str) -> None:
    first = recorded(tmp_path / name, full_records())
    second = recorded(tmp_path / f"other-{name}", full_records())
    assert first.read_bytes() == second.read_bytes()


def test_a_compressed_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = recorded(tmp_path / "stream.gz", full_records())
    assert list(read_recording(path.rename(tmp_path / "stream"))) == full_records()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path, name: str) -> None:
    path = recorded(tmp_path / name, [])
    before = path.read_bytes()
    with pytest.raises(LookupError), RecordingWriter(path) as writer:
        writer.write("no record")  # type: ignore[arg-type]  # that is the point
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    recorded(path, [Feed().engine()])
    assert path.is_fifo()
    assert os.read(reader, 10_000).startswith(b'{"topic":')
    os.close(reader)


def test_fields_that_this_version_does_not_know_stay_in_the_file(tmp_path: Path) -> None:
    engine = Feed().engine()
    value = json.dumps(json.loads(encode(engine)) | {"colour": "blue"}, indent=1).encode()
    with RecordingWriter(tmp_path / "stream") as writer:
        writer.write_encoded("latencyprism.engines.v1", value)
    assert b'"colour":"blue"' in (tmp_path / "stream").read_bytes()
    assert list(read_recording(tmp_path / "stream")) == [engine]


def test_half_a_line_at_the_end_is_left_out_and_counted(tmp_path: Path) -> None:
    path = recorded(tmp_path / "stream", full_records())
    path.write_bytes(path.read_bytes()[:-10])
    skipped: Counter[str] = Counter()
    assert list(read_recording(path, skipped)) == full_records()[:-1]
    assert skipped == {"half a line at the end: its writer was stopped": 1}


def test_a_cut_compressed_file_gives_what_is_there(tmp_path: Path) -> None:
    records: list[Record] = [*Feed().batches(500)]
    path = recorded(tmp_path / "stream.gz", records)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    skipped: Counter[str] = Counter()
    found = list(read_recording(path, skipped))
    assert 0 < len(found) < 500
    assert found == records[: len(found)]
    assert [reason.partition(",")[0] for reason in skipped] == ["the end of the compressed file"]


def test_a_damaged_compressed_file_never_raises_anything_else(tmp_path: Path) -> None:
    path = recorded(tmp_path / "stream.gz", [*Feed().batches(50)])
    data = path.read_bytes()
    for place in range(2, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        with contextlib.suppress(RecordingError):
            list(read_recording(path))


def test_topics_of_a_later_version_are_left_out_and_counted(tmp_path: Path) -> None:
    path = recorded(tmp_path / "stream", [Feed().engine()])
    with path.open("ab") as file:
        file.write(b'{"topic":"latencyprism.dreams.v1","record":{}}\n' * 2)
    skipped: Counter[str] = Counter()
    assert list(read_recording(path, skipped)) == [Feed().engine()]
    assert [*skipped.values()] == [2]
    assert "latencyprism.dreams.v1" in next(iter(skipped))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"hello\n", "not JSON: "),
        (b"[]\n", "it has no topic and record"),
        (b"{}\n", "it has no topic and record"),
        (b'{"topic":"%b"}\n' % ITERATIONS.name.encode(), "it has no topic and record"),
        (b'{"topic":[],"record":{}}\n', "it has no topic and record"),
        (
            b'{"topic":"%b","record":{"schema":"iteration.v9"}}\n' % ITERATIONS.name.encode(),
            "unknown version 'iteration.v9'",
        ),
        (b'\xff{"topic":1}\n', "not JSON: "),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    path = recorded(tmp_path / "stream", [Feed().engine()])
    path.write_bytes(path.read_bytes() + line)
    told = refused(path)
    assert told.startswith(f"{path}, line 2 is no record ({why}")
    assert told.endswith("or record the stream again")


def test_what_cannot_be_read_or_written_says_what_to_do(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none")
    assert "directory" in refused(tmp_path)
    with pytest.raises(RecordingError, match="choose another file"):
        RecordingWriter(tmp_path / "no" / "folder")


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    assert not [*read_recording(tmp_path / "empty"), *read_recording(tmp_path / "empty.gz")]


def test_an_iteration_is_seen_when_it_ends_or_as_long_as_it_ran() -> None:
    feed = Feed()
    closed = feed.batch()[0]
    assert seen_ns(closed) == closed.end_ns
    running = feed.open_iteration(2.0)
    assert seen_ns(running) == running.begin_ns + 2_000_000_000
    assert seen_ns(feed.engine()) == feed.now_ns


def test_the_whole_truth_about_a_fault_is_known_by_its_end() -> None:
    fault = full(Fault)
    assert seen_ns(replace(fault, begin_ns=5, end_ns=None)) == 5
    assert seen_ns(replace(fault, begin_ns=5, end_ns=9)) == 9
