"""Make this machine slow on purpose, for a while, and tell the truth about it.

'inject --list' shows the faults and whether they can be made here; 'inject NAME --dry-run' shows
what would be done. Everything is undone at the end of the time, on Ctrl-C, and also if this
command is killed; its truth is ended by the next one then. The truth goes to Kafka (section
[kafka], from --config), to a file with --truth, or only to standard output with --no-truth. Exit
status 0: done and undone; 1: it failed, or could not be undone; 2: it was refused and nothing was
changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from latencyprism.errors import CommandError, need
from schemas.codec import encode
from schemas.recording import line_of
from schemas.records import Fault
from schemas.settings import KafkaSettings, read_settings, section
from schemas.topics import FAULTS, key_of

if TYPE_CHECKING:
    from simulator.faults import Injector, Machine, Target
    from simulator.injection.run import Running

DELIVERY_SECONDS = 10.0
SEVERITIES = ("light", "medium", "heavy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("name", nargs="?", help="the fault, as --list shows it")
    parser.add_argument("--list", action="store_true", help="show the faults that there are")
    parser.add_argument("--json", action="store_true", help="with --list: for programs")
    parser.add_argument("--undo", action="store_true", help="undo what killed injections left")
    parser.add_argument("--dry-run", action="store_true", help="show the steps and change nothing")
    hard = parser.add_mutually_exclusive_group()
    hard.add_argument("--severity", choices=SEVERITIES, help="how hard (medium)")
    hard.add_argument("--intensity", type=float, metavar="X", help="how hard, in the fault's unit")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="(%(default)s)")
    parser.add_argument(
        "--most-seconds", type=float, default=3600.0, metavar="S", help="refuse more (%(default)s)"
    )
    add_target_arguments(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="append the truth to a recording"
    )
    parser.add_argument("--no-truth", action="store_true", help="only print the truth")


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare whom the fault is aimed at."""
    aim = parser.add_mutually_exclusive_group()
    aim.add_argument("--pid", type=int, nargs="+", default=[], help="processes of an engine")
    aim.add_argument("--engine", help="engine_id (host:port), port or pid of an engine here")
    parser.add_argument("--url", help="address of the engine's API")
    parser.add_argument("--device", type=int, nargs="+", default=[0], help="accelerators (0)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="folder for files (/var/tmp)")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    if arguments.undo:
        return _undo()
    settings = read_settings(arguments.config)
    host, engine_ids, target = _aim(arguments, settings)
    machine = _machine(arguments)
    if arguments.list:
        return _list(target, machine, arguments.json)
    if arguments.name is None:
        raise CommandError("name a fault: 'latencyprism inject --list' shows them")
    injector = _load(arguments.name)
    if arguments.dry_run:
        return _dry_run(injector, arguments, target, machine)
    return _inject(arguments, settings, target, machine, host, engine_ids)


def _inject(
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    target: Target,
    machine: Machine,
    host: str,
    engine_ids: tuple[str, ...],
) -> int:
    from simulator.injection.run import InjectionError, Refused, injected

    status = 0
    # Whoever ends us kindly gets the truth about the end, too.
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        # Refused before Kafka is asked: the answer comes at once.
        check(arguments, target, machine)
        with (
            Truth(arguments, settings) as truth,
            injected(
                arguments.name,
                severity=arguments.severity,
                intensity=arguments.intensity,
                target=target,
                seconds=arguments.seconds,
                most_seconds=arguments.most_seconds,
                machine=machine,
                publish=truth.publish,
                engine_ids=engine_ids,
                host=host,
            ) as running,
        ):
            _tell_begun(running, arguments.seconds)
            try:
                running.wait()
            except KeyboardInterrupt:
                status = 130
                _say("undoing it")
    except Refused as err:
        raise CommandError(f"{arguments.name}: {err}") from err
    except (InjectionError, TruthError) as err:
        _say(str(err))
        return 1
    _say(f"{arguments.name} is undone")
    return status


def check(arguments: argparse.Namespace, target: Target, machine: Machine) -> None:
    """Refuse what cannot be made here, with all that is in the way."""
    from simulator.injection.run import Refused, refuse_long, strength_of

    injector = _load(arguments.name)
    found = injector.obstacles(target, machine)
    for ask in (
        lambda: strength_of(injector, arguments.severity, arguments.intensity),
        lambda: refuse_long(arguments.seconds, arguments.most_seconds),
    ):
        try:
            ask()
        except Refused as err:
            found.append(str(err))
    if found:
        raise Refused("; ".join(found))


class TruthError(Exception):
    """The truth could not be told; the text ends with what to do."""


class Truth:
    """Tell what was injected: on standard output, to a file, to Kafka.

    Raises:
        CommandError: The file cannot be written, or Kafka does not answer or lacks the topic.
    """

    def __init__(self, arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
        self._file: BinaryIO | None = None
        self._kafka: KafkaTruth | None = None
        if arguments.truth is not None:
            try:
                self._file = arguments.truth.open("ab")
            except OSError as err:
                raise CommandError(
                    f"cannot write {arguments.truth} ({err.strerror}): choose another --truth"
                ) from err
        # A file is enough, unless a broker is named as well.
        if not arguments.no_truth and (arguments.truth is None or arguments.config is not None):
            self._kafka = KafkaTruth(section(settings, "kafka", KafkaSettings))

    def __enter__(self) -> Truth:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def publish(self, fault: Fault) -> None:
        """Tell it everywhere.

        Raises:
            TruthError: Somewhere it could not be told.
        """
        line = line_of(fault)
        sys.stdout.write(line.decode())
        sys.stdout.flush()
        if self._file is not None:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as err:
                raise TruthError(
                    f"the truth could not be written ({err.strerror}): make room there, and take "
                    "it from the output above"
                ) from err
        if self._kafka is not None:
            self._kafka.publish(fault)


class KafkaTruth:
    """Send the truth to its topic, and know that it arrived."""

    def __init__(self, settings: KafkaSettings) -> None:
        need("confluent_kafka", "collect")
        from confluent_kafka import Producer

        from streams.broker import BrokerError, admin_client, existing_partitions

        self._servers = settings.bootstrap_servers
        try:
            topics = existing_partitions(admin_client(settings), settings)
        except BrokerError as err:
            raise CommandError(
                f"nothing was injected, for the truth has no place: {err}; or use --truth FILE or "
                "--no-truth"
            ) from err
        if FAULTS.name not in topics:
            raise CommandError(
                f"Kafka has no topic {FAULTS.name}: create it with 'latencyprism topics --create', "
                "or use --truth FILE or --no-truth"
            )
        milliseconds = str(round(DELIVERY_SECONDS * 1000))
        options = settings.client_options() | {"message.timeout.ms": milliseconds}
        self._producer: Any = Producer(options | {"log_level": 0})
        self._errors: list[str] = []

    def publish(self, fault: Fault) -> None:
        """Send it and wait until the broker has it.

        Raises:
            TruthError: It has not.
        """
        self._producer.produce(
            FAULTS.name, key=key_of(fault), value=encode(fault), on_delivery=self._delivered
        )
        left = self._producer.flush(DELIVERY_SECONDS + 1)
        if left or self._errors:
            why = self._errors.pop() if self._errors else "no answer"
            raise TruthError(
                f"Kafka at {self._servers} did not take the truth ({why}): see that the broker "
                "runs; the truth is in the output above"
            )

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._errors.append(str(error))


def _aim(
    arguments: argparse.Namespace, settings: dict[str, Any]
) -> tuple[str, tuple[str, ...], Target]:
    """Give the host's name, the engines that should feel it, and the target."""
    from collectors.config import CollectSettings
    from latencyprism.engines import engines_here, find_engine
    from simulator.faults import Target

    collect = section(settings, "collect", CollectSettings)
    host = collect.host or socket.gethostname()
    url = arguments.url.rstrip("/") if arguments.url else None
    devices = tuple(arguments.device)
    if arguments.engine is None:
        pids = tuple(arguments.pid)
        engines = engines_here(collect, host)[1] if pids else {}
        hit = tuple(name for name, engine in engines.items() if set(pids) & set(engine.roles))
        return host, hit, Target(pids=pids, url=url, devices=devices)
    engine, _ = find_engine(collect, arguments.engine, host)
    if url is None and engine.port is not None:
        url = f"http://127.0.0.1:{engine.port}"
    pids = (engine.core.pid, *(pid for pid in engine.roles if pid != engine.core.pid))
    return host, (f"{host}:{engine.name}",), Target(pids=pids, url=url, devices=devices)


def _machine(arguments: argparse.Namespace) -> Machine:
    from simulator.faults import Machine

    if arguments.scratch is None:
        return Machine()
    if not arguments.scratch.is_dir():
        raise CommandError(f"--scratch {arguments.scratch} is no folder: make it, or name another")
    return Machine(scratch=arguments.scratch.resolve())


def _load(name: str) -> Injector:
    from simulator.faults import load

    try:
        return load(name)
    except ValueError as err:
        raise CommandError(str(err)) from err


def _list(target: Target, machine: Machine, as_json: bool) -> int:
    from simulator.faults import available

    told = [_describe(name, target, machine) for name in available()]
    if as_json:
        print(json.dumps(told, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column("FAULT", no_wrap=True)
    table.add_column("WHAT IT DOES (light / medium / heavy), NEEDS", ratio=3)
    table.add_column("CAN BE MADE HERE", ratio=2)
    for one in told:
        levels = " / ".join(f"{one['levels'][severity]:g}" for severity in SEVERITIES)
        needs = ", ".join(_needs(one["needs"])) or "nothing"
        what = f"{one['summary']} ({levels} {one['unit']}); needs {needs}"
        table.add_row(one["name"], what, "; ".join(one["obstacles"]) or "yes")
    Console(highlight=False, markup=False).print(table)
    return 0


def _describe(name: str, target: Target, machine: Machine) -> dict[str, Any]:
    injector = _load(name)
    return {
        "name": name,
        "summary": injector.summary,
        "touches": injector.touches,
        "causes": injector.causes,
        "unit": injector.unit,
        "levels": dataclasses.asdict(injector.levels),
        # JSON has no infinity.
        "limits": [injector.limits[0], min(injector.limits[1], sys.float_info.max)],
        "intermittent": injector.intermittent,
        "needs": dataclasses.asdict(injector.needs),
        "obstacles": injector.obstacles(target, machine),
    }


def _needs(needs: dict[str, Any]) -> list[str]:
    named = {"replica": "the replica", "target": "an engine"}
    found = [named.get(name, name) for name, value in needs.items() if value is True]
    found += [str(one) for value in needs.values() if isinstance(value, tuple) for one in value]
    return found


def _dry_run(
    injector: Injector, arguments: argparse.Namespace, target: Target, machine: Machine
) -> int:
    from simulator.injection.run import Refused, lay_out, strength_of

    obstacles = injector.obstacles(target, machine)
    for obstacle in obstacles:
        print(f"in the way: {obstacle}")
    try:
        strength = strength_of(injector, arguments.severity, arguments.intensity)
    except Refused as err:
        raise CommandError(f"{arguments.name}: {err}") from err
    try:
        steps = lay_out(injector, strength, target, machine)
    except Refused as err:
        if obstacles:
            print("there is no plan as long as this is so")
            return 0
        raise CommandError(f"{arguments.name}: {err}") from err
    print(f"{injector.summary}; {injector.touches}")
    print_lines(line for step in steps for line in step.show())
    print(f"all undone after {arguments.seconds:g} s at the latest")
    return 0


def print_lines(lines: Iterable[str]) -> None:
    """Print each on a line of its own, indented."""
    for line in lines:
        print(f"  {line}")


def _undo() -> int:
    from simulator.injection.journal import Journals, usual_folder
    from simulator.injection.steps import StepError
    from simulator.injection.undo import recover, strange

    try:
        journals = Journals(usual_folder())
    except StepError as err:
        raise CommandError(str(err)) from err
    found = recover(journals)
    for undone in found:
        print(undone)
    for journal in journals.all():
        if journal.is_kept():
            print(f"{journal.name} goes on: 'kill {journal.keeper_pid}' undoes it")
    unknown = strange(journals)
    for text in unknown:
        print(text)
    if not found and not unknown:
        print("nothing was left behind")
    return 1 if unknown or any(undone.error for undone in found) else 0


def _tell_begun(running: Running, seconds: float) -> None:
    for note in running.notes:
        _say(note)
    count = len(running.workers)
    how = f" in {count} processes" if count else ""
    _say(f"{running.fault.name} is on{how}, for {seconds:g} s; Ctrl-C undoes it")


def _say(text: str) -> None:
    print(f"latencyprism inject: {text}", file=sys.stderr, flush=True)


def _raise_terminated(_number: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)
