"""One batch explained, from a recording and from a real ClickHouse engine in this process."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("river", reason="no river: pip install 'latencyprism[stream]'")

from latencyprism.__main__ import main
from latencyprism.batches import Batches, Seen, Wanted
from latencyprism.explained.batch import TERMS, expectation, lines_of
from latencyprism.recorded import Recorded
from latencyprism.times import shown
from schemas.causes import CAUSES
from schemas.codec import encode
from schemas.records import Alert, Batch, Iteration, PhaseTime, Record, Workload
from tests.latencyprism.explaining import (
    PLACES,
    explain,
    kept_in,
    lent_by,
    recorded,
    refused,
    results,
    stored_in,
)
from tests.schemas.samples import full
from tests.streams.feed import SECOND_NS

Capture = pytest.CaptureFixture[str]
# The session's database has batches of other tests, too.
ENGINE, OTHER = "explained:1", "explained:2"
MS = 1_000_000


RECORDS = [*results(ENGINE, 1), *results(OTHER, 2)]
BATCHES = [one for one in RECORDS if isinstance(one, Batch) and one.engine_id == ENGINE]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return recorded(tmp_path / "stream.gz", RECORDS)


@pytest.fixture(scope="module")
def database(chdb: Any) -> Any:
    return stored_in(chdb, [one for one in RECORDS if isinstance(one, Batch | Alert)])


@pytest.fixture(params=PLACES)
def batches(request: pytest.FixtureRequest) -> Batches:
    """The same batches in each place where they are kept."""
    kept: Batches = kept_in(request)
    return kept


def explained(capsys: Capture, *arguments: object) -> str:
    return explain(capsys, "batch", *arguments)


def comparable(batch: Batch | None) -> dict[str, Any]:
    """Give a batch without what a table keeps less exactly."""
    assert batch is not None
    plain: dict[str, Any] = json.loads(encode(batch))
    for name in ("residual", "score"):
        plain[name] = plain[name] and round(plain[name], 4)
    for phase in plain["phases"]:
        del phase["samples"]
    return plain


# Which batch.


def slowness(batch: Batch) -> float:
    return batch.duration_ns / (batch.expected_ns or float("inf"))


NEWEST_NS = max(batch.end_ns for batch in BATCHES)
WANTED: dict[str, tuple[Wanted, Batch]] = {
    "sequence": (Wanted(engine_id=ENGINE, sequence=321), BATCHES[320]),
    "running at the time": (
        Wanted(engine_id=ENGINE, at_ns=BATCHES[99].begin_ns + MS),
        BATCHES[99],
    ),
    "nearest to the time": (
        Wanted(engine_id=ENGINE, at_ns=NEWEST_NS + 30 * SECOND_NS),
        BATCHES[-1],
    ),
    "slowest": (Wanted(engine_id=ENGINE), max(BATCHES, key=slowness)),
    "slowest of the last second": (
        Wanted(engine_id=ENGINE, last_ns=SECOND_NS),
        max((one for one in BATCHES if one.begin_ns >= NEWEST_NS - SECOND_NS), key=slowness),
    ),
}


@pytest.mark.parametrize(("wanted", "batch"), WANTED.values(), ids=WANTED)
def test_the_batch_that_is_wanted_is_found(batches: Batches, wanted: Wanted, batch: Batch) -> None:
    assert comparable(batches.find(wanted)) == comparable(batch)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(engine_id="explained:0", sequence=1),
        Wanted(engine_id=ENGINE, sequence=901),
        Wanted(engine_id=ENGINE, at_ns=NEWEST_NS + 61 * SECOND_NS),
        Wanted(engine_id=ENGINE, at_ns=BATCHES[0].begin_ns - 61 * SECOND_NS),
    ],
    ids=str,
)
def test_a_batch_that_is_not_there_is_not_found(batches: Batches, wanted: Wanted) -> None:
    assert batches.find(wanted) is None


def test_what_there_is_is_told_by_engine(batches: Batches) -> None:
    assert batches.seen()[ENGINE] == Seen(
        batches=900,
        first_sequence=1,
        last_sequence=900,
        begin_ns=BATCHES[0].begin_ns,
        end_ns=NEWEST_NS,
    )
    assert OTHER in batches.seen()


def test_the_incident_of_a_batch_is_found(batches: Batches) -> None:
    incident_id = max(BATCHES, key=slowness).incident_id or ""
    incident = batches.incident(incident_id)
    assert incident is not None
    assert incident.cause in CAUSES
    assert incident.begin_ns < incident.fired_ns < (incident.end_ns or 0)
    assert batches.incident("none such") is None


AMENDED = replace(BATCHES[9], engine_id="explained:3", sequence=10)


# A batch that was amended, and one of a newer process that counted as far.
REVISED: list[Record] = [
    replace(AMENDED, revision=1, duration_ns=9 * AMENDED.duration_ns),
    AMENDED,
    replace(AMENDED, process_start_ns=2, begin_ns=AMENDED.begin_ns + SECOND_NS, ranks=7),
]


@pytest.mark.pipeline
@pytest.mark.parametrize("place", ["recording", "recording from its end", "database"])
def test_of_a_batch_the_last_revision_counts_and_of_processes_the_newest(
    place: str, chdb: Any, tmp_path: Path
) -> None:
    from latencyprism.stored import Stored
    from streams.sinks.clickhouse import ClickHouse

    records = REVISED[::-1] if place == "recording from its end" else REVISED
    batches: Batches = Recorded(recorded(tmp_path / "revised", records))
    if place == "database":
        ClickHouse(lambda: chdb).write(records)
        batches = Stored(chdb)
    newest = batches.find(Wanted(engine_id=AMENDED.engine_id, sequence=10))
    slowest = batches.find(Wanted(engine_id=AMENDED.engine_id))
    at = batches.find(Wanted(engine_id=AMENDED.engine_id, at_ns=AMENDED.begin_ns))
    assert newest is not None
    assert newest.ranks == 7
    assert slowest is not None
    assert slowest == at
    assert (slowest.revision, slowest.ranks) == (1, AMENDED.ranks)


@pytest.mark.parametrize("record_type", [Batch, Alert])
def test_a_row_is_the_record_again(record_type: type[Any]) -> None:
    rows = pytest.importorskip("latencyprism.rows", reason="no ClickHouse client")
    from streams.sinks.clickhouse import row_of

    record = full(record_type)
    if isinstance(record, Batch):
        phases = tuple(replace(time, samples=0) for time in record.phases)
        assert rows.batch_of(row_of(record)) == replace(record, phases=phases)
    else:
        assert rows.alert_of(row_of(record)) == record


# What is said.


def test_all_that_is_known_of_a_slow_batch_is_said(recording: Path, capsys: Capture) -> None:
    batch = max(BATCHES, key=slowness)
    told = explained(capsys, ENGINE, "--slowest", "--recording", recording)
    assert told.startswith(f"Batch {batch.sequence} of {ENGINE}\n")
    load = batch.workload
    for text in (
        shown(batch.begin_ns, "milliseconds"),
        f"{load.requests} requests ({load.decode_requests} decode)",
        expectation(batch),
        f"{slowness(batch):.2f} times the expected",
        f"slow: {batch.reason}",
        "an alarm",
        "phases     schedule     0.500 ms",
        str(batch.incident_id),
        "began ",
    ):
        assert text in told, text


@pytest.mark.pipeline
def test_it_is_the_same_from_the_database(
    recording: Path,
    database: Any,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lent_by(monkeypatch, database)
    from_file = explained(capsys, ENGINE, "--slowest", "--recording", recording)
    assert explained(capsys, ENGINE, "--slowest") == from_file
    plain = json.loads(explained(capsys, ENGINE, 321, "--json"))
    # Unknown is never 0: a table does not keep them.
    assert all("samples" not in phase for phase in plain["phases"])
    assert "no engine 'explained:0': choose of " in refused(capsys, "batch", "explained:0", 1)


def test_programs_get_the_record(recording: Path, capsys: Capture) -> None:
    told = explained(capsys, ENGINE, 321, "--json", "--recording", recording)
    assert json.loads(told) == json.loads(encode(BATCHES[320]))


def test_counters_and_gap_are_said_in_units_of_people() -> None:
    batch = replace(
        full(Batch),
        counters={"others_cpu_ratio": 0.8, "cpu_frequency_hz": 2.6e9, "xpu_others": 2.0},
        gap_ns=1_200_000,
        expected_gap_ns=300_000,
        slow_parts=("gap",),
    )
    told = "".join(f"{line}\n" for line in lines_of(batch, None))
    for text in ("others_cpu     80 %", "2.6 GHz", "xpu_others     2\n", "1.20 ms where 0.300 ms"):
        assert text in told, text
    assert "of which no alert is kept here" in told


def batch_of(terms_ms: dict[str, float], expected_ms: float, workload: Workload) -> Batch:
    batch: Batch = replace(
        full(Batch),
        expected_ns=round(expected_ms * MS),
        terms_ns={name: round(value * MS) for name, value in terms_ms.items()},
        workload=workload,
    )
    return batch


def test_terms_are_said_with_what_they_are_of() -> None:
    workload = Workload(
        requests=40,
        scheduled_tokens=180,
        prefill_tokens=128,
        kv_tokens=84_012,
        speculative_tokens=12,
        lora_adapters=1,
    )
    told = expectation(batch_of(dict.fromkeys(TERMS, 10.0), 90.0, workload))
    assert told == (
        "90.0 ms = 10.0 weights + 10.0 batch of 40 requests + 10.0 KV of 84k tokens "
        "+ 10.0 prefill of 128 tokens + 10.0 attention of the prefill "
        "+ 10.0 prefill and decode in one batch + 10.0 speculation of 12 draft tokens "
        "+ 10.0 LoRA of 1 adapter + 10.0 learnt from batches like it"
    )
    unread = expectation(batch_of({"weights": 10.0, "kv": 5.0}, 15.0, Workload()))
    assert unread == "15.0 ms = 10.0 weights + 5.0 KV"


def test_a_term_of_a_later_version_has_its_name_and_one_below_0_its_sign() -> None:
    told = expectation(batch_of({"weights": 20.0, "moe": 3.0, "memory": -2.5}, 20.5, Workload()))
    assert told == "20.5 ms = 20.0 weights - 2.5 learnt from batches like it + 3.0 moe"


def test_what_the_terms_lack_is_what_was_learnt() -> None:
    told = expectation(batch_of({"weights": 20.0, "kv": 0.0}, 21.0, Workload()))
    assert told == "21.0 ms = 20.0 weights + 1.0 learnt from batches like it"


def test_the_numbers_that_are_shown_add_up() -> None:
    draw = random.Random(5)
    for _ in range(2000):
        size_ms = 10 ** draw.uniform(-2, 3)
        names = draw.sample([*TERMS], draw.randint(1, len(TERMS)))
        terms_ms = {name: size_ms * draw.uniform(-0.1, 1) for name in names}
        told = expectation(batch_of(terms_ms, sum(terms_ms.values()) + size_ms, Workload()))
        whole, made_of = told.split(" ms = ")
        parts = re.findall(r"(?:^|([+-]) )(-?\d+\.\d+)", made_of)
        total = sum(float(number) * (-1 if sign == "-" else 1) for sign, number in parts)
        assert total == pytest.approx(float(whole), abs=1e-9), told


def unexplained(reason: str, workload: Workload) -> str:
    return expectation(
        replace(full(Batch), expected_ns=None, terms_ns={}, reason=reason, workload=workload)
    )


def test_a_batch_without_an_expectation_says_why_and_what_to_do() -> None:
    unread = unexplained("workload not read", Workload())
    assert "its workload was not read. It came by metrics: run 'latencyprism doctor' on" in unread
    settling = unexplained("settling after a restart: 3 batches to go", full(Workload))
    assert settling == "nothing: settling after a restart: 3 batches to go. Ask for a later batch"


def test_an_unread_batch_is_explained_as_far_as_it_goes(tmp_path: Path, capsys: Capture) -> None:
    bare = Batch(
        engine_id=ENGINE,
        process_start_ns=1,
        sequence=5,
        begin_ns=BATCHES[0].begin_ns,
        end_ns=BATCHES[0].end_ns,
        duration_ns=BATCHES[0].duration_ns,
        uncertainty_ns=0,
        source="stack",
        reason="workload not read",
    )
    told = explained(capsys, ENGINE, 5, "--recording", recorded(tmp_path / "bare", [bare]))
    assert "workload   not read\n" in told
    assert "It came by stack: run 'latencyprism doctor'" in told
    assert "verdict    unknown: workload not read\n" in told


def test_times_that_were_not_measured_say_so() -> None:
    time = PhaseTime(phase="forward", duration_ns=4 * MS, samples=2, estimated=True)
    for estimated in (True, False):
        batch = replace(full(Batch), phases=(replace(time, estimated=estimated),))
        told = "\n".join(lines_of(batch, None))
        assert ("its share of the stack samples" in told) is estimated


@pytest.mark.parametrize(
    ("score", "incident_id", "meaning"),
    [
        (1.2, "an-incident", "(score 1.20, an alarm)"),
        (0.4, None, "(score 0.40, a lone outlier: an alarm begins at 1)"),
        (0.4, "an-incident", "(score 0.40, 1 is an alarm)"),
    ],
)
def test_a_lone_outlier_is_told_from_an_alarm(
    score: float, incident_id: str | None, meaning: str
) -> None:
    batch = replace(full(Batch), verdict="slow", score=score, incident_id=incident_id)
    assert meaning in "\n".join(lines_of(batch, None))


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "which batch? Give its SEQUENCE, --at TIME, --slowest or --last 5m"),
        (["3", "--last", "5m"], "leave it out"),
        (["--at", "yesterday"], "--at is 'yesterday': give a time as"),
        (["--last", "5"], "--last is '5': give a length of time as 30s, 5m, 2h or 1d"),
        (["--last", "-5m"], "argument --last"),
        (["--last", "nanm"], "--last is 'nanm': give"),
        (["901"], f"{ENGINE} has no batch 901: there are 900, from 1 to 900, "),
        (["--at", "10"], "choose a time in there"),
        (["1", "--config", "c.toml"], "--config says where ClickHouse is: leave it out"),
    ],
)
def test_a_mistake_says_what_to_do(
    arguments: list[str], what: str, recording: Path, capsys: Capture
) -> None:
    if what.startswith("argument"):
        with pytest.raises(SystemExit):
            main(["explain", "batch", ENGINE, *arguments])
        assert what in capsys.readouterr().err
        return
    assert what in refused(capsys, "batch", ENGINE, *arguments, "--recording", recording)


def test_an_unknown_engine_is_told_those_there_are(recording: Path, capsys: Capture) -> None:
    told = refused(capsys, "batch", "explained:7", 1, "--recording", recording)
    assert f"no engine 'explained:7': choose of {ENGINE}, {OTHER}" in told


def test_a_file_without_batches_says_how_to_get_them(tmp_path: Path, capsys: Capture) -> None:
    iterations = [one for one in RECORDS if isinstance(one, Iteration)]
    path = recorded(tmp_path / "inputs", [*iterations[:50]])
    told = refused(capsys, "batch", ENGINE, 1, "--recording", path)
    assert f"'latencyprism replay {path} --to OTHER'" in told
    assert "check the name" in refused(capsys, "batch", ENGINE, 1, "--recording", tmp_path / "none")


def test_without_a_database_it_says_where_to_look(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("clickhouse_connect", reason="no ClickHouse client")
    config = tmp_path / "latencyprism.toml"
    config.write_text('[store]\ndsn = "clickhouse://default@127.0.0.1:1/default"\n')
    told = refused(capsys, "batch", ENGINE, 1, "--config", config)
    assert "check [store] dsn" in told
    assert "or give a recording with --recording" in told


@pytest.mark.pipeline
def test_a_database_without_tables_says_what_to_run(chdb: Any) -> None:
    from latencyprism.errors import CommandError
    from latencyprism.stored import Stored

    def client_of(query: Callable[..., Any]) -> Any:
        return type("Client", (), {"query": staticmethod(query)})()

    def elsewhere(query: str, **options: Any) -> Any:
        return chdb.query(query.replace("FROM batches", "FROM no_such_table"), **options)

    with pytest.raises(CommandError, match=r"'latencyprism migrate' was run, or give a recording"):
        Stored(client_of(elsewhere)).find(Wanted(engine_id=ENGINE, sequence=1))
