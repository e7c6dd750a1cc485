"""Recorded batches of real engines, in the CSV formats of the paper's public artifact.

Neither format has prefill tokens; they are derived without looking at any duration, for vLLM as in
``simulator.composition``. An SGLang file tells the forward mode of each batch, and an extending one
computes the prompts of its requests. Where a prefix cache spares a prompt, too many tokens are
derived. A live agent reads the true number.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from schemas.records import Workload
from simulator.composition import computed

JOB = re.compile(r"(?:^|_)(in|out|conc)(\d+)(?=_|$)")
ERRORS_KEPT = 10

Format = Literal["vllm", "sglang"]
# Those of a row that is read; a column that is not listed is passed over.
VLLM_COLUMNS = ("start_ts", "duration_us", "batch_size", "avg_input_length", "avg_output_length")
# Read where it is there.
LONGEST_OUTPUT = "max_output_length"
SGLANG_COLUMNS = (
    "start_ts",
    "duration_us",
    "compute_batch_size",
    "compute_avg_input_length",
    "compute_avg_output_length",
    "compute_forward_mode",
)
# Numbers of SGLang's forward modes.
EXTEND, DECODE, MIXED = 1, 2, 3


class DatasetError(ValueError):
    """A file is not what it should be; the text ends with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One recorded batch.

    Attributes:
        begin_us: When it began, since the epoch.

        requests: In the batch; in a vLLM file those that made tokens before.

        mean_input: Tokens of the prompt, over the requests.

        mean_output: Tokens made so far, over the requests.

        longest_output: Tokens that the one with most has made; None where it is not recorded.

        job: Name of the load that was played, as ``in512_out128_conc8``.

        forward_mode: SGLang's; None in a vLLM file.
    """

    begin_us: float
    duration_ms: float
    requests: int
    mean_input: float
    mean_output: float
    longest_output: float | None = None
    job: str = ""
    forward_mode: int | None = None

    @property
    def end_ns(self) -> int:
        """When it ended."""
        return int(self.begin_us * 1e3 + self.duration_ms * 1e6)


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded batch with its workload.

    Attributes:
        number: Of its row, in the order of time.
    """

    end_ns: int
    duration_ms: float
    workload: Workload
    job: str
    number: int = 0

    @property
    def decodes_only(self) -> bool:
        """Whether nothing of a prompt is computed."""
        return not self.workload.prefill_tokens


@dataclass(frozen=True, slots=True)
class Dataset:
    """The batches of a file in the order in which they ran.

    Attributes:
        bad_rows: How many rows could not be read.

        errors: What was wrong with the first of them, by line.
    """

    path: Path
    format: Format
    samples: tuple[Sample, ...]
    bad_rows: int
    errors: tuple[str, ...]

    @property
    def jobs(self) -> int:
        """How many different loads were played."""
        return len({sample.job for sample in self.samples})


def read_dataset(path: Path) -> Dataset:
    """Read a file of either format, compressed or not; the header tells which.

    Raises:
        DatasetError: It cannot be read, is of no known format, or has no row that is right.
    """
    format_, rows, errors = read_rows(path)
    if not rows:
        found = f": {errors[0]}" if errors else ""
        raise DatasetError(f"{path} has no batch that can be read{found}; record it again")
    return Dataset(path, format_, tuple(samples_of(rows)), len(errors), tuple(errors[:ERRORS_KEPT]))


def read_rows(path: Path) -> tuple[Format, list[Row], list[str]]:
    """Read the rows in the order of their time, and what was wrong with the others.

    Raises:
        DatasetError: The file cannot be read, or its header is of no known format.
    """
    try:
        # A spreadsheet may have put a byte order mark in front.
        with _open(path) as file:
            return _parse(path, file)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as err:
        raise DatasetError(f"cannot read {path} ({err}): check the name and the file") from err


def format_of(columns: Sequence[str]) -> Format | None:
    """Tell a format by its header."""
    if set(VLLM_COLUMNS) <= set(columns):
        return "vllm"
    return "sglang" if set(SGLANG_COLUMNS) <= set(columns) else None


def job_of(name: str) -> dict[str, int]:
    """Read the lengths and the concurrency in a job's name; what is missing is left out.

    >>> job_of("in512_out128_conc8")
    {'in': 512, 'out': 128, 'conc': 8}
    >>> job_of("night_in64"), job_of("another")
    ({'in': 64}, {})
    """
    return {key: int(number) for key, number in JOB.findall(name)}


def samples_of(rows: Sequence[Row]) -> list[Sample]:
    """Derive the workload of each batch; rows are in the order of their time."""
    by_job: dict[str, list[Row]] = {}
    for row in rows:
        by_job.setdefault(row.job, []).append(row)
    workloads = {job: iter(_workloads(job, batches)) for job, batches in by_job.items()}
    return [
        Sample(row.end_ns, row.duration_ms, next(workloads[row.job]), row.job, number)
        for number, row in enumerate(rows)
    ]


