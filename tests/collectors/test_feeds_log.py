"""The log of an engine is followed for its iterations, and for nothing else."""

from __future__ import annotations

import dataclasses
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.engines import load
from collectors.engines.described import DescriptionError, read
from collectors.feeds import FeedEnded, FeedUnavailable, Said
from collectors.feeds import log as log_module
from collectors.feeds.log import BACKLOG_BYTES, CHUNK_BYTES, LINE_BYTES, LogFeed, data_rank
from schemas.records import Workload
from tests.collectors.feeding import (
    BY_THE_CORE,
    CORE,
    MIXED,
    PREFILL,
    SERVER,
    FakeEngine,
    decode,
)

VLLM = load("vllm").feed
PROMPT = "the secret of my heart"
FOREIGN = b'(APIServer pid=25038) INFO:     127.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK\n'


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(tmp_path)


@pytest.fixture
def feed(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[LogFeed]:
    monkeypatch.setattr(log_module, "LOOK_AGAIN_SECONDS", 0.0)
    feed = LogFeed(VLLM, engine.engine, engine.proc)
    yield feed
    feed.close()


def drain(feed: LogFeed) -> list[Said]:
    found: list[Said] = []
    for _ in range(100):
        said = feed.poll(0.0)
        found += said
    return found


def indexes(said: list[Said]) -> list[int]:
    return [one.index for one in said]


def test_the_lines_of_a_real_engine_are_understood(engine: FakeEngine, feed: LogFeed) -> None:
    engine.write(PREFILL, MIXED, decode(2, 20.8))
    prefill, mixed, decoding = feed.poll(0.0)
    assert indexes([prefill, mixed, decoding]) == [0, 1, 2]
    assert [one.duration_ns for one in (prefill, mixed, decoding)] == [
        91_170_000,
        998_250_000,
        20_800_000,
    ]
    assert mixed.workload == Workload(
        requests=8, scheduled_tokens=1953, prefill_tokens=1952, decode_requests=1
    )
    assert decoding.workload == Workload(
        requests=8, scheduled_tokens=8, prefill_tokens=0, decode_requests=8
    )
    assert decoding.after_ns <= decoding.at_ns


def test_the_line_that_the_core_wrote_in_the_first_versions_is_understood(
    engine: FakeEngine, feed: LogFeed
) -> None:
    engine.write(BY_THE_CORE)
    [said] = feed.poll(0.0)
    assert (said.index, said.workload.requests, said.duration_ns) == (515, 20, 10_990_000)


def test_colours_do_not_matter(engine: FakeEngine, feed: LogFeed) -> None:
    line = decode(7).replace(b"(APIServer pid=25038)", b"\x1b[0;36m(APIServer pid=25038)\x1b[0;0m")
    engine.write(line.replace(b" INFO ", b" \x1b[32mINFO\x1b[0m "))
    assert indexes(feed.poll(0.0)) == [7]


def test_encoder_inputs_do_not_matter(engine: FakeEngine, feed: LogFeed) -> None:
    more = b"%, encoder inputs: 2, encoder output embeddings: 1152\n"
    engine.write(decode(7).replace(b"%\n", more))
    assert indexes(feed.poll(0.0)) == [7]


def test_a_dummy_iteration_is_told_as_one(engine: FakeEngine, feed: LogFeed) -> None:
    engine.write(decode(7).replace(b" ms,", b" ms (dummy),"))
    [said] = feed.poll(0.0)
    assert said.is_dummy
    assert said.workload == Workload()


def test_with_drafts_nobody_knows_who_decodes_how_many(engine: FakeEngine, feed: LogFeed) -> None:
    engine.write(decode(7).replace(b"8 generation tokens", b"24 generation tokens"))
    [said] = feed.poll(0.0)
    assert said.workload == Workload(requests=8, scheduled_tokens=24)


def test_numbers_that_contradict_each_other_are_no_workload(
    engine: FakeEngine, feed: LogFeed
) -> None:
    engine.write(decode(7).replace(b"8 generation tokens", b"3 generation tokens"))
    assert feed.poll(0.0)[0].workload == Workload()


@pytest.mark.parametrize(
    "line",
    [
        decode(10**30),
        decode(7).replace(b"10.00 ms", b"9%s.00 ms" % (b"9" * 400)),
        decode(7).replace(b"10.00 ms", b"9999999999.00 ms"),
        decode(7).replace(b"0 context tokens", b"%s context tokens" % (b"9" * 5000)),
    ],
)
def test_numbers_beyond_reason_are_no_iteration(
    engine: FakeEngine, feed: LogFeed, line: bytes
) -> None:
    engine.write(line, decode(8))
    assert indexes(feed.poll(0.0)) == [8]


def test_what_was_written_before_is_left_alone(engine: FakeEngine) -> None:
    engine.write(decode(1), decode(2))
    feed = LogFeed(VLLM, engine.engine, engine.proc)
    engine.write(decode(3))
    assert indexes(feed.poll(0.0)) == [3]
    feed.close()


def test_begun_in_the_middle_of_a_line_its_rest_is_no_line(engine: FakeEngine) -> None:
    engine.write(b"a prompt that says: ")
    feed = LogFeed(VLLM, engine.engine, engine.proc)
    engine.write(decode(3), decode(4))
    assert indexes(feed.poll(0.0)) == [4]
    feed.close()


@pytest.mark.parametrize("cut", [1, 40, 120, -1])
def test_a_line_that_comes_in_halves_is_one_line(
    engine: FakeEngine, feed: LogFeed, cut: int
) -> None:
    line = decode(5)
    engine.write(decode(4) + line[:cut])
    assert indexes(feed.poll(0.0)) == [4]
    assert feed.poll(0.0) == []
    engine.write(line[cut:] + decode(6))
    assert indexes(feed.poll(0.0)) == [5, 6]


def test_half_a_line_is_not_kept(engine: FakeEngine, feed: LogFeed) -> None:
    engine.write(decode(4), PROMPT.encode())
    feed.poll(0.0)
    for file in feed._files.values():
        held = [value for value in vars(file).values() if isinstance(value, str | bytes)]
        assert held == []
    assert [one for one in vars(feed).values() if isinstance(one, bytes)] == []


def test_a_prompt_in_the_log_reaches_no_record(engine: FakeEngine, feed: LogFeed) -> None:
    forged = decode(99).rstrip(b"\n")
    engine.write(
        b"(APIServer pid=25038) INFO 11-20 14:12:27 [logger.py:61] Received request cmpl-1: "
        b"prompt: '" + PROMPT.encode() + b" " + forged + b"'\n",
        forged + b" " + PROMPT.encode() + b"\n",
        # A text of several lines gets the prefix of its own logger before each.
        forged.replace(b"[loggers.py:199]", b"[logger.py:61]") + b"\r\n",
        decode(7),
    )
    said = drain(feed)
    assert indexes(said) == [7]
    assert PROMPT not in repr(said)


def test_what_is_said_has_no_place_for_text() -> None:
    kinds = {str(one.type) for one in (*dataclasses.fields(Said), *dataclasses.fields(Workload))}
    assert not any("str" in kind or "bytes" in kind for kind in kinds)


def test_only_numbers_may_be_named_in_a_pattern() -> None:
    named = re.findall(r"\(\?P<(\w+)>([^()]*|[^()]*\\\([^()]*\\\)[^()]*)\)", VLLM.line)
    assert {name for name, pattern in named if pattern not in (r"\d+", r"\d+\.\d+")} == {"dummy"}


def test_another_engines_lines_in_the_same_file_do_not_count(
    engine: FakeEngine, feed: LogFeed
) -> None:
    engine.write(decode(1).replace(b"pid=25038", b"pid=77"), decode(2))
    assert indexes(feed.poll(0.0)) == [2]


def test_each_data_parallel_engine_takes_its_own_lines(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path, name="8000/dp1")
    feed = LogFeed(VLLM, engine.engine, engine.proc)
    engine.write(decode(1), decode(2).replace(b"Engine 000", b"Engine 001"))
    assert indexes(feed.poll(0.0)) == [2]
    assert data_rank(engine.engine) == 1
    feed.close()


def test_in_a_container_the_log_has_the_pid_inside(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    (engine.proc / str(SERVER) / "status").write_text(f"NSpid:\t{SERVER}\t7\n")
    feed = LogFeed(VLLM, engine.engine, engine.proc)
    engine.write(decode(1), decode(2).replace(b"pid=25038", b"pid=7"))
    assert indexes(feed.poll(0.0)) == [2]
    feed.close()


def test_a_rotated_log_is_followed_into_the_new_file(engine: FakeEngine, feed: LogFeed) -> None:
    engine.write(decode(1))
    assert indexes(feed.poll(0.0)) == [1]
    engine.write(decode(2))
    old = engine.log.rename(engine.log.with_suffix(".1"))
    for pid in (SERVER, CORE):
        engine.print_into(engine.log, pid)
    engine.write(decode(3))
    assert indexes(drain(feed)) == [2, 3]
    old.unlink()
    engine.write(decode(4))
    assert indexes(drain(feed)) == [4]


def test_a_renamed_log_that_is_still_written_is_still_read(
    engine: FakeEngine, feed: LogFeed
) -> None:
    renamed = engine.log.rename(engine.log.with_suffix(".1"))
    for pid in (SERVER, CORE):
        engine.print_into(renamed, pid)
    with renamed.open("ab") as file:
        file.write(decode(3))
    assert indexes(feed.poll(0.0)) == [3]


def test_a_truncated_log_is_read_from_its_begin(engine: FakeEngine, feed: LogFeed) -> None:
    engine.write(decode(1), FOREIGN)
    assert indexes(feed.poll(0.0)) == [1]
    os.truncate(engine.log, 0)
    engine.write(decode(2))
    assert indexes(feed.poll(0.0)) == [2]


def test_a_log_truncated_under_a_writer_that_does_not_append_is_a_gap_of_zeros(
    engine: FakeEngine, feed: LogFeed
) -> None:
    engine.write(FOREIGN * 100)
    feed.poll(0.0)
    place = engine.log.stat().st_size
    os.truncate(engine.log, 0)
    feed.poll(0.0)
    with engine.log.open("r+b") as file:
        file.seek(place)
        file.write(b"\n" + decode(2))
    assert indexes(drain(feed)) == [2]


def test_binary_garbage_is_no_trouble(engine: FakeEngine, feed: LogFeed) -> None:
    chance = random.Random(7)
    for index in range(20):
        engine.write(chance.randbytes(50_000), b"\n", decode(index), chance.randbytes(3000), b"\n")
    assert indexes(drain(feed)) == list(range(20))


def test_a_flood_of_foreign_lines_is_passed_over(engine: FakeEngine, feed: LogFeed) -> None:
    for index in range(5):
        engine.write(FOREIGN * 5_000, decode(index))
    assert indexes(drain(feed)) == list(range(5))


def test_one_look_reads_a_bounded_piece(
    engine: FakeEngine, feed: LogFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    pread = os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(descriptor, size, offset)

    engine.write(FOREIGN * 20_000)
    monkeypatch.setattr(os, "pread", counting)
    feed.poll(0.0)
    assert sizes == [CHUNK_BYTES]


def test_far_behind_the_rest_is_skipped(engine: FakeEngine, feed: LogFeed) -> None:
    engine.write(decode(1), FOREIGN * (BACKLOG_BYTES // len(FOREIGN) + 10), decode(2))
    assert indexes(drain(feed)) == [2]


def test_a_line_without_end_is_passed_over(engine: FakeEngine, feed: LogFeed) -> None:
    for _ in range(10):
        engine.write(b"x" * LINE_BYTES)
        assert feed.poll(0.0) == []
    engine.write(b"x" * CHUNK_BYTES * 2)
    engine.write(b"\n", decode(2))
    assert indexes(drain(feed)) == [2]


def test_a_pipe_is_never_read(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for pid in (SERVER, CORE):
        engine.print_into(pipe, pid)
    with pytest.raises(FeedUnavailable, match="a regular file: send its log into one"):
        LogFeed(VLLM, engine.engine, engine.proc)


def test_a_log_that_may_not_be_read_is_said_with_the_remedy(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(log_module, "LogFile", refuse)
    with pytest.raises(FeedUnavailable, match=r"may not be read .*: run the agent as the engine"):
        LogFeed(VLLM, engine.engine, engine.proc)


def test_processes_that_are_gone_have_no_log(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    with pytest.raises(FeedUnavailable, match="send its log into one"):
        LogFeed(VLLM, engine.engine, tmp_path / "elsewhere")


def test_a_log_that_nobody_writes_any_more_ends_after_its_last_line(
    engine: FakeEngine, feed: LogFeed
) -> None:
    engine.write(decode(1))
    for pid in (SERVER, CORE):
        for number in ("1", "2"):
            (engine.proc / str(pid) / "fd" / number).unlink()
    assert indexes(feed.poll(0.0)) == [1]
    with pytest.raises(FeedEnded):
        feed.poll(0.0)


def test_it_waits_for_a_line_no_longer_than_asked(engine: FakeEngine, feed: LogFeed) -> None:
    assert feed.poll(0.03) == []


DESCRIBED = """
[server]
match = ['^x$']
[core]
match = ['^y$']
[metrics]
iterations = ["x"]
[feed]
"""


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ('kind = "log"', "feed.line", "correct one"),
        ("line = '^x$'", "feed.line", "correct one"),
        ("kind = \"log\"\nline = '^(x$'", "feed.line", "correct it"),
        (
            "kind = \"log\"\nline = '(?P<iteration>\\d+) (?P<elapsed_ms>\\d+)'",
            "feed.line",
            "begin it with ^",
        ),
        ("kind = \"log\"\nline = '^(?P<iteration>\\d+)$'", "feed.line", "'elapsed_ms'"),
        (
            "kind = \"log\"\nline = '^(?P<iteration>.)(?P<elapsed_ms>.)(?P<prompt>.)$'",
            "feed.line",
            "group 'prompt' is unknown",
        ),
        ('kind = "forward_pass_metrics"', "feed.option", "name the option"),
        ('kind = "pickle"', "pickle", "docs/engines.md"),
    ],
)
def test_a_wrong_feed_is_told_with_what_to_write(
    tmp_path: Path, text: str, key: str, remedy: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(DESCRIBED + text)
    with pytest.raises(DescriptionError) as told:
        read(path)
    assert key in str(told.value)
    assert remedy in str(told.value)
