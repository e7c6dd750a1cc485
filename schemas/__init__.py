"""What crosses a process boundary: records, topics, their encoding, and their tables."""

from schemas.codec import DecodeError, decode, encode
from schemas.records import (
    Alert,
    Batch,
    DeadLetter,
    Engine,
    Evidence,
    HostReading,
    Iteration,
    PhaseTime,
    ProcessReading,
    Workload,
)
from schemas.topics import TOPICS, Topic

__all__ = [
    "TOPICS",
    "Alert",
    "Batch",
    "DeadLetter",
    "DecodeError",
    "Engine",
    "Evidence",
    "HostReading",
    "Iteration",
    "PhaseTime",
    "ProcessReading",
    "Topic",
    "Workload",
    "decode",
    "encode",
]
