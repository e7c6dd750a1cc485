"""'latencyprism simulate fleet' refuses what would not happen."""

from __future__ import annotations

import pytest

from simulator.fleet.__main__ import main


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--seconds", "inf"], "--seconds is inf: give more than 0"),
        (["--seconds", "nan"], "--seconds is nan: give more than 0"),
        (
            ["--seconds", "20", "--faults", "cpu_squeeze@30-40"],
            "cpu_squeeze ends after 40 s, the simulation after 20 s: give --seconds 40 or more",
        ),
        (["--seconds", "20", "--controls", "prompt_ramp@10-20.5"], "give --seconds 20.5 or more"),
    ],
)
def test_what_would_never_end_or_never_happen_is_refused(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--engines", "1", *options]) == 2
    assert told in capsys.readouterr().err
