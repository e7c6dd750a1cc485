"""A fleet of simulated engines: their iterations, counters and faults in the order of time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from schemas.records import EngineState, Fault, Record
from simulator.fleet.batching import Batch, Batching
from simulator.fleet.counters import Counters
from simulator.fleet.draws import Ints, keys_of, uniforms
from simulator.fleet.duration import Duration, Durations, Strain
from simulator.fleet.episodes import Episode, tell
from simulator.fleet.hits import bend_traffic, settings_of, shown_of, strains_of
from simulator.fleet.inventory import INVENTORY_NS, command_of, engine_record
from simulator.fleet.meters import Meters, Use
from simulator.fleet.parameters import Parameters
from simulator.fleet.places import places_of
from simulator.fleet.ranks import rank_rows
from simulator.fleet.reading import read
from simulator.fleet.rows import OPEN_NS, ROW, Message, Rows, Writer, open_rows
from simulator.fleet.setting import Setting
from simulator.fleet.truth import Running
from simulator.fleet.windows import WINDOW_NS, Timed, Window, messages_in_order, records_in_order

__all__ = ["BEGIN_NS", "OPEN_NS", "WINDOW_NS", "Fleet", "Window", "places_of", "simulate"]

BEGIN_NS = 1_767_225_600_000_000_000
"""The first of January 2026: when a simulation begins that is not told the time."""

# As agents have it: collectors.agent and the settings of [collect].
UNCERTAINTY_NS = 500_000
# What a restarted engine takes until it serves again.
RESTART_NS = 5_000_000_000


class Fleet:
    """Simulate engines.

    An engine's iterations depend on the seed, its number and its setting alone; what its host's
    counters say, on the engines of its host, too.

    Args:
        settings: Of each engine. Those that follow each other share hosts.

        episodes: Faults and controls.

        seed: Decides everything that is left to chance.

        begin_ns: When it begins, in epoch time.

        host_prefix: Names of hosts begin with it.

    Attributes:
        truth: The whole truth about each episode that is over, by host.
    """

    def __init__(
        self,
        settings: Sequence[Setting],
        episodes: Sequence[Episode] = (),
        *,
        seed: int = 0,
        begin_ns: int = BEGIN_NS,
        host_prefix: str = "sim",
    ) -> None:
        count = len(settings)
        if not count:
            raise ValueError("no engines: give at least one setting")
        self.begin_ns = begin_ns
        self.iterations = 0
        self.preemptions = 0
        self.truth: list[Fault] = []
        self._base = list(settings)
        self._settings = list(settings)
        self.places = places_of(settings, host_prefix)
        self._hosts: dict[str, list[int]] = {}
        for row, place in enumerate(self.places):
            self._hosts.setdefault(place.host, []).append(row)
        keys = keys_of(seed, [f"engine {row}" for row in range(count)])
        self._parameters = Parameters(self._settings)
        self._batching = Batching(self._parameters, keys)
        self._durations = Durations(self._parameters, keys)
        self._counters = Counters(self.places, seed)
        self._meters = Meters(count)
        self._writer = Writer(
            [place.engine_id for place in self.places],
            [setting.source for setting in settings],
            np.array([setting.stack_hz for setting in settings], np.int64),
            keys,
        )
        first = uniforms(keys, np.full(count, -1), 2)
        # Engines do not begin in step, and run since some hours.
        self._clock_ns = begin_ns + (first[:, 0] * 2e8).astype(np.int64)
        self._start_ns = begin_ns - ((0.1 + first[:, 1]) * 3.6e12).astype(np.int64)
        self._sequence = np.zeros(count, np.int64)
        self._count = np.zeros(count, np.int64)
        self._last_look_ns = dict.fromkeys(self._hosts, 0)
        self._pending = np.zeros(0, ROW)
        self._later: list[tuple[int, int, Record]] = []
        self._order = 0
        self._running = [self._resolve(number, episode) for number, episode in enumerate(episodes)]

    @property
    def hosts(self) -> list[list[int]]:
        """The numbers of the engines on each host."""
        return list(self._hosts.values())

    @property
    def finished_requests(self) -> int:
        """Answers that were given so far."""
        return int(self._batching.finished.sum())

    def windows(self, seconds: float) -> Iterator[Window]:
        """Simulate so many seconds, piece by piece."""
        over_ns = self.begin_ns + int(seconds * 1e9)
        at_ns = self.begin_ns
        for row in range(len(self._settings)):
            self._tell_engine(row, at_ns)
        while at_ns < over_ns:
            end_ns = min(at_ns + WINDOW_NS, over_ns)
            self._turn_episodes(at_ns)
            self._advance(end_ns)
            self._look(at_ns, end_ns)
            if end_ns >= over_ns:
                self._end_episodes(end_ns)
            yield self._emit(end_ns)
            at_ns = end_ns

    def records(self, seconds: float) -> Iterator[Record]:
        """Simulate and give the records in the order of their time."""
        for window in self.windows(seconds):
            yield from records_in_order(window, self._writer)

    def messages(self, seconds: float) -> Iterator[Message]:
        """Simulate and give the records as messages, in the order of their time."""
        for window in self.windows(seconds):
            yield from self.messages_of(window)

    def messages_of(self, window: Window) -> list[Message]:
        """Give what was sent in a window as messages."""
        return messages_in_order(window, self._writer)

    def _resolve(self, number: int, episode: Episode) -> Running:
        told = tell(episode)
        rows = range(len(self._settings)) if episode.engines is None else episode.engines
        beyond = [row for row in rows if row >= len(self._settings)]
        if beyond:
            raise ValueError(
                f"{episode.name} is aimed at engine {beyond[0]}: there are {len(self._settings)}, "
                "counted from 0"
            )
        chosen = set(rows)
        if told.host_wide:
            chosen = {row for names in self._hosts.values() if chosen & set(names) for row in names}
        if told.needs_device:
            chosen = {row for row in chosen if self._settings[row].device is not None}
        hits = np.zeros(len(self._settings), bool)
        hits[sorted(chosen)] = True
        return Running(
            number=number,
            episode=episode,
            told=told,
            rows=np.flatnonzero(hits),
            hits=hits,
            begin_ns=self.begin_ns + int(episode.begin_seconds * 1e9),
            end_ns=self.begin_ns + int(episode.end_seconds * 1e9),
        )

    def _push(self, at_ns: int, record: Record) -> None:
        self._order += 1
        heapq.heappush(self._later, (at_ns, self._order, record))

    # Episodes

    def _turn_episodes(self, at_ns: int) -> None:
        """Begin and end what is due within the window that begins, and let controls go on."""
        for one in self._running:
            if one.state is None and one.begin_ns < at_ns + WINDOW_NS:
                self._tell_fault(one, one.begin_ns)
            if one.state == "begun" and one.end_ns < at_ns:
                self._tell_fault(one, at_ns)
        bend_traffic(self._batching, self._running, at_ns)
        self._turn_controls(at_ns)

    def _end_episodes(self, at_ns: int) -> None:
        for one in self._running:
            if one.state == "begun":
                one.end_ns = min(one.end_ns, at_ns)
                self._tell_fault(one, at_ns - 1)

    def _tell_fault(self, running: Running, at_ns: int) -> None:
        running.state = "begun" if running.state is None else "ended"
        names = {
            host: {row: self.places[row].engine_id for row in rows}
            for host, rows in self._hosts.items()
        }
        for fault in running.faults(running.state, names):
            self._push(at_ns, fault)
            if fault.state == "ended":
                self.truth.append(fault)

    def _turn_controls(self, at_ns: int) -> None:
        wanted = settings_of(self._running, self._base, at_ns)
        for row, setting in wanted.items():
            if setting != self._settings[row]:
                self._change(row, setting, at_ns)

    def _change(self, row: int, setting: Setting, at_ns: int) -> None:
        now_ns = max(at_ns, int(self._clock_ns[row]))
        restarts = _identity(self._settings[row]) != _identity(setting)
        if restarts:
            self._tell_engine(row, now_ns, "gone")
        self._settings[row] = setting
        self._parameters.put(row, setting)
        self._batching.fit()
        if not restarts:
            return
        self._batching.forget(row)
        self._start_ns[row] = self._clock_ns[row] = now_ns + RESTART_NS
        self._sequence[row] = 0
        self._tell_engine(row, now_ns + RESTART_NS)

    # Iterations

    def _advance(self, end_ns: int) -> None:
        """Let every engine begin iterations until one of its ends is beyond the window."""
        rows = np.flatnonzero(self._clock_ns < end_ns)
        found: list[Rows] = [self._pending]
        self._batching.pass_time(rows, np.zeros(len(rows)))
        while rows.size:
            rows = self._idle(rows, end_ns)
            if rows.size:
                found.append(self._step(rows))
                rows = rows[self._clock_ns[rows] < end_ns]
        self._pending = np.concatenate(found)

    def _idle(self, rows: Ints, end_ns: int) -> Ints:
        """Let engines without work wait for a request; give those that have work now."""
        waiting = rows[~self._batching.busy(rows)]
        while waiting.size:
            left = (end_ns - self._clock_ns[waiting]) / 1e9
            seconds = np.minimum(self._batching.seconds_to_arrival(waiting) + 1e-9, left)
            self._batching.pass_time(waiting, seconds)
            self._clock_ns[waiting] += np.ceil(seconds * 1e9).astype(np.int64)
            still = ~self._batching.busy(waiting)
            waiting = waiting[still & (self._clock_ns[waiting] < end_ns)]
        return rows[self._batching.busy(rows) & (self._clock_ns[rows] < end_ns)]

    def _step(self, rows: Ints) -> Rows:
        """Run one iteration of each of these engines."""
        begin_ns = self._clock_ns[rows]
        batch = self._batching.schedule(rows)
        self.preemptions += int(batch.preempted.sum())
        strains = strains_of(self._running, rows, begin_ns)
        count = self._count[rows]
        duration = self._durations.of(batch, begin_ns, count, strains)
        end_ns = begin_ns + np.round(duration.total_ms * 1e6).astype(np.int64)
        self._sequence[rows] += 1
        self._count[rows] += 1
        self.iterations += len(rows)
        self._learn_truth(rows, duration, strains)
        values = np.stack(
            [duration.host_ms, duration.device_ms, batch.scheduled_tokens.astype(np.float64)],
            axis=1,
        )
        self._meters.add(rows, begin_ns, end_ns, values)
        next_ns = end_ns + np.round(duration.gap_ms * 1e6).astype(np.int64)
        self._batching.pass_time(rows, (next_ns - begin_ns) / 1e9)
        self._clock_ns[rows] = next_ns
        return self._rows(rows, batch, duration, begin_ns, end_ns, count)

    def _learn_truth(self, rows: Ints, duration: Duration, strains: list[Strain]) -> None:
        for strain in strains:
            took_ms = duration.total_ms[strain.hit]
            without_ms = duration.without_ms[strain.number]
            self._running[strain.number].add(rows[strain.hit], took_ms, without_ms)

    def _rows(
        self,
        rows: Ints,
        batch: Batch,
        duration: Duration,
        begin_ns: Ints,
        end_ns: Ints,
        count: Ints,
    ) -> Rows:
        found = np.zeros(len(rows), ROW)
        found["at_ns"] = found["end_ns"] = end_ns
        found["engine"], found["count"] = rows, count
        found["sequence"] = self._sequence[rows]
        found["process_start_ns"] = self._start_ns[rows]
        found["begin_ns"] = begin_ns
        found["uncertainty_ns"] = UNCERTAINTY_NS
        found["workload"] = read(batch, self._parameters)
        found["phases_ms"] = duration.phases_ms
        parts = [found, open_rows(found)]
        several = np.flatnonzero(self._parameters.counts["ranks"][rows] > 1)
        if several.size:
            workers = np.array(
                [self._settings[row].rank_role == "worker" for row in rows[several].tolist()]
            )
            ranks = self._parameters.counts["ranks"][rows[several]]
            parts += rank_rows(found[several], duration.rank_ms[several], ranks, workers)
        return np.concatenate(parts)

    # Counters and inventory

    def _look(self, begin_ns: int, end_ns: int) -> None:
        """Take the looks that agents take at the end of the window, each host once a second."""
        for number, (host, rows) in enumerate(self._hosts.items()):
            if (end_ns - self.begin_ns) // WINDOW_NS % 4 != number % 4:
                continue
            stamp_ns = self._counters.stamp_ns(host, end_ns)
            since = self._meters.read(np.array(rows, np.int64), stamp_ns)
            last_ns, self._last_look_ns[host] = self._last_look_ns[host], stamp_ns
            if not last_ns:
                continue
            use = Use(
                seconds=(stamp_ns - last_ns) / 1e9,
                host_seconds=since[:, 0] / 1e3,
                device_seconds=since[:, 1] / 1e3,
                tokens=since[:, 2],
                iterations=since[:, 3],
            )
            settings = [self._settings[row] for row in rows]
            shown = shown_of(self._running, rows, last_ns, stamp_ns)
            for at_ns, record in self._counters.readings(
                rows, settings, use, last_ns, stamp_ns, shown
            ):
                self._push(at_ns, record)
        if (begin_ns - self.begin_ns) // INVENTORY_NS != (end_ns - self.begin_ns) // INVENTORY_NS:
            for row in range(len(self._settings)):
                self._tell_engine(row, end_ns)

    def _tell_engine(self, row: int, at_ns: int, state: EngineState = "running") -> None:
        record = engine_record(
            self._settings[row],
            self.places[row],
            at_ns,
            state,
            process_start_ns=int(self._start_ns[row]),
            iterations_seen=int(self._count[row]),
            engine_iterations=int(self._sequence[row]),
        )
        self._push(at_ns, record)

    def _emit(self, end_ns: int) -> Window:
        """Give what was sent before the end of the window, and keep the rest."""
        sent = self._pending["at_ns"] < end_ns
        rows = self._pending[sent]
        self._pending = self._pending[~sent]
        # A worker's share is told before its core's iteration where both end together.
        order = np.lexsort((rows["rank"], ~rows["is_worker"], rows["engine"], rows["at_ns"]))
        others: list[Timed] = []
        while self._later and self._later[0][0] < end_ns:
            at_ns, _, record = heapq.heappop(self._later)
            others.append((at_ns, record))
        return Window(end_ns=end_ns, rows=rows[order], others=others)


def simulate(
    settings: Sequence[Setting],
    episodes: Sequence[Episode] = (),
    *,
    seconds: float,
    seed: int = 0,
    begin_ns: int = BEGIN_NS,
) -> Iterator[Record]:
    """Give the records that agents would send of such engines, in the order of time.

    Args:
        settings: Of each engine.

        episodes: Faults and controls that happen meanwhile.

        seconds: Simulated time.

        seed: Decides everything that is left to chance.

        begin_ns: When it begins, in epoch time.
    """
    return Fleet(settings, episodes, seed=seed, begin_ns=begin_ns).records(seconds)


def _identity(setting: Setting) -> tuple[object, ...]:
    """What cannot change in a running engine."""
    return setting.version, *command_of(setting)
