"""No record can carry a prompt or a completion: every place for text is known and thought about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tests.schemas.samples import RECORD_TYPES

# Before you add a line: who writes the field, and can anything that a user of the engine typed
# get into it? Names and ids of machines and models, and sentences that our own code makes of
# numbers, are fine. Text that comes out of a request is not.
TEXT_FIELDS = {
    # Names of hosts, engines, models and versions.
    "Iteration.engine_id",
    "ProcessReading.engine_id",
    "ProcessReading.host",
    "HostReading.engine_id",
    "HostReading.host",
    "Engine.engine_id",
    "Engine.host",
    "Engine.framework",
    "Engine.version",
    "Engine.model",
    "Engine.agent_version",
    "Batch.engine_id",
    "Alert.engine_id",
    "Alert.framework",
    "Alert.model",
    "Alert.host",
    "ProcessReading.device_ids",
    "XpuReading.engine_id",
    "XpuReading.host",
    "XpuReading.device_id",
    "XpuReading.vendor",
    "XpuReading.model",
    "XpuReading.pci_address",
    "XpuReading.parent",
    "XpuReading.partition",
    "XpuReading.driver_version",
    "XpuReading.tool",
    "XpuReading.fabric",
    "Engine.device_ids",
    "Engine.device_models",
    "Capture.engine_id",
    "Capture.host",
    "Fault.host",
    "Fault.engine_ids",
    "Norms.engine_id",
    "Evidence.peers",
    "Member.engine_id",
    "Member.framework",
    "Member.model",
    "Member.host",
    "CaptureLink.engine_id",
    "CaptureLink.host",
    "Alert.device_ids",
    "Notification.shared",
    # Ids that we make; the digest is a one-way hash of options of the engine's command line.
    "Engine.command_digest",
    "Capture.capture_id",
    "Capture.incident_id",
    "Batch.incident_id",
    "Alert.incident_id",
    "Fault.fault_id",
    "Member.incident_id",
    "Notification.incident_id",
    "Notification.silenced_by",
    "CaptureLink.capture_id",
    "Capture.compare_with",
    "Silence.silence_id",
    "Acknowledgement.incident_id",
    # A digest.
    "Norms.kind",
    # Names from lists in our code: counters, phases, terms, causes, topics, workers.
    "Batch.terms_ns",
    "Batch.counters",
    "Alert.cause",
    "Member.cause",
    "Notification.cause",
    "Evidence.inflations",
    "Evidence.missing_counters",
    "Alert.other_causes",
    "Fault.name",
    "Fault.causes",
    "Evidence.counters_before",
    "Evidence.counters_during",
    "Evidence.phases_before_ns",
    "Evidence.phases_during_ns",
    "Evidence.pressures",
    "XpuReading.throttled_seconds",
    "XpuReading.missing",
    "HostReading.traced_calls",
    # Paths and file names that our own agent made.
    "Capture.folder",
    "CaptureLink.folder",
    # Of whoever runs the engines: a name, and patterns of the names above.
    "Notification.acknowledged_by",
    "Acknowledgement.by",
    "Silence.by",
    "Silence.matchers",
    "Capture.files",
    "DeadLetter.topic",
    "DeadLetter.place",
    # Sentences that our code makes of numbers and of the names above.
    "Engine.note",
    "Batch.reason",
    "Alert.summary",
    "Alert.next_step",
    "Notification.summary",
    "Notification.next_step",
    "Evidence.sql",
    "Capture.reason",
    "Capture.error",
    "Fault.error",
    # Our own messages that could not be read, and why.
    "DeadLetter.error",
    "DeadLetter.key_base64",
    "DeadLetter.value_base64",
}


def text_fields(record_type: type[Any]) -> Iterator[str]:
    for name, hint in get_type_hints(record_type).items():
        leaves = list(leaves_of(hint))
        if any(leaf is str for leaf in leaves):
            yield f"{record_type.__name__}.{name}"
        for leaf in leaves:
            if dataclasses.is_dataclass(leaf) and isinstance(leaf, type):
                yield from text_fields(leaf)
            else:
                assert leaf in (str, int, float, bool, None), f"{name} may hold anything: {leaf}"


def leaves_of(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Literal:
        return
    inner = [one for one in get_args(hint) if one not in (type(None), Ellipsis)]
    if not inner:
        yield hint
    for one in inner:
        yield from leaves_of(one)


def test_every_field_that_can_hold_text_was_thought_about() -> None:
    found = {name for record_type in RECORD_TYPES for name in text_fields(record_type)}
    assert found == TEXT_FIELDS
