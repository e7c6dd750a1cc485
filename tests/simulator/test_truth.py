"""The truth file comes back as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.replica.truth import TruthIteration, TruthWriter, parse_truth, read_truth

ITERATION = TruthIteration(1, 10, 25, 2, 9, 8, 1, 30, 4)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    writer = TruthWriter(path)
    writer.append(ITERATION)
    writer.close()
    assert read_truth(path) == [ITERATION]
    assert ITERATION.duration_ns == 15


def test_lines_are_kept_back_for_one_period(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    now_seconds = 0.0
    writer = TruthWriter(path, period_seconds=1.0, clock=lambda: now_seconds)
    writer.append(ITERATION)
    assert read_truth(path) == []
    now_seconds = 1.5
    writer.append(ITERATION)
    assert len(read_truth(path)) == 2
    writer.close()


def test_a_half_written_last_line_is_left_out() -> None:
    assert parse_truth("1,10,25,2,9,8,1,30,4\n2,30,4") == [ITERATION]


def test_a_foreign_file_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"line 2 .* record it again"):
        parse_truth("1,10,25,2,9,8,1,30,4\nabc\n")
