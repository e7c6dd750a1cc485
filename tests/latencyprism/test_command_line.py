"""What a person meets first: help, mistakes, and what `doctor` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collectors.stacks import native_version
from latencyprism import __version__
from latencyprism.__main__ import COMMANDS, load_command, main
from latencyprism.checks import engines as engine_checks
from latencyprism.checks import host as host_checks
from latencyprism.commands import collect as collect_command
from latencyprism.commands import stream as stream_command
from latencyprism.errors import CommandError, need
from schemas.settings import SECTIONS, KafkaSettings

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
Write = Callable[[str], str]


def run(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    """Give exit status, standard output and standard error of a command."""
    try:
        status = main(list(arguments))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_config(text: str) -> str:
        path = tmp_path / "latencyprism.toml"
        path.write_text(text)
        return str(path)

    return write_config


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # Handlers of this process belong to pytest.
    for command in (collect_command, stream_command):
        monkeypatch.setattr(command, "start_logging", lambda _: None)


def test_help_names_every_command_and_where_to_start(capsys: Capture) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(f"    {command}" in out for command in COMMANDS)
    assert "latencyprism demo" in out
    assert "latencyprism doctor" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_that_begins_with_its_sentence(
    command: str, capsys: Capture
) -> None:
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    sentence = load_command(command).__doc__.strip().partition("\n")[0]
    assert sentence in out
    assert sentence[0].isupper()
    assert sentence[-1] in ".:"
    assert "usage: latencyprism" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_says_something_of_each_flag(command: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    load_command(command).add_arguments(parser)
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "simulate"])
def test_an_unknown_flag_is_exit_2_and_named(command: str, capsys: Capture) -> None:
    needed = {
        "stream": ["all"],
        "sql": ["SELECT 1"],
        "explain": ["batch", "host:8000"],
        "incidents": ["list"],
        "deadletters": ["list"],
    }.get(command, [])
    status, _, err = run(capsys, command, *needed, "--no-such-flag")
    assert status == 2
    assert "--no-such-flag" in err


@pytest.mark.parametrize("arguments", [[], ["watch"], ["stream"], ["stream", "x"], ["simulate"]])
def test_a_command_that_does_not_exist_is_exit_2_with_those_there_are(
    arguments: list[str], capsys: Capture
) -> None:
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert "usage: latencyprism" in err


def test_the_version_is_told(capsys: Capture) -> None:
    assert run(capsys, "--version")[:2] == (0, f"latencyprism {__version__}\n")


MISTAKES = {
    "[kafka\n": "is not TOML",
    "[kafak]\n": "unknown section [kafak]; have: " + ", ".join(SECTIONS),
    "kafka = 3\n": "kafka must be a section",
    "[kafka]\nbootstrap_server = 'x'\n": "bootstrap_server",
    "[kafka]\npartitions = 'four'\n": "partitions",
    "[kafka]\nsecurity_protocol = 'foo'\n": "security_protocol",
    "[collect]\npoll_hz = 1\n": "poll_hz",
    "[collect]\npoll_hz = 100\nstack_hz = 500\n": "stack_hz is 500 and poll_hz is 100",
    "[collect]\nengines = ['vlm']\n": "unknown framework 'vlm'; have: ",
    "[collect]\npoll_hertz = 1000\n": "poll_hertz",
}


@pytest.mark.parametrize(("text", "told"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_in_the_configuration_is_one_line_that_names_it(
    text: str, told: str, write: Write, capsys: Capture
) -> None:
    pytest.importorskip("confluent_kafka", reason="pip install 'latencyprism[collect]'")
    status, out, err = run(capsys, "collect", "--config", write(text), "--seconds", "0")
    assert (status, out) == (2, "")
    assert err.startswith("latencyprism collect: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["doctor", "collect", "topics", "migrate", "stream"])
def test_a_configuration_that_is_not_there_is_named(command: str, capsys: Capture) -> None:
    role = ["notify"] if command == "stream" else []
    status, _, err = run(capsys, command, *role, "--config", "/no/such.toml")
    assert status == 2
    assert err.count("\n") == 1
    assert "cannot read /no/such.toml" in err
    assert "latencyprism.example.toml" in err


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        (["collect", "--stdout"], "prometheus_client", "collect"),
        (["collect"], "confluent_kafka", "collect"),
        (["topics"], "confluent_kafka", "collect"),
        (["migrate"], "clickhouse_connect", "stream"),
        (["sql", "SELECT 1"], "clickhouse_connect", "stream"),
        (["simulate", "load"], "numpy", "simulator"),
        (["demo"], "chdb", "demo"),
    ],
)
def test_what_is_not_installed_is_one_line_with_the_command_that_installs_it(
    command: list[str],
    module: str,
    extra: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = run(capsys, *command)
    assert (status, out) == (2, "")
    assert err == (
        f"latencyprism {command[0]}: this command needs {module}, which is not installed: "
        f"pip install 'latencyprism[{extra}]'\n"
    )


def test_what_is_installed_is_given() -> None:
    assert need("json", "x").dumps([]) == "[]"
    with pytest.raises(CommandError, match=r"latencyprism\[x\]"):
        need("no_such_module_here", "x")


def test_doctor_says_what_it_found_one_line_each(capsys: Capture) -> None:
    status, out, _ = run(capsys, "doctor")
    assert status in (0, 1)
    lines = out.splitlines()
    assert all(line[:4] in ("ok  ", "note", "bad ") for line in lines)
    assert status == any(line.startswith("bad") for line in lines)
    for subject in ("version", "extra collect", "native sampler", "SYS_PTRACE", "Kafka", "engine"):
        assert any(line[5:].startswith(subject) for line in lines), subject


def test_doctor_tells_programs_the_same_as_people(capsys: Capture) -> None:
    status, out, _ = run(capsys, "doctor", "--json")
    findings = json.loads(out)
    assert {key for finding in findings for key in finding} == {
        "state",
        "subject",
        "text",
        "details",
    }
    assert status == any(finding["state"] == "bad" for finding in findings)
    assert any(finding["subject"].startswith("accelerators") for finding in findings)


def test_doctor_without_the_sampler_says_what_is_lost_and_how_to_get_it(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "latencyprism_native", None)
    monkeypatch.setattr(engine_checks, "find_engines", lambda *_: [])
    status, out, _ = run(capsys, "doctor")
    assert native_version() is None
    assert status == 1
    assert "bad  native sampler: not installed. Lost: single batches" in out
    assert "make native" in out


def test_doctor_names_the_section_to_look_at_when_kafka_does_not_answer(
    write: Write, capsys: Capture
) -> None:
    config = write('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    _, out, _ = run(capsys, "doctor", "--config", config)
    assert "note Kafka: 127.0.0.1:1 does not answer: check [kafka] bootstrap_servers" in out


@pytest.mark.parametrize("servers", ["", "nonsense", "host:port", "127.0.0.1:1,also:bad"])
def test_doctor_survives_any_list_of_brokers(servers: str) -> None:
    finding = host_checks.check_broker(KafkaSettings(bootstrap_servers=servers))
    assert finding.state == "note"


def test_doctor_names_the_extra_that_is_missing(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(host_checks.EXTRAS, "demo", ("no_such_module_here",))
    [finding] = [one for one in host_checks.check_extras() if one.subject == "extra demo"]
    assert finding.state == "note"
    _, out, _ = run(capsys, "doctor")
    assert "no_such_module_here missing" in out
    assert "pip install 'latencyprism[demo]'" in out


def test_capabilities_are_a_number() -> None:
    assert host_checks.effective_capabilities() >= 0


def test_a_reader_that_closes_its_end_gets_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "latencyprism", "doctor"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write_end,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write_end)
    assert b"Traceback" not in ended.stderr