def _workloads(job: str, rows: Sequence[Row]) -> list[Workload]:
    """Give the workload of each batch of a job."""
    if rows[0].forward_mode is not None:
        return [_of_forward_mode(row) for row in rows]
    named = job_of(job)
    longest = max(row.longest_output or row.mean_output for row in rows)
    output_length = named.get("out") or max(1, math.ceil(longest))
    return [
        Workload(
            requests=one.decode_requests + one.prompts,
            scheduled_tokens=one.decode_requests + one.prefill_tokens,
            prefill_tokens=one.prefill_tokens,
            decode_requests=one.decode_requests,
            kv_tokens=one.context_tokens + one.prefill_tokens,
        )
        for one in computed(rows, output_length, named.get("conc"))
    ]


def _of_forward_mode(row: Row) -> Workload:
    decodes = row.forward_mode == DECODE
    prefill = 0 if decodes else round(row.requests * row.mean_input)
    decoding = row.requests if decodes else 0
    return Workload(
        requests=row.requests,
        scheduled_tokens=decoding + prefill,
        prefill_tokens=prefill,
        decode_requests=decoding,
        kv_tokens=int(row.requests * (row.mean_input + row.mean_output)),
    )


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", newline="", encoding="utf-8-sig")
    return path.open(newline="", encoding="utf-8-sig")


def _parse(path: Path, file: TextIO) -> tuple[Format, list[Row], list[str]]:
    reader = csv.DictReader(file)
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    format_ = format_of(columns)
    if format_ is None:
        raise DatasetError(
            f"{path} is of no known format: its header needs {', '.join(VLLM_COLUMNS)} (vLLM) or "
            f"{', '.join(SGLANG_COLUMNS)} (SGLang)"
        )
    parse: Callable[[dict[str, str | None]], Row]
    parse = _vllm_row if format_ == "vllm" else _sglang_row
    rows: list[Row] = []
    errors: list[str] = []
    for raw in reader:
        try:
            rows.append(parse(raw))
        except ValueError as err:
            errors.append(f"line {reader.line_num}: {err}")
    return format_, sorted(rows, key=lambda row: row.begin_us), errors


def _vllm_row(raw: dict[str, str | None]) -> Row:
    return Row(
        begin_us=_number(raw, "start_ts"),
        duration_ms=_duration_ms(raw),
        requests=_count(raw, "batch_size"),
        mean_input=_number(raw, "avg_input_length"),
        mean_output=_number(raw, "avg_output_length"),
        longest_output=_number(raw, LONGEST_OUTPUT) if raw.get(LONGEST_OUTPUT) else None,
        job=(raw.get("job_name") or "").strip(),
    )


def _sglang_row(raw: dict[str, str | None]) -> Row:
    mode = _count(raw, "compute_forward_mode")
    if mode not in (EXTEND, DECODE, MIXED):
        raise ValueError(f"compute_forward_mode is {mode}: neither extend, decode nor mixed")
    return Row(
        begin_us=_number(raw, "start_ts"),
        duration_ms=_duration_ms(raw),
        requests=_count(raw, "compute_batch_size"),
        mean_input=_number(raw, "compute_avg_input_length"),
        mean_output=_number(raw, "compute_avg_output_length"),
        job=(raw.get("job_name") or "").strip(),
        forward_mode=mode,
    )


def _duration_ms(raw: dict[str, str | None]) -> float:
    duration_us = _number(raw, "duration_us")
    if duration_us <= 0:
        raise ValueError(f"duration_us is {duration_us:g}: not above 0")
    return duration_us / 1e3


def _count(raw: dict[str, str | None], name: str) -> int:
    number = _number(raw, name)
    if number != int(number) or number < 1:
        raise ValueError(f"{name} is {number:g}: not a whole number above 0")
    return int(number)


def _number(raw: dict[str, str | None], name: str) -> float:
    text = raw.get(name)
    try:
        number = float(text or "")
    except ValueError:
        raise ValueError(f"{name} is {text!r}: not a number") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{name} is {text!r}: not a number of 0 or more")
    return number


def bad_rows_of(dataset: Dataset) -> str | None:
    """Say which rows of a file were left out; None where none were."""
    if not dataset.bad_rows:
        return None
    kinds = Counter(error.partition(": ")[2].partition(" is ")[0] for error in dataset.errors)
    columns = ", ".join(name for name, _ in kinds.most_common())
    return (
        f"{dataset.path.name}: {dataset.bad_rows} bad rows are left out ({columns}), as "
        f"{dataset.errors[0]}"
    )
