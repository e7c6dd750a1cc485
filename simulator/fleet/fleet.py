"""A fleet of simulated engines: their iterations, counters and faults in the order of time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.codec import encode
from schemas.records import Engine, EngineState, Fault, Record
from schemas.topics import key_of, time_ms_of, topic_of
from simulator.fleet.batching import Batch, Batching
from simulator.fleet.counters import Counters, Meters, Place, Shown, Use
from simulator.fleet.draws import Floats, Ints, keys_of, uniforms
from simulator.fleet.duration import PHASES, Duration, Durations, Strain
from simulator.fleet.episodes import Episode, tell
from simulator.fleet.parameters import Parameters
from simulator.fleet.rows import OPEN, ROW, Message, Rows, Writer
from simulator.fleet.setting import Setting
from simulator.fleet.truth import Running

BEGIN_NS = 1_767_225_600_000_000_000
"""The first of January 2026: when a simulation begins that is not told the time."""

WINDOW_NS = 250_000_000
"""Time is simulated in pieces of this length; all that ends in one is put in order."""

# As agents have it: collectors.agent and the settings of [collect].
INVENTORY_NS = 10_000_000_000
OPEN_NS = 100_000_000
UNCERTAINTY_NS = 500_000
# What a restarted engine takes until it serves again.
RESTART_NS = 5_000_000_000
FIRST_PORT = 8000

_PHASE = {name: index for index, name in enumerate(PHASES)}
_Timed = tuple[int, Record]


@dataclass(slots=True)
class Window:
    """What agents sent within a piece of time.

    Attributes:
        rows: Iterations, in order.

        others: All other records with the time of each, in order.
    """

    end_ns: int
    rows: Rows
    others: list[_Timed]


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
            iterations = self._writer.records(window.rows)
            yield from _merged(window.rows["at_ns"].tolist(), iterations, window.others)

    def messages(self, seconds: float) -> Iterator[Message]:
        """Simulate and give the records as messages, in the order of their time."""
        for window in self.windows(seconds):
            yield from self.messages_of(window)

    def messages_of(self, window: Window) -> list[Message]:
        """Give what was sent in a window as messages."""
        found = self._writer.messages(window.rows)
        found += [
            Message(
                topic_of(record).name, key_of(record), encode(record), time_ms_of(record), at_ns
            )
            for at_ns, record in window.others
        ]
        found.sort(key=_at)
        return found

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
        self._bend_traffic(at_ns)
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

    def _bend_traffic(self, at_ns: int) -> None:
        batching = self._batching
        batching.kv_ratio[:] = batching.arrivals_ratio[:] = 1.0
        for one in self._running:
            if one.told.effect is not None and one.begin_ns <= at_ns < one.end_ns:
                batching.kv_ratio[one.rows] *= one.told.effect.kv_ratio
                batching.arrivals_ratio[one.rows] *= one.told.effect.arrivals_ratio

    def _turn_controls(self, at_ns: int) -> None:
        wanted: dict[int, Setting] = {}
        for one in self._running:
            control = one.told.control
            if control is None or at_ns < one.begin_ns or at_ns >= one.end_ns + 2 * WINDOW_NS:
                continue
            progress = (at_ns - one.begin_ns) / (one.end_ns - one.begin_ns)
            for row in one.rows.tolist():
                before = wanted[row] if row in wanted else self._base[row]
                wanted[row] = before if progress >= 1 else control.at(progress, before)
        for row, setting in wanted.items():
            if setting != self._settings[row]:
                self._change(row, setting, at_ns)

    def _change(self, row: int, setting: Setting, at_ns: int) -> None:
        before, self._settings[row] = self._settings[row], setting
        self._parameters.put(row, setting)
        self._batching.fit()
        if _identity(before) == _identity(setting):
            return
        now_ns = max(at_ns, int(self._clock_ns[row]))
        self._tell_engine(row, now_ns, "gone")
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
        strains = self._strains(rows, begin_ns)
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

    def _strains(self, rows: Ints, begin_ns: Ints) -> list[Strain]:
        strains: list[Strain] = []
        for one in self._running:
            if one.state != "begun" or one.told.effect is None:
                continue
            is_on = one.hits[rows] & (one.begin_ns <= begin_ns) & (begin_ns < one.end_ns)
            hit = np.flatnonzero(is_on)
            if hit.size:
                strain = Strain(
                    number=one.number, effect=one.told.effect, hit=hit, until_ns=one.end_ns
                )
                strains.append(strain)
        return strains

    def _learn_truth(self, rows: Ints, duration: Duration, strains: list[Strain]) -> None:
        for strain in strains:
            touched = duration.touched[strain.number]
            hit = strain.hit[touched]
            without = duration.without_ms[strain.number][touched]
            ratios = duration.total_ms[hit] / without
            self._running[strain.number].add(rows[hit], ratios)

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
        workload = found["workload"]
        for column, values in enumerate(
            (
                batch.requests,
                batch.scheduled_tokens,
                batch.long_tokens,
                batch.single_requests,
                batch.kv_tokens,
                batch.waiting,
                batch.running,
            )
        ):
            workload[:, column] = values
        found["phases_ms"] = duration.phases_ms
        parts = [found, _open_rows(found)]
        several = np.flatnonzero(self._parameters.counts["ranks"][rows] > 1)
        if several.size:
            parts += self._rank_rows(found[several], duration.rank_ms[several])
        return np.concatenate(parts)

    def _rank_rows(self, core: Rows, rank_ms: Floats) -> Iterator[Rows]:
        """Give what the further ranks report of the same iterations."""
        ranks = self._parameters.counts["ranks"][core["engine"]]
        workers = np.array(
            [self._settings[row].rank_role == "worker" for row in core["engine"].tolist()]
        )
        forward, wait = _PHASE["forward"], _PHASE["communication_wait"]
        own_ms = core["phases_ms"].sum(axis=1)
        for rank in range(int(ranks.max())):
            chosen = (rank < ranks) & (workers | (rank > 0))
            part = core[chosen].copy()
            lag = rank_ms[chosen, 0] - rank_ms[chosen, rank]
            part["rank"], part["is_worker"] = rank, workers[chosen]
            # Who is faster waits for the slowest.
            taken = np.clip(lag, -part["phases_ms"][:, wait], part["phases_ms"][:, forward])
            part["phases_ms"][:, forward] -= taken
            part["phases_ms"][:, wait] += taken
            self._shorten(part, own_ms[chosen])
            yield part

    def _shorten(self, part: Rows, total_ms: Floats) -> None:
        """Cut a worker's record down to its share, which has no host work but its own."""
        some = np.flatnonzero(part["is_worker"])
        phases = part["phases_ms"][some]
        before = phases[:, [_PHASE[name] for name in ("queue", "schedule", "prepare")]].sum(axis=1)
        share = phases[:, _PHASE["forward"]]
        kept = np.zeros_like(phases)
        kept[:, _PHASE["forward"]] = share
        part["phases_ms"][some] = kept
        begin_ns = part["begin_ns"][some] + (before * 1e6).astype(np.int64)
        limit_ns = part["end_ns"][some]
        end_ns = np.minimum(begin_ns + (share * 1e6).astype(np.int64), limit_ns)
        part["begin_ns"][some] = np.minimum(begin_ns, end_ns)
        part["end_ns"][some] = part["at_ns"][some] = end_ns

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
            shown = self._shown(rows, last_ns, stamp_ns)
            for at_ns, record in self._counters.readings(
                rows, settings, use, last_ns, stamp_ns, shown
            ):
                self._push(at_ns, record)
        if (begin_ns - self.begin_ns) // INVENTORY_NS != (end_ns - self.begin_ns) // INVENTORY_NS:
            for row in range(len(self._settings)):
                self._tell_engine(row, end_ns)

    def _shown(self, rows: list[int], begin_ns: int, end_ns: int) -> dict[int, list[Shown]]:
        found: dict[int, list[Shown]] = {}
        for one in self._running:
            covered = min(one.end_ns, end_ns) - max(one.begin_ns, begin_ns)
            if one.told.effect is None or covered <= 0:
                continue
            shown = Shown(effect=one.told.effect, share=covered / (end_ns - begin_ns))
            for row in set(one.rows.tolist()).intersection(rows):
                found.setdefault(row, []).append(shown)
        return found

    def _tell_engine(self, row: int, at_ns: int, state: EngineState = "running") -> None:
        setting, place = self._settings[row], self.places[row]
        pids = tuple(pid for pid, _, _ in place.processes(setting))
        worker = setting.rank_role == "worker"
        watched = tuple(range(setting.ranks))
        self._push(
            at_ns,
            Engine(
                engine_id=place.engine_id,
                host=place.host,
                at_ns=at_ns,
                state=state,
                framework=setting.framework,
                process_start_ns=int(self._start_ns[row]),
                version=setting.version,
                model=setting.model,
                port=place.port,
                source=setting.source,
                pids=pids,
                ranks=1 if worker else setting.ranks,
                agent_version="simulated",
                iterations_seen=int(self._count[row]),
                iterations_missed=0,
                engine_iterations=int(self._sequence[row]),
                agent_cpu_ratio=0.01,
                records_dropped=0,
                watched_ranks=watched,
                sources=tuple(setting.source for _ in watched),
                device_ids=place.device_ids(setting),
                poll_hz=1000,
                stack_hz=setting.stack_hz,
            ),
        )

    def _emit(self, end_ns: int) -> Window:
        """Give what was sent before the end of the window, and keep the rest."""
        sent = self._pending["at_ns"] < end_ns
        rows = self._pending[sent]
        self._pending = self._pending[~sent]
        # A worker's share is told before its core's iteration where both end together.
        order = np.lexsort((rows["rank"], ~rows["is_worker"], rows["engine"], rows["at_ns"]))
        others: list[_Timed] = []
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


