"""The example configuration is the reference: it has every key, with its default and a comment."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collectors.config import CollectSettings
from schemas.settings import SECTIONS, KafkaSettings, read_settings, section
from streams.capture_policy import CaptureSettings
from streams.config import StreamSettings
from streams.delivery import DestinationSettings, NotifySettings
from streams.sinks.clickhouse import ClickHouseSettings

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "latencyprism.example.toml"
SOURCES = ("schemas", "collectors", "streams", "models", "simulator", "latencyprism")

SETTINGS: dict[str, type[Any]] = {
    "kafka": KafkaSettings,
    "collect": CollectSettings,
    "stream": StreamSettings,
    "store": ClickHouseSettings,
    "notify": NotifySettings,
    "captures": CaptureSettings,
}


def test_every_section_has_a_struct_here() -> None:
    assert tuple(SETTINGS) == SECTIONS


def test_the_example_has_the_sections_in_their_order() -> None:
    assert tuple(tomllib.loads(EXAMPLE.read_text())) == SECTIONS


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_has_every_key_in_its_order_and_no_other(name: str) -> None:
    written = tomllib.loads(EXAMPLE.read_text())[name]
    assert tuple(written) == SETTINGS[name].__struct_fields__


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_shows_the_defaults(name: str) -> None:
    written: Any = section(read_settings(EXAMPLE), name, SETTINGS[name])
    assert msgspec.structs.asdict(written) == msgspec.structs.asdict(SETTINGS[name]())


def test_each_key_has_a_comment_of_its_own() -> None:
    lines = EXAMPLE.read_text().splitlines()
    without = [
        line
        for before, line in itertools.pairwise(lines)
        if re.match(r"\w+ = ", line) and not before.startswith("# ")
    ]
    assert without == []


def test_each_comment_on_a_key_is_a_sentence() -> None:
    lines = EXAMPLE.read_text().splitlines()
    unfinished = [
        before
        for before, line in itertools.pairwise(lines)
        if re.match(r"\w+ = ", line) and not before.endswith(".")
    ]
    assert unfinished == []


def test_the_unit_stands_in_the_comment_where_the_name_has_one() -> None:
    """A reader who changes one key does not read the rule about names first."""
    words = {"_seconds": "Seconds", "_ms": "Milliseconds", "_hz": "Hz", "_ratio": "Share"}
    text = EXAMPLE.read_text()
    missing = [
        key
        for comment, key in re.findall(r"((?:^# .*\n)+)(\w+) = ", text, re.MULTILINE)
        for suffix, word in words.items()
        if key.endswith(suffix) and word.lower() not in comment.lower()
    ]
    assert missing == []


def test_the_destination_in_comments_has_every_key_with_its_default() -> None:
    """A table of an array cannot stand there by itself: it would make a destination."""
    written = re.search(r"^# \[\[notify.destinations\]\]\n((?:#.*\n)+)", EXAMPLE.read_text(), re.M)
    assert written is not None
    lines = [line for line in written[1].splitlines() if re.match(r"# \w+ = ", line)]
    keys = tomllib.loads("\n".join(line[2:] for line in lines))
    assert tuple(keys) == DestinationSettings.__struct_fields__
    told = DestinationSettings(name=keys["name"], kind=keys["kind"], url=keys["url"])
    assert msgspec.convert(keys, DestinationSettings) == told


def test_every_secret_that_the_code_reads_is_named_in_the_example() -> None:
    assert secrets_in(EXAMPLE.read_text()) == secrets_read()


def secrets_in(text: str) -> set[str]:
    """Find names of environment variables of ours, but those that an injection marks itself by."""
    return set(re.findall(r"LATENCYPRISM_(?!FAULT_)[A-Z_]*[A-Z]", text))


def secrets_read() -> set[str]:
    """Give the environment variables that the product's code names."""
    return {
        name
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*.py")
        for name in secrets_in(path.read_text())
    }
