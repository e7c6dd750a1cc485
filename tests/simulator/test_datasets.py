"""Recorded batches are read from both CSV formats, and bad rows are named."""

from __future__ import annotations

import gzip
import os
import statistics
from pathlib import Path

import pytest

from simulator.datasets import Dataset, DatasetError, Sample, bad_rows_of, job_of, read_dataset

FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"
    )
)
VLLM = (
    "job_name,start_ts,duration_us,batch_size,"
    "avg_input_length,max_input_length,avg_output_length,max_output_length"
)
SGLANG = (
    "duration_us,compute_batch_size,compute_avg_input_length,compute_avg_output_length,"
    "post_batch_size,compute_forward_mode,post_forward_mode,job_name,start_ts"
)
JOB = "in100_out50_conc8"
START_US = 1_765_199_066_000_000


def vllm_row(at: int, size: int, output: float, job: str = JOB, duration: object = 30_000.0) -> str:
    return f"{job},{START_US + at},{duration},{size},100.0,100,{output},{output:g}"


def sglang_row(at: int, mode: object, size: int = 4, output: float = 10.0, job: str = JOB) -> str:
    return f"30000.0,{size},100.0,{output},{size},{mode},2.0,{job},{START_US + at}"


def read(tmp_path: Path, header: str, *rows: str, name: str = "rows.csv") -> tuple[Sample, ...]:
    return write(tmp_path, header, *rows, name=name).samples


def write(tmp_path: Path, header: str, *rows: str, name: str = "rows.csv") -> Dataset:
    path = tmp_path / name
    text = "\n".join((header, *rows)) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_dataset(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_both_formats_are_known_by_their_header(name: str, tmp_path: Path) -> None:
    assert write(tmp_path, VLLM, vllm_row(0, 4, 10), name=name).format == "vllm"
    assert write(tmp_path, SGLANG, sglang_row(0, 2), name=name).format == "sglang"


def test_rows_are_put_in_the_order_of_their_time(tmp_path: Path) -> None:
    samples = read(tmp_path, VLLM, vllm_row(60_000, 2, 11), vllm_row(0, 1, 10))
    assert [one.workload.decode_requests for one in samples] == [1, 2]
    # A float of microseconds is exact to a quarter of one.
    assert samples[0].end_ns == pytest.approx((START_US + 30_000) * 1000, abs=250)
    assert samples[0].duration_ms == 30.0
    assert [one.number for one in samples] == [0, 1]


def test_a_batch_that_goes_on_computes_no_prompt(tmp_path: Path) -> None:
    first, _ = read(tmp_path, VLLM, vllm_row(0, 4, 10), vllm_row(30_000, 4, 11))
    assert first.workload.prefill_tokens == 0
    assert first.workload.scheduled_tokens == first.workload.decode_requests == 4
    assert first.workload.kv_tokens == 4 * 110
    assert first.decodes_only


def test_requests_that_join_were_computed_in_the_batch_before(tmp_path: Path) -> None:
    # Four requests with 10 tokens each, then six: two new ones with 1 token each.
    first, _ = read(tmp_path, VLLM, vllm_row(0, 4, 10), vllm_row(30_000, 6, (4 * 11 + 2) / 6))
    assert first.workload.prefill_tokens == 200
    assert first.workload.scheduled_tokens == 204
    assert not first.decodes_only


def test_one_that_follows_another_is_seen_though_the_size_stays(tmp_path: Path) -> None:
    # One of four is done with its 50 tokens; a new one takes its place.
    first, _ = read(tmp_path, VLLM, vllm_row(0, 4, 20), vllm_row(30_000, 4, (4 * 21 - 50) / 4))
    assert first.workload.prefill_tokens == 100


def test_prompts_beyond_the_token_budget_wait(tmp_path: Path) -> None:
    first, _ = read(tmp_path, VLLM, vllm_row(0, 4, 10), vllm_row(30_000, 64, 1))
    assert first.workload.scheduled_tokens == 2048


def test_the_next_batch_of_another_job_tells_nothing(tmp_path: Path) -> None:
    other = vllm_row(30_000, 64, 1, job="in100_out50_conc64")
    first, _, _ = read(tmp_path, VLLM, vllm_row(0, 4, 10), other, vllm_row(60_000, 4, 11))
    assert first.workload.prefill_tokens == 0


def test_a_job_whose_name_tells_no_length_is_read(tmp_path: Path) -> None:
    rows = [vllm_row(30_000 * n, 2, 10 + n, job="night") for n in range(3)]
    joined = vllm_row(90_000, 3, (2 * 13 + 1) / 3, job="night")
    samples = read(tmp_path, VLLM, *rows, joined)
    assert [one.workload.prefill_tokens for one in samples] == [0, 0, 100, 0]
    assert len(read(tmp_path, VLLM, vllm_row(0, 2, 10, job=""))) == 1


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("in256_out64_conc16", {"in": 256, "out": 64, "conc": 16}),
        ("in512_out128", {"in": 512, "out": 128}),
        ("a100_in512_conc4_again", {"in": 512, "conc": 4}),
        ("out9", {"out": 9}),
        ("min3_shout4", {}),
        ("", {}),
    ],
)
def test_parts_of_a_jobs_name_may_be_missing(name: str, lengths: dict[str, int]) -> None:
    assert job_of(name) == lengths


