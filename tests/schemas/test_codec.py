from __future__ import annotations

import base64
import dataclasses
import json
import math
import random
from typing import Any, get_type_hints

import orjson
import pytest

from schemas import Alert, Batch, DecodeError, HostReading, Iteration, Workload, decode, encode
from schemas.codec import MAX_BURIED_BYTES, MAX_MESSAGE_BYTES, dead_letter, finite, from_raw
from schemas.records import DeadLetter
from tests.schemas.samples import RECORD_TYPES, fields_of, full, minimal

ITERATION: dict[str, Any] = {
    "schema": "iteration.v1",
    "engine_id": "host:8000",
    "process_start_ns": 1,
    "sequence": 2,
    "begin_ns": 3,
    "end_ns": 4,
    "uncertainty_ns": 5,
    "source": "counter",
}


def message(**changes: Any) -> bytes:
    return json.dumps(ITERATION | changes).encode()


def written(**changes: Any) -> bytes:
    """Give a message as `encode` writes it: without spaces, the schema last."""
    raw = ITERATION | changes
    schema = {"schema": raw.pop("schema")}
    return json.dumps(raw | schema, separators=(",", ":")).encode()


def refused(value: bytes | None, record_type: type[Any] = Iteration) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(record_type, value)
    return str(caught.value)


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_a_record_comes_back_as_it_was(record_type: type[Any]) -> None:
    for record in (full(record_type), minimal(record_type)):
        assert decode(record_type, encode(record)) == record


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_a_field_of_the_wrong_type_is_named(record_type: type[Any]) -> None:
    raw = json.loads(encode(full(record_type)))
    for field in fields_of(record_type):
        wrong = 1.5 if isinstance(raw[field.name], dict | list) else {"an": "object"}
        reason = refused(json.dumps(raw | {field.name: wrong}).encode(), record_type)
        assert reason.startswith(f"not a valid {raw['schema']}: Expected")
        assert reason.endswith(f"at `$.{field.name}`")


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_a_missing_field_is_named(record_type: type[Any]) -> None:
    raw = json.loads(encode(minimal(record_type)))
    required = [f for f in fields_of(record_type) if f.default is dataclasses.MISSING]
    for field in (one for one in required if one.default_factory is dataclasses.MISSING):
        rest = {name: value for name, value in raw.items() if name != field.name}
        assert f"missing required field `{field.name}`" in refused(
            json.dumps(rest).encode(), record_type
        )


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_every_truncation_of_a_message_is_refused(record_type: type[Any]) -> None:
    value = encode(full(record_type))
    for length in range(len(value)):
        refused(value[:length], record_type)


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_fields_of_a_later_version_are_ignored(record_type: type[Any]) -> None:
    record = full(record_type)
    raw = json.loads(encode(record)) | {"colour": "blue", "more": {"deep": [1, {"x": None}]}}
    assert decode(record_type, json.dumps(raw).encode()) == record


