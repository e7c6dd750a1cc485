"""Records to bytes and back: the only serialisation code there is.

JSON, because a team that reads our topics from its own code should need no library of ours. A
message that cannot be read raises `DecodeError` with the reason; its reader sends it to the
dead-letter topic (`dead_letter`) and goes on.
"""

import base64
import inspect
import math
import time
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import msgspec
import orjson

from schemas.records import DeadLetter, Record

R = TypeVar("R", bound=Record)

MAX_MESSAGE_BYTES = 1_000_000
# What a dead letter keeps of a key or value: Base64 makes 4 bytes of 3, and the dead letter must
# itself stay below the limit, ours and the broker's.
MAX_BURIED_BYTES = 300_000
# A reason may quote what it found, which may be the whole message.
MAX_REASON_LENGTH = 500

# Twice as fast as orjson on a dataclass with slots.
_ENCODER = msgspec.json.Encoder()
# To find a number of more than 64 bits: it has 20 digits or more, or a minus and 19.
_DIGITS_AS_ZEROS = bytes.maketrans(b"-123456789", b"0000000000")
_TOO_MANY_DIGITS = b"0" * 20


class DecodeError(ValueError):
    """The bytes are not a record of the wanted type; the text is short, whatever they are."""

    def __init__(self, reason: str) -> None:
        super().__init__(_shortened(reason))


def encode(record: Record) -> bytes:
    """Encode a record as JSON; numbers that JSON lacks (nan, infinity) become null."""
    return _ENCODER.encode(record)


def decode(record_type: type[R], value: bytes | None) -> R:
    """Decode a record of the given type.

    Fields that this version does not know are ignored, so newer agents may write to older
    workers.

    Raises:
        DecodeError: The bytes are missing, no JSON, of another schema or version, or a field is
            of the wrong type. The text says which, with the path of the field.
    """
    if not value:
        raise DecodeError(f"empty message where {_reader_of(record_type).schema} was expected")
    if len(value) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"message of {len(value)} bytes: the limit is {MAX_MESSAGE_BYTES}")
    record = _read_at_once(record_type, value)
    if record is not None:
        return record
    try:
        raw: Any = orjson.loads(value)
    except orjson.JSONDecodeError as err:
        raise DecodeError(f"not JSON: {err}") from err
    return from_raw(record_type, raw)


def from_raw(record_type: type[R], raw: Any) -> R:
    """Make a record of what a JSON parser gave; for bytes there is `decode`.

    Raises:
        DecodeError: As `decode`.
    """
    expected = _reader_of(record_type).schema
    found = raw.get("schema") if isinstance(raw, dict) else None
    if found != expected:
        raise DecodeError(_wrong_schema(expected, found))
    try:
        return msgspec.convert(raw, record_type)
    except msgspec.ValidationError as err:
        raise DecodeError(f"not a valid {expected}: {err}") from err
    except (ValueError, OverflowError, RecursionError) as err:
        raise DecodeError(f"not a valid {expected}: {err}") from err


def dead_letter(
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    place: str,
    error: str,
    at_ns: int | None = None,
) -> DeadLetter:
    """Wrap a message that could not be read, with where and why; a huge one is cut."""
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=offset,
        at_ns=time.time_ns() if at_ns is None else at_ns,
        place=place,
        error=_shortened(error),
        key_base64=_base64(key),
        value_base64=_base64(value),
    )


def json_schema(record_type: type[Record]) -> dict[str, Any]:
    """Generate the JSON Schema of a record, as kept in ``schemas/json``."""
    schema: dict[str, Any] = _clean(msgspec.json.schema(record_type))
    # It has a default here, but `decode` insists on reading it.
    schema["$defs"][record_type.__name__]["required"].append("schema")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def finite(number: float | None) -> float | None:
    """Give the number, or None where it is nan or infinite and so cannot travel."""
    return number if number is not None and math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class _Reader:
    """What reads one type of record in one pass; ``ending`` is how `encode` ends all of them."""

    schema: str
    ending: bytes
    decoder: msgspec.json.Decoder[Any]


_READERS: dict[type[Any], _Reader] = {}


def _reader_of(record_type: type[Any]) -> _Reader:
    reader = _READERS.get(record_type)
    if reader is None:
        schema = str(get_type_hints(record_type)["schema"].__args__[0])
        ending = f',"schema":"{schema}"}}'.encode()
        reader = _Reader(schema, ending, msgspec.json.Decoder(record_type))
        _READERS[record_type] = reader
    return reader


def _read_at_once(record_type: type[R], value: bytes) -> R | None:
    """Read what `encode` wrote, at half the cost; None where it takes a closer look.

    What is refused here is read again the long way, which tells the reason.
    """
    reader = _reader_of(record_type)
    # In whatever JSON ends so, the schema is a field of the outermost object: no string has a
    # bare quote behind a comma.
    if not value.endswith(reader.ending):
        return None
    # Two things that this decoder lets pass: what is no UTF-8 in fields that nobody reads, and
    # numbers of more than 64 bits.
    if not value.isascii() or _TOO_MANY_DIGITS in value.translate(_DIGITS_AS_ZEROS):
        return None
    try:
        record: R = reader.decoder.decode(value)
    except (ValueError, OverflowError, RecursionError):
        return None
    return record


def _wrong_schema(expected: str, found: object) -> str:
    if found is None:
        return f'no "schema" field: this topic carries {expected}'
    kind = expected.partition(".")[0]
    if isinstance(found, str) and found.partition(".")[0] == kind:
        return f"unknown version {found!r}: this reader knows {expected}; upgrade it first"
    return f"schema is {found!r}: this topic carries {expected}"


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data[:MAX_BURIED_BYTES]).decode()


def _shortened(text: str) -> str:
    if len(text) <= MAX_REASON_LENGTH:
        return text
    # Both ends: what is wrong stands first, the path of the field last.
    half = MAX_REASON_LENGTH // 2
    return f"{text[:half]} ... {text[-half:]}"


def _clean(schema: Any) -> Any:
    """Take the indentation out of descriptions: Python 3.13 strips docstrings, older ones not."""
    if isinstance(schema, list):
        return [_clean(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: inspect.cleandoc(value)
        if name == "description" and isinstance(value, str)
        else _clean(value)
        for name, value in schema.items()
    }
