"""The truth file holds what each iteration really was, written by the engine core itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TruthIteration:
    """One iteration as the engine core saw it, on the host's monotonic clock."""

    sequence: int
    begin_monotonic_ns: int
    end_monotonic_ns: int
    requests: int
    scheduled_tokens: int
    prefill_tokens: int
    decode_requests: int
    kv_tokens: int
    waiting_requests: int

    @property
    def duration_ns(self) -> int:
        """Say how long the iteration took."""
        return self.end_monotonic_ns - self.begin_monotonic_ns


HEADER = ",".join(field.name for field in fields(TruthIteration))


class TruthWriter:
    """Append iterations to a CSV file, at most one write per second while the engine is busy."""

    def __init__(
        self,
        path: Path,
        *,
        period_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period_seconds = period_seconds
        self._clock = clock
        self._lines: list[str] = []
        try:
            self._file = path.open("a", encoding="ascii")
        except OSError as err:
            raise OSError(
                f"cannot write the truth file {path}: {err.strerror}; "
                "choose another path with --truth"
            ) from err
        if self._file.tell() == 0:
            self._file.write(HEADER + "\n")
            self._file.flush()
        self._flushed_at_seconds = clock()

    def append(self, iteration: TruthIteration) -> None:
        """Keep one iteration, and write out what is kept when a period has passed."""
        self._lines.append(",".join(map(str, astuple(iteration))) + "\n")
        if self._clock() - self._flushed_at_seconds >= self._period_seconds:
            self.flush()

    def flush(self) -> None:
        """Write out what is kept; cheap when there is nothing."""
        if self._lines:
            self._file.writelines(self._lines)
            self._file.flush()
            self._lines.clear()
        self._flushed_at_seconds = self._clock()

    def close(self) -> None:
        """Write out what is kept and close the file."""
        self.flush()
        self._file.close()


def parse_truth(text: str) -> list[TruthIteration]:
    """Turn the text of a truth file into iterations; a half-written last line is left out."""
    complete, _, _ = text.rpartition("\n")
    iterations = []
    for number, line in enumerate(complete.splitlines(), start=1):
        if line == HEADER:
            continue
        try:
            iterations.append(TruthIteration(*map(int, line.split(","))))
        except (TypeError, ValueError) as err:
            raise ValueError(
                f"line {number} of the truth file is {line!r}, expected {HEADER}: "
                "record it again with this version of the replica"
            ) from err
    return iterations


def read_truth(path: Path) -> list[TruthIteration]:
    """Read the iterations that have reached the truth file so far."""
    return parse_truth(path.read_text(encoding="ascii"))