@pytest.mark.parametrize("wanted", RECORD_TYPES)
@pytest.mark.parametrize("sent", RECORD_TYPES)
def test_a_record_on_the_wrong_topic_is_refused(wanted: type[Any], sent: type[Any]) -> None:
    if wanted is sent:
        return
    reason = refused(encode(full(sent)), wanted)
    assert reason == f"schema is {full(sent).schema!r}: this topic carries {full(wanted).schema}"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty message where iteration.v1 was expected"),
        (b"", "empty message where iteration.v1 was expected"),
        (b"garbage", "not JSON: "),
        (b"\x00\x01\x02", "not JSON: "),
        (b'{"schema":"\xff\xfe"}', "not JSON: str is not valid UTF-8"),
        (message(engine_id="x").replace(b'"x"', b'"\\ud800"'), "not JSON: no low surrogate"),
        (message().replace(b": 3", b": NaN"), "not JSON: "),
        (message().replace(b": 3", b": 1e400"), "not JSON: number is infinity"),
        (b"[" * 900_000, "not JSON: depth limit exceeded"),
        (b'{"x":' * 5000 + b"1" + b"}" * 5000, "not JSON: depth limit exceeded"),
        (b"null", 'no "schema" field: this topic carries iteration.v1'),
        (b"[]", 'no "schema" field: this topic carries iteration.v1'),
        (b"7", 'no "schema" field: this topic carries iteration.v1'),
        (b"{}", 'no "schema" field: this topic carries iteration.v1'),
        (b'{"schema":null}', 'no "schema" field: this topic carries iteration.v1'),
        (b'{"schema":[1]}', "schema is [1]: this topic carries iteration.v1"),
        (
            message(schema="iteration.v2"),
            "unknown version 'iteration.v2': this reader knows iteration.v1; upgrade it first",
        ),
        (message(begin_ns=1.5), "not a valid iteration.v1: Expected `int`, got `float`"),
        (message(begin_ns=True), "not a valid iteration.v1: Expected `int`, got `bool`"),
        (message(begin_ns="3"), "not a valid iteration.v1: Expected `int`, got `str`"),
        (message(begin_ns=10**30), "not a valid iteration.v1: Expected `int`, got `float`"),
        (message(source="guess"), "not a valid iteration.v1: Invalid enum value 'guess'"),
        (message(phases=[{"phase": "lunch"}]), "Invalid enum value 'lunch' - at `$.phases[0]"),
        (message(workload={"requests": "2"}), "got `str` - at `$.workload.requests`"),
    ],
)
def test_what_is_no_record_is_refused_with_the_reason(value: bytes | None, reason: str) -> None:
    assert reason in refused(value)


def test_a_message_above_the_limit_is_not_even_parsed() -> None:
    padding = MAX_MESSAGE_BYTES - len(message(note=""))
    assert decode(Iteration, message(note="x" * padding)).sequence == 2
    reason = refused(message(note="x" * (padding + 1)))
    assert reason == f"message of {MAX_MESSAGE_BYTES + 1} bytes: the limit is {MAX_MESSAGE_BYTES}"


@pytest.mark.parametrize(
    "value",
    [
        message(schema="x" * 900_000),
        message(schema="iteration." + "x" * 900_000),
        message(source="x" * 900_000),
    ],
)
def test_a_reason_stays_short_whatever_the_message_quotes(value: bytes) -> None:
    assert len(refused(value)) < 600


def test_numbers_that_json_lacks_travel_as_unknown() -> None:
    batch: Batch = dataclasses.replace(full(Batch), residual=math.nan, score=math.inf)
    back = decode(Batch, encode(batch))
    assert (back.residual, back.score) == (None, None)


def test_a_required_number_that_json_lacks_is_refused() -> None:
    alert: Alert = dataclasses.replace(full(Alert), confidence=math.nan)
    assert refused(encode(alert), Alert).endswith("at `$.confidence`")


def test_whole_numbers_are_read_where_fractions_are_allowed() -> None:
    raw = json.loads(encode(full(HostReading))) | {"others_cpu_ratio": 1}
    assert decode(HostReading, json.dumps(raw).encode()).others_cpu_ratio == 1.0


def test_finite_keeps_numbers_and_drops_what_cannot_travel() -> None:
    found = [finite(x) for x in (0.5, None, math.nan, math.inf, -math.inf)]
    assert found == [0.5, None, None, None, None]


def test_unknown_is_null_and_never_zero() -> None:
    raw = json.loads(encode(minimal(Iteration)))
    assert raw["running_ns"] is None
    assert set(raw["workload"].values()) == {None}
    assert len(raw["workload"]) == len(get_type_hints(Workload))


def buried(key: bytes | None, value: bytes | None, error: str = "not JSON") -> DeadLetter:
    return dead_letter(
        topic="latencyprism.iterations.v1",
        partition=3,
        offset=9,
        key=key,
        value=value,
        place="analyze",
        error=error,
        at_ns=5,
    )


