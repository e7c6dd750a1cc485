"""Iterations as rows of one array, and what agents would have sent of them.

A row becomes a record or, faster, the record's bytes; the two are equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from schemas.records import Iteration, PhaseTime, Source, Workload
from schemas.topics import ITERATIONS
from simulator.fleet.draws import Ints, Words, uniforms
from simulator.fleet.duration import PHASES
from simulator.fleet.reading import UNREAD, WORKLOAD

Rows: TypeAlias = npt.NDArray[np.void]

OPEN = -1
OPEN_NS = 100_000_000
"""So often agents tell of an iteration that runs long, by their usual settings."""

ROW = np.dtype(
    [
        ("at_ns", np.int64),
        ("engine", np.int32),
        ("rank", np.int32),
        ("is_worker", np.bool_),
        ("count", np.int64),
        ("sequence", np.int64),
        ("process_start_ns", np.int64),
        ("begin_ns", np.int64),
        ("end_ns", np.int64),
        ("running_ns", np.int64),
        ("uncertainty_ns", np.int64),
        ("workload", np.int64, (len(WORKLOAD),)),
        ("phases_ms", np.float32, (len(PHASES),)),
    ]
)
"""``at_ns`` is when an agent can have sent it; ``end_ns`` is `OPEN` while the iteration runs."""

# As collectors.clock has it: with fewer samples a share says little about this very iteration.
MEASURED_SAMPLES = 8
_STACKS = np.uint64(0xE7037ED1A0B428DB)
_NO_PHASES = b"[]"
_WORKLOAD_JSON = b"{%b}" % b",".join(b'"%b":%%d' % name.encode() for name in WORKLOAD)


class Message(NamedTuple):
    """A record as Kafka carries it; ``at_ns`` is when an agent can have sent it."""

    topic: str
    key: bytes
    value: bytes
    time_ms: int
    at_ns: int


class Writer:
    """Turn rows into records or messages.

    Args:
        engine_ids: Names of the engines.

        sources: The rung on which each is read.

        stack_hz: Stack samples of each.

        keys: Of their random numbers.
    """

    def __init__(
        self, engine_ids: list[str], sources: list[Source], stack_hz: Ints, keys: Words
    ) -> None:
        self._engine_ids = engine_ids
        self._sources = sources
        self._keys = keys ^ _STACKS
        self._stack_hz = stack_hz
        self._encoded = [name.encode() for name in engine_ids]
        self._heads = [b'{"engine_id":"%b","process_start_ns":' % name for name in self._encoded]
        self._middles = [b',"source":"%b","rank":' % source.encode() for source in sources]
        self._single = {
            index: b'[{"phase":"%b","duration_ns":' % name.encode()
            for index, name in enumerate(PHASES)
        }

    def records(self, rows: Rows) -> list[Iteration]:
        """Give the rows as records."""
        samples = self.samples(rows)
        return [
            Iteration(
                engine_id=self._engine_ids[engine],
                process_start_ns=start_ns,
                sequence=sequence,
                begin_ns=begin_ns,
                end_ns=None if end_ns == OPEN else end_ns,
                uncertainty_ns=uncertainty_ns,
                source=self._sources[engine],
                rank=rank,
                role="worker" if is_worker else "engine_core",
                running_ns=running_ns if end_ns == OPEN else None,
                workload=_workload(workload),
                phases=_phase_times(counts, end_ns - begin_ns),
            )
            for (
                engine,
                start_ns,
                sequence,
                begin_ns,
                end_ns,
                uncertainty_ns,
                rank,
                is_worker,
                running_ns,
                workload,
            ), counts in zip(_columns(rows), samples, strict=True)
        ]

    def messages(self, rows: Rows) -> list[Message]:
        """Give the rows as messages of the iterations' topic."""
        topic, keys = ITERATIONS.name, self._encoded
        found: list[Message] = []
        for (
            (
                engine,
                start_ns,
                sequence,
                begin_ns,
                end_ns,
                uncertainty_ns,
                rank,
                is_worker,
                running_ns,
                workload,
            ),
            counts,
            at_ns,
        ) in zip(_columns(rows), self.samples(rows), rows["at_ns"].tolist(), strict=True):
            is_open = end_ns == OPEN
            value = (
                b'%b%d,"sequence":%d,"begin_ns":%d,"end_ns":%b,"uncertainty_ns":%d%b%d,"role":"%b"'
                b',"missed":0,"running_ns":%b,"iterations":1,"workload":%b,"phases":%b'
                b',"schema":"iteration.v1"}'
                % (
                    self._heads[engine],
                    start_ns,
                    sequence,
                    begin_ns,
                    b"null" if is_open else b"%d" % end_ns,
                    uncertainty_ns,
                    self._middles[engine],
                    rank,
                    b"worker" if is_worker else b"engine_core",
                    b"%d" % running_ns if is_open else b"null",
                    _workload_bytes(workload),
                    self._phases(counts, end_ns - begin_ns),
                )
            )
            found.append(Message(topic, keys[engine], value, begin_ns // 1_000_000, at_ns))
        return found

    def samples(self, rows: Rows) -> list[tuple[tuple[int, int], ...]]:
        """Give for each row the phases that its stack samples fell into, and how many did.

        The agent takes samples at regular times, so a short iteration may get none.
        """
        found: list[tuple[tuple[int, int], ...]] = [()] * len(rows)
        counts = self._sample_counts(rows)
        some = np.flatnonzero(counts)
        if not some.size:
            return found
        counts = counts[some]
        shares = np.cumsum(rows["phases_ms"][some].astype(np.float64), axis=1)
        owner = np.repeat(np.arange(len(some)), counts)
        lanes = int(counts.max())
        engines = rows["engine"][some]
        counter = rows["count"][some] * 256 + rows["rank"][some]
        drawn = uniforms(self._keys[engines], counter, lanes)
        drawn = drawn[np.arange(lanes) < counts[:, None]] * shares[owner, -1]
        phases = (shares[owner] < drawn[:, None]).sum(axis=1)
        table = np.bincount(owner * len(PHASES) + phases, minlength=len(some) * len(PHASES))
        table = table.reshape(len(some), len(PHASES))
        first = table.argmax(axis=1)
        alone = table[np.arange(len(some)), first] == counts
        for row, phase, count, is_alone, line in zip(
            some.tolist(), first.tolist(), counts.tolist(), alone.tolist(), table, strict=True
        ):
            found[row] = ((phase, count),) if is_alone else _longest_first(line)
        return found

    def _sample_counts(self, rows: Rows) -> Ints:
        engines = rows["engine"]
        hz = self._stack_hz[engines]
        period_ns = 1_000_000_000 // np.maximum(hz, 1)
        # Agents do not sample in step.
        offset_ns = (self._keys[engines] % np.uint64(1_000_000_000)).astype(np.int64)
        before = (rows["begin_ns"] + offset_ns) // period_ns
        counts = (rows["end_ns"] + offset_ns) // period_ns - before
        return np.where((rows["end_ns"] == OPEN) | (hz == 0), 0, counts)

    def _phases(self, counts: tuple[tuple[int, int], ...], duration_ns: int) -> bytes:
        if not counts:
            return _NO_PHASES
        if len(counts) == 1:
            phase, count = counts[0]
            return b'%b%d,"samples":%d,"estimated":%b}]' % (
                self._single[phase],
                duration_ns,
                count,
                b"true" if count < MEASURED_SAMPLES else b"false",
            )
        total = sum(count for _, count in counts)
        parts = [
            b'%b%d,"samples":%d,"estimated":%b}'
            % (
                self._single[phase][1:],
                duration_ns * count // total,
                count,
                b"true" if count < MEASURED_SAMPLES else b"false",
            )
            for phase, count in counts
        ]
        return b"[%b]" % b",".join(parts)


def _columns(rows: Rows) -> Any:
    names = (
        "engine",
        "process_start_ns",
        "sequence",
        "begin_ns",
        "end_ns",
        "uncertainty_ns",
        "rank",
        "is_worker",
        "running_ns",
        "workload",
    )
    return zip(*(rows[name].tolist() for name in names), strict=True)


def _workload(numbers: list[int]) -> Workload:
    pairs = zip(WORKLOAD, numbers, strict=True)
    return Workload(**{name: None if number == UNREAD else number for name, number in pairs})


def _workload_bytes(numbers: list[int]) -> bytes:
    found = _WORKLOAD_JSON % tuple(numbers)
    return found.replace(b":%d" % UNREAD, b":null") if UNREAD in numbers else found


def _longest_first(line: Ints) -> tuple[tuple[int, int], ...]:
    found = [(index, count) for index, count in enumerate(line.tolist()) if count]
    return tuple(sorted(found, key=lambda pair: -pair[1]))


def _phase_times(counts: tuple[tuple[int, int], ...], duration_ns: int) -> tuple[PhaseTime, ...]:
    total = sum(count for _, count in counts)
    return tuple(
        PhaseTime(
            phase=PHASES[phase],
            duration_ns=duration_ns * count // total,
            samples=count,
            estimated=count < MEASURED_SAMPLES,
        )
        for phase, count in counts
    )


def open_rows(rows: Rows) -> Rows:
    """Give what agents say of iterations while these run long."""
    times = (rows["end_ns"] - rows["begin_ns"] - 1) // OPEN_NS
    long = np.flatnonzero(times > 0)
    repeats = times[long]
    found = np.repeat(rows[long], repeats)
    first = np.repeat(np.cumsum(repeats) - repeats, repeats)
    running_ns = (np.arange(len(found)) - first + 1) * OPEN_NS
    found["running_ns"] = running_ns
    found["at_ns"] = found["begin_ns"] + running_ns
    found["end_ns"] = OPEN
    found["phases_ms"] = 0.0
    return found
