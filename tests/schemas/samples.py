"""Make a record of any type from its annotations, so that a new record or field needs no edit."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from schemas.records import Record
from schemas.topics import TOPICS

RECORD_TYPES: list[type[Any]] = [topic.record for topic in TOPICS.values()]
MOMENT_NS = 1_790_000_000_000_000_000


def full(record_type: type[Any]) -> Any:
    """Give a record with a value other than the default in every field that may have one."""
    hints = get_type_hints(record_type)
    return record_type(
        **{field.name: _value(field.name, hints[field.name]) for field in fields_of(record_type)}
    )


def minimal(record_type: type[Any]) -> Any:
    """Give a record with its required fields only."""
    hints = get_type_hints(record_type)
    required = [
        field
        for field in fields_of(record_type)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return record_type(**{field.name: _value(field.name, hints[field.name]) for field in required})


def fields_of(record_type: type[Any]) -> list[dataclasses.Field[Any]]:
    """Give the fields but for the one that names the schema."""
    return [field for field in dataclasses.fields(record_type) if field.name != "schema"]


def full_records() -> list[Record]:
    """Give a full record of every type."""
    return [full(record_type) for record_type in RECORD_TYPES]


def _value(name: str, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _value(name, next(one for one in arguments if one is not type(None)))
    if origin is Literal:
        return arguments[-1]
    if origin is tuple:
        return (_value(name, arguments[0]),) * 2
    if origin is dict:
        return {"one": _value(name, arguments[1]), "two": _value(name, arguments[1])}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return full(hint)
    if hint is int:
        # A moment where it is one: tables are partitioned by it.
        return MOMENT_NS if name in ("begin_ns", "end_ns", "at_ns") else 7
    plain: dict[type, Any] = {str: f"a {name}\nß", float: 0.25, bool: False}
    return plain[hint]
