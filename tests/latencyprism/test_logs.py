"""Log lines: text for people, one JSON object a line for a log store."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from latencyprism.__main__ import build_parser
from latencyprism.errors import CommandError
from latencyprism.logs import FORMAT_VARIABLE, choose_format, make_formatter

ROOT = Path(__file__).resolve().parents[2]


def record(message: str, *arguments: object, exc: bool = False) -> logging.LogRecord:
    information = None
    if exc:
        try:
            raise ValueError("no such\nthing")
        except ValueError:
            information = sys.exc_info()
    return logging.LogRecord(
        "latencyprism.agent", logging.WARNING, "x.py", 1, message, arguments, information
    )


def test_a_json_line_has_time_level_logger_and_the_message_as_it_is_read() -> None:
    line = make_formatter("json").format(record('%s: "größer" als\n%d', "h:8000", 3))
    told = json.loads(line)
    assert "\n" not in line
    assert list(told) == ["ts", "level", "logger", "message"]
    assert (told["level"], told["logger"]) == ("warning", "latencyprism.agent")
    assert told["message"] == 'h:8000: "größer" als\n3'
    assert datetime.fromisoformat(told["ts"]).utcoffset() is not None


def test_a_traceback_is_in_the_same_object() -> None:
    line = make_formatter("json").format(record("it failed", exc=True))
    assert "\n" not in line
    assert json.loads(line)["exc"].endswith("ValueError: no such\nthing")


def test_text_is_as_it_was() -> None:
    line = make_formatter("text").format(record("%d engines", 2))
    assert line.endswith(" WARNING latencyprism.agent: 2 engines")


def test_an_unknown_format_in_the_environment_is_refused_with_what_to_set() -> None:
    with pytest.raises(CommandError, match=r"LATENCYPRISM_LOG_FORMAT is 'xml'.*text, json"):
        make_formatter("xml")


def test_the_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "text")
    choose_format(build_parser().parse_args(["--log-format", "json", "topics"]).log_format)
    assert os.environ[FORMAT_VARIABLE] == "json"
    choose_format(build_parser().parse_args(["topics"]).log_format)
    assert os.environ[FORMAT_VARIABLE] == "json"


@pytest.mark.process
@pytest.mark.parametrize("by_flag", [True, False])
def test_the_agent_logs_json_by_flag_and_by_environment(tmp_path: Path, by_flag: bool) -> None:
    config = tmp_path / "latencyprism.toml"
    config.write_text("[collect]\nports = [1]\n")
    flag = ["--log-format", "json"] if by_flag else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment[FORMAT_VARIABLE] = "text" if by_flag else "json"
    command = ["collect", "--stdout", "--seconds", "0.2", "--config", str(config)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "latencyprism", *flag, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0
    assert any("No engine found yet" in line["message"] for line in lines)
