from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from schemas import encode
from schemas.generate import FOLDER, generate
from schemas.topics import TOPICS, Topic
from tests.schemas.samples import full, minimal

topics = pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS)


def schema_of(topic: Topic) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{topic.name}.json").read_bytes())
    return found


def test_the_files_are_what_the_records_say() -> None:
    files = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    assert files == generate(), "schemas/json is out of date: run 'python -m schemas.generate'"


@topics
def test_encoded_records_are_valid(topic: Topic) -> None:
    schema = schema_of(topic)
    Draft202012Validator.check_schema(schema)
    for record in (full(topic.record), minimal(topic.record)):
        Draft202012Validator(schema).validate(json.loads(encode(record)))


@topics
def test_a_record_without_its_schema_is_invalid_as_it_is_for_us(topic: Topic) -> None:
    raw = json.loads(encode(full(topic.record)))
    del raw["schema"]
    with pytest.raises(ValidationError, match="'schema' is a required property"):
        Draft202012Validator(schema_of(topic)).validate(raw)


@topics
def test_a_record_of_another_version_is_invalid(topic: Topic) -> None:
    raw = json.loads(encode(full(topic.record))) | {"schema": "other.v9"}
    with pytest.raises(ValidationError, match=r"'other\.v9' is not one of"):
        Draft202012Validator(schema_of(topic)).validate(raw)


@topics
def test_fields_of_a_later_version_are_valid(topic: Topic) -> None:
    raw = json.loads(encode(full(topic.record))) | {"colour": "blue"}
    Draft202012Validator(schema_of(topic)).validate(raw)
