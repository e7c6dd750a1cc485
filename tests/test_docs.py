"""What the documents promise is there: commands, targets, topics, links, keys, containers."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from latencyprism.__main__ import COMMANDS, build_parser, load_command
from schemas.records import Notification
from schemas.settings import read_settings, section
from schemas.topics import TOPICS
from simulator import controls, faults
from streams.delivery.payloads import Context, load
from tests.schemas.samples import full
from tests.test_example_settings import EXAMPLE, SETTINGS, SOURCES, secrets_in, secrets_read

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
ENVIRONMENT = ROOT / ".env.example"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "collectors/native/README.md"]
)
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
README = (ROOT / "README.md").read_text()

FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELL = ("sh", "bash", "console")


class Quoted(NamedTuple):
    """A piece of code in a document."""

    document: str
    code: str


def blocks(language: str | tuple[str, ...]) -> Iterator[Quoted]:
    wanted = (language,) if isinstance(language, str) else language
    for path in DOCUMENTS:
        for found in FENCE.finditer(path.read_text()):
            if found["language"] in wanted:
                yield Quoted(str(path.relative_to(ROOT)), found["body"])


def lines_of_shell() -> Iterator[Quoted]:
    """Give each line of a shell block, and of the comments in the example configuration."""
    for document, body in blocks(SHELL):
        for line in body.splitlines():
            yield Quoted(document, line.strip())
    for line in EXAMPLE.read_text().splitlines():
        yield Quoted(EXAMPLE.name, line.strip("# "))


def code_in_sentences() -> Iterator[Quoted]:
    for path in DOCUMENTS:
        for code in INLINE.findall(FENCE.sub("", path.read_text())):
            yield Quoted(str(path.relative_to(ROOT)), code)


def messages() -> Iterator[Quoted]:
    """Give what our own code quotes: what an error tells its reader to type."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for code in re.findall(r"'(latencyprism \w[^'\n]*)'", path.read_text()):
                yield Quoted(str(path.relative_to(ROOT)), code)


def our_commands() -> list[Quoted]:
    """Give each command line of ours that is quoted anywhere."""
    lines = [*lines_of_shell(), *code_in_sentences(), *messages()]
    return [quoted for quoted in lines if quoted.code.startswith("latencyprism ")]


def words_of(line: str) -> list[str]:
    """Split a command line as a shell does, up to a redirection or a pipe."""
    words = shlex.split(line, comments=True)
    ends = [place for place, word in enumerate(words) if word in (">", "|", "&", "&&")]
    return words[: ends[0]] if ends else words


def parsed(line: str) -> argparse.Namespace:
    """Parse a command line of ours; argparse's own message is the failure's."""
    program, *arguments = words_of(line)
    assert program == "latencyprism", line
    try:
        return build_parser().parse_args(arguments)
    except SystemExit as err:
        raise AssertionError(f"not a command line of ours: {line}") from err


def shown(value: object) -> str:
    """Name a test case by its document and the beginning of its code."""
    return f"{value.document}: {value.code[:60]}" if isinstance(value, Quoted) else str(value)


# Command lines, targets, queries.


def is_a_name(quoted: Quoted) -> bool:
    """Whether a sentence names a command without running it."""
    return quoted in set(code_in_sentences()) and quoted.code.partition(" ")[2] in COMMANDS


def test_every_command_is_in_the_documents() -> None:
    words = [word for quoted in our_commands() for word in words_of(quoted.code)[1:]]
    assert set(COMMANDS) <= set(words)


@pytest.mark.parametrize("quoted", our_commands(), ids=shown)
def test_a_quoted_command_line_is_one_that_we_take(quoted: Quoted) -> None:
    if is_a_name(quoted):
        return
    arguments = parsed(quoted.code)
    if arguments.command == "simulate" and arguments.what == "engine":
        from simulator.replica.config import parse_arguments

        if arguments.options != ["--help"]:
            parse_arguments(arguments.options)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_begins_with_one_sentence(name: str) -> None:
    first, _, rest = load_command(name).__doc__.strip().partition("\n")
    assert re.fullmatch(r"[A-Z][^.!?]*\.", first), first
    assert rest == "" or rest.startswith("\n")


def test_quoted_targets_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    quoted = {
        (document, target)
        for document, code in [*lines_of_shell(), *code_in_sentences()]
        for target in re.findall(r"\bmake ([a-z][a-z-]*)", code)
    }
    assert quoted
    assert {one for one in quoted if one[1] not in targets} == set()


@pytest.mark.pipeline
def test_quoted_queries_run_on_the_real_tables(chdb: Any) -> None:
    lines = [quoted.code for quoted in our_commands() if not is_a_name(quoted)]
    queries = {parsed(line).query for line in lines if words_of(line)[1] == "sql"}
    assert queries
    for query in queries:
        chdb.query(query)


@pytest.mark.parametrize("quoted", list(blocks("python")), ids=shown)
def test_quoted_python_compiles(quoted: Quoted) -> None:
    lines = quoted.code.splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    compile("\n".join(line[indent:] for line in lines), quoted.document, "exec")


# Links, names, keys.


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path: Path) -> None:
    links = [link for link in LINK.findall(FENCE.sub("", path.read_text())) if "://" not in link]
    broken = [
        link
        for link in links
        if not link.startswith("#") and not (path.parent / link.partition("#")[0]).exists()
    ]
    assert broken == []