def test_a_dead_letter_keeps_the_bytes_as_they_were() -> None:
    value = bytes(range(256))
    letter = decode(DeadLetter, encode(buried(None, value)))
    assert (letter.key_base64, letter.at_ns) == (None, 5)
    assert base64.b64decode(letter.value_base64 or "") == value


def test_a_dead_letter_of_a_huge_message_can_itself_be_read() -> None:
    huge = b"x" * (2 * MAX_MESSAGE_BYTES)
    value = encode(buried(huge, huge, "e" * MAX_MESSAGE_BYTES))
    assert len(value) < MAX_MESSAGE_BYTES
    letter = decode(DeadLetter, value)
    assert base64.b64decode(letter.value_base64 or "") == huge[:MAX_BURIED_BYTES]


def read_the_long_way(record_type: type[Any], value: bytes) -> Any:
    """Give the record, or why it is none, as it was read before there was a quick way."""
    try:
        return from_raw(record_type, orjson.loads(value))
    except orjson.JSONDecodeError as err:
        return f"not JSON: {err}"
    except DecodeError as err:
        return str(err)


def read(record_type: type[Any], value: bytes) -> Any:
    try:
        return decode(record_type, value)
    except DecodeError as err:
        return str(err)


def damaged(value: bytes, draw: random.Random) -> bytes:
    """Change, insert or delete some bytes."""
    bytes_ = bytearray(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place, new = draw.randrange(len(bytes_)), draw.choice(b'\\"{}[]:,019.e-+ \n\x00\xffnaulx')
        bytes_[place : place + draw.randrange(2)] = bytes([new])[: draw.randrange(2)]
    return bytes(bytes_)


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_quick_or_not_a_damaged_message_is_the_same_record_or_refused_alike(
    record_type: type[Any],
) -> None:
    draw = random.Random(record_type.__name__)
    # Only plain text is read the quick way.
    values = [encode(make(record_type)).replace("\\nß".encode(), b"x") for make in (full, minimal)]
    assert all(value.isascii() for value in values)
    for _ in range(1500):
        value = damaged(draw.choice(values), draw)
        assert read(record_type, value) == read_the_long_way(record_type, value), value


@pytest.mark.parametrize("number", [2**64, 10**30, -(2**63) - 1])
def test_a_number_of_more_than_64_bits_is_none_whoever_wrote_it(number: int) -> None:
    for value in (message(begin_ns=number), written(begin_ns=number)):
        assert "Expected `int`, got `float`" in refused(value)
    assert decode(Iteration, written(begin_ns=2**64 - 1)).begin_ns == 2**64 - 1


@pytest.mark.parametrize(
    "raw",
    [
        {"more": {"colour": "blue", "schema": "iteration.v1"}},
        {'a,\\"schema': "iteration.v1"},
        {'a,"schema': "iteration.v1"},
        {"note": ',"schema":"iteration.v1"}'},
    ],
    ids=str,
)
def test_a_schema_that_is_not_the_messages_own_does_not_count(raw: dict[str, Any]) -> None:
    rest = {name: value for name, value in ITERATION.items() if name != "schema"}
    value = json.dumps(rest | raw, separators=(",", ":")).encode()
    assert refused(value) == 'no "schema" field: this topic carries iteration.v1'


def test_of_two_schemas_the_last_counts() -> None:
    value = written().replace(b'{"engine_id"', b'{"schema":"batch.v1","engine_id"')
    assert decode(Iteration, value).sequence == 2
    value = written(schema="batch.v1").replace(b'{"engine_id"', b'{"schema":"iteration.v1","x"')
    assert "schema is 'batch.v1'" in refused(value)


def test_text_that_is_no_utf_8_is_refused_even_where_nobody_reads_it() -> None:
    value = written(colour="blue").replace(b"blue", b"\xff")
    assert refused(value).startswith("not JSON: str is not valid UTF-8")