def test_the_longest_output_stands_for_a_length_that_is_not_named(tmp_path: Path) -> None:
    # The one with 50 tokens ends and is followed; the mean alone would tell of shorter answers.
    rows = [vllm_row(0, 4, 20, job="night"), vllm_row(30_000, 4, (4 * 21 - 50) / 4, job="night")]
    told = [rows[0].removesuffix("20") + "50", rows[1]]
    assert read(tmp_path, VLLM, *told)[0].workload.prefill_tokens == 100
    assert read(tmp_path, VLLM, *rows)[0].workload.prefill_tokens == 300


def test_no_slow_batch_of_the_published_file_is_taken_for_pure_decode() -> None:
    path = FOLDER / "vllm_normal_batches.csv.gz"
    if not path.is_file():
        pytest.skip(f"no {path.name}: it is not published; set LATENCYPRISM_SHARED_DATA")
    by_job: dict[str, list[Sample]] = {}
    for sample in read_dataset(path).samples:
        by_job.setdefault(sample.job, []).append(sample)
    slow = []
    for batches in by_job.values():
        usual_ms = statistics.median(one.duration_ms for one in batches)
        slow += [one for one in batches if one.decodes_only and one.duration_ms > 1.3 * usual_ms]
    assert slow == []


def test_the_forward_mode_of_sglang_tells_prompts_from_decoding(tmp_path: Path) -> None:
    extend, decode = read(tmp_path, SGLANG, sglang_row(0, 1, output=0), sglang_row(30_000, 2))
    assert (extend.workload.prefill_tokens, extend.workload.decode_requests) == (400, 0)
    assert (decode.workload.prefill_tokens, decode.workload.decode_requests) == (0, 4)
    assert decode.workload.kv_tokens == 440


@pytest.mark.parametrize(
    ("row", "column"),
    [
        (vllm_row(0, 4, 10, duration="fast"), "duration_us"),
        (vllm_row(0, 4, 10, duration=0), "duration_us"),
        (vllm_row(0, 4, 10, duration="nan"), "duration_us"),
        (vllm_row(0, 4, 10, duration=""), "duration_us"),
        (vllm_row(0, 0, 10), "batch_size"),
        ("in1_out1,12", "duration_us"),
    ],
)
def test_a_bad_row_is_counted_and_named(row: str, column: str, tmp_path: Path) -> None:
    found = write(tmp_path, VLLM, vllm_row(0, 4, 10), row)
    assert (len(found.samples), found.bad_rows) == (1, 1)
    assert "line 3" in found.errors[0]
    assert column in found.errors[0]
    assert "1 bad rows" in (bad_rows_of(found) or "")


def test_an_unknown_forward_mode_is_a_bad_row(tmp_path: Path) -> None:
    found = write(tmp_path, SGLANG, sglang_row(0, 2), sglang_row(1, 9), sglang_row(2, ""))
    assert found.bad_rows == 2
    assert "compute_forward_mode" in found.errors[0]


def test_a_file_without_bad_rows_says_nothing_of_them(tmp_path: Path) -> None:
    assert bad_rows_of(write(tmp_path, VLLM, vllm_row(0, 4, 10))) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no known format"),
        ("a,b\n1,2\n", "batch_size"),
        (VLLM + "\n", "no batch"),
        (f"{VLLM}\nnight,x,y\n", "start_ts"),
        ("\x00\xff", "check the name"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=told):
        read_dataset(path)


def test_a_cut_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    with pytest.raises(DatasetError, match="check the name"):
        read_dataset(path)
    path.write_bytes(gzip.compress((VLLM + "\n" + vllm_row(0, 4, 10) * 999).encode())[:-20])
    with pytest.raises(DatasetError, match="cannot read"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("name", "batches"),
    [("vllm_normal_batches.csv.gz", 26_682), ("sglang_abnormal_batches.csv.gz", 311)],
)
def test_the_published_files_are_read_whole(name: str, batches: int) -> None:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"no {name}: it is not published; set LATENCYPRISM_SHARED_DATA")
    found = read_dataset(path)
    assert (len(found.samples), found.bad_rows) == (batches, 0)
    assert any(not one.decodes_only for one in found.samples)