def places_of(settings: Sequence[Setting], host_prefix: str) -> list[Place]:
    """Put engines that follow each other onto hosts until those are full."""
    places: list[Place] = []
    host_number, slot, room = 0, 0, 0
    for row, setting in enumerate(settings):
        fitting = setting.engines_per_host
        if setting.device is not None:
            fitting = min(fitting, max(setting.devices_per_host // setting.ranks, 1))
        is_other = row > 0 and setting.host != settings[row - 1].host
        if row == 0 or slot >= min(room, fitting) or is_other:
            host_number, slot, room = host_number + (row > 0), 0, fitting
        host = f"{host_prefix}-{host_number:04d}"
        port = FIRST_PORT + slot
        places.append(
            Place(
                engine_id=f"{host}:{port}",
                host=host,
                host_number=host_number,
                slot=slot,
                port=port,
            )
        )
        slot += 1
    return places


def _open_rows(rows: Rows) -> Rows:
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


def _merged(times: list[int], iterations: Sequence[Record], others: list[_Timed]) -> list[Record]:
    timed: list[_Timed] = [*zip(times, iterations, strict=True), *others]
    timed.sort(key=_first)
    return [record for _, record in timed]


def _first(timed: _Timed) -> int:
    return timed[0]


def _at(message: Message) -> int:
    return message.at_ns


def _identity(setting: Setting) -> tuple[object, ...]:
    """What cannot change in a running engine."""
    return setting.framework, setting.version, setting.model, setting.ranks