def test_the_table_of_topics_is_complete() -> None:
    rows = re.findall(r"^\| `(latencyprism\.[\w.]+)` \| `(\w+)` \|", README, re.MULTILINE)
    assert rows == [(topic.name, topic.key) for topic in TOPICS.values()]


def test_documents_name_no_topic_that_is_not() -> None:
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"latencyprism\.\w+\.v\d+", path.read_text())
    }
    assert named <= set(TOPICS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_that_are_named_with_their_section_exist(path: Path) -> None:
    named = re.findall(r"`\[(\w+)\] (\w+)`", path.read_text())
    unknown = [
        (name, key)
        for name, key in named
        if name not in SETTINGS or key not in SETTINGS[name].__struct_fields__
    ]
    assert unknown == []


def test_keys_that_our_messages_name_exist() -> None:
    named = {
        found
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*.py")
        for found in re.findall(rf"\[({'|'.join(SETTINGS)})\] ([a-z_]+)", path.read_text())
    }
    assert named
    assert {one for one in named if one[1] not in SETTINGS[one[0]].__struct_fields__} == set()


def test_the_alert_in_the_readme_has_the_webhooks_fields() -> None:
    example = next(json.loads(body) for document, body in blocks("json") if document == "README.md")
    real = load("alertmanager").body(full(Notification), Context())
    assert set(example) <= set(real)
    assert example["version"] == real["version"]
    alert, real_alert = example["alerts"][0], real["alerts"][0]
    assert set(alert) <= set(real_alert)
    assert set(alert["labels"]) == set(real_alert["labels"])
    assert set(alert["annotations"]) <= set(real_alert["annotations"])


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_three_parts(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {int(path.name[:4])}. ")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]


def test_the_changelog_has_what_is_new_on_top() -> None:
    headings = re.findall(r"^##+ (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["[Unreleased]", "Added"]


# Containers, as data: no engine is needed to run this.


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def ours() -> dict[str, dict[str, Any]]:
    """Give the services that run our image."""
    return {name: one for name, one in compose()["services"].items() if "build" in one}


def test_the_composition_has_the_whole_product() -> None:
    assert set(compose()["services"]) == {
        "kafka",
        "clickhouse",
        "topics",
        "workers",
        "agent",
    }
    assert set(ours()) == {"topics", "workers", "agent"}


@pytest.mark.parametrize("name", sorted(ours()))
def test_a_service_runs_a_command_of_ours(name: str) -> None:
    assert parsed(ours()[name]["command"]).config == Path("/etc/latencyprism.toml")


def test_images_are_pinned() -> None:
    composed = [one["image"] for one in compose()["services"].values()]
    stages = re.findall(r"^FROM .*? AS (\w+)$", DOCKERFILE.read_text(), re.MULTILINE)
    built = [
        image
        for image in re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
        if image not in stages
    ]
    assert built
    for image in [*composed, *built]:
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", image), f"{image} has no version"


def test_the_mounted_configuration_is_one_that_we_take() -> None:
    for service in ours().values():
        sources = [
            volume.split(":")[0]
            for volume in service["volumes"]
            if volume.split(":")[1] == "/etc/latencyprism.toml"
        ]
        assert len(sources) == 1
        settings = read_settings(ROOT / sources[0])
        for name, settings_type in SETTINGS.items():
            section(settings, name, settings_type)
        assert settings["kafka"]["bootstrap_servers"] == "kafka:9092"


def test_environment_variables_are_those_that_the_code_reads() -> None:
    given = secrets_in(COMPOSE.read_text())
    assert given == secrets_read()
    assert secrets_in(ENVIRONMENT.read_text()) == given


def test_no_secret_has_a_value_in_the_repository() -> None:
    values = re.findall(r"^LATENCYPRISM_\w+=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)
    assert values
    assert set(values) == {""}
    assert re.findall(r"PASSWORD: (?!\$\{)", COMPOSE.read_text()) == []


def test_whoever_is_waited_for_can_become_ready() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert services[other]["restart"] == "no"


def test_data_is_on_named_volumes() -> None:
    named = compose()["volumes"]
    for name in ("kafka", "clickhouse"):
        volumes = compose()["services"][name]["volumes"]
        assert [volume.split(":")[0] for volume in volumes] == [name]
        assert name in named


def test_ports_are_open_to_this_host_only() -> None:
    ports = [port for one in compose()["services"].values() for port in one.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_agent_has_one_capability_and_writes_nothing() -> None:
    agent = ours()["agent"]
    assert agent["cap_drop"] == ["ALL"]
    assert agent["cap_add"] == ["SYS_PTRACE"]
    assert agent["pid"] == "host"
    assert agent["read_only"] is True
    assert "privileged" not in agent


def test_everything_else_of_ours_runs_without_root() -> None:
    assert re.search(r"^USER (?!0|root)", DOCKERFILE.read_text(), re.MULTILINE)
    for name, service in ours().items():
        assert ("user" in service) == (name == "agent")
        assert service["cap_drop"] == ["ALL"]


def test_the_image_is_built_from_files_that_are_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["packages"]) <= sources
    extras = re.findall(r"\}\[([\w,]+)\]", DOCKERFILE.read_text())
    assert set(extras[0].split(",")) <= set(project["project"]["optional-dependencies"])


def test_the_fault_gym_page_names_every_fault_and_control() -> None:
    page = (ROOT / "docs" / "fault-gym.md").read_text()
    tables = page.partition("## Faults")[2].partition("## The truth")[0]
    rows = set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE))
    assert rows == {*faults.available(), *controls.available()}
