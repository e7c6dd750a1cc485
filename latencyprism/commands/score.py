"""Score verdicts and incidents against the truth, or a recorded data set by a protocol.

With FILEs, recordings that hold faults, batches and alerts, or with --kafka, the topics: every
fault of 'latencyprism.faults.v1' is compared with what the analysis said. One incident is expected
of each engine that a fault hits; a control expects none.

With --normal, batches of a healthy engine in a CSV file of the paper's artifact (vLLM or SGLang,
plain or .gz), and slow ones from --abnormal or by slowing healthy ones down (--factors).
--protocol paper: learn some rows, then 1,000 healthy batches and 200 slow ones, 20 times over. Each
batch is judged by the paper's charts over our baseline, as it is after the learning: the excess of
one batch (point) or the mean of ten (window) above 15 %, or above the mean of the learnt rows by
three standard deviations (point3s, window3s); and by the product's own judge, which goes on
learning (ours). All 200 count as slow, of 'spikes' and 'ramp' too.
--protocol prequential: each batch is predicted and judged before it is learnt, in the order of
time and with the jobs shuffled; an incident is an alarm's begin, and a batch that is slow alone
is none.
The files have no prefill tokens. They are derived: for vLLM from the requests that join between
one batch and the next of the same job (batch sizes, mean output) and from those that the load keeps
going and that do not decode (its lengths and concurrency are in names such as in256_out128_conc8),
within a budget of 2,048 tokens; for SGLang from the forward mode. A live agent reads them from the
engine. No duration is used for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latencyprism.errors import CommandError, need

if TYPE_CHECKING:
    from rich.console import RenderableType

    from schemas.records import Record
    from simulator.datasets import Sample
    from simulator.score import Observed

STRATEGIES = "point,window,point3s,window3s,ours"
PREQUENTIAL = "prequential"
FACTORS = "1.05,1.1,1.2,1.3,1.5,2,4.5,+20ms,+100ms,spikes,ramp"

DEFAULTS: dict[str, Any] = {
    "truth": (),
    "guard_ms": 250.0,
    "grace_seconds": 5.0,
    "grace_batches": 20,
    "seed": 1,
    "protocol": "paper",
    "strategy": STRATEGIES,
    "split": "random",
    "training": 10_000,
}
OF_KAFKA = ("from", "until", "config")
OF_RECORDS = ("truth", "guard-ms", "grace-seconds", "grace-batches", "seed")
OF_DATA_SETS = (
    *("abnormal", "factors", "protocol", "seeds"),
    *("strategy", "split", "training", "decode-only"),
)
OF_THE_PAPER = ("abnormal", "factors", "strategy", "split", "training")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="recording (.jsonl.gz)")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - for the output")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a .png or .svg")
    _add_truth(parser.add_argument_group("truth"))
    _add_data_sets(parser.add_argument_group("recorded data sets"))


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and write what was asked for."""
    need("numpy", "gym")
    _refuse_strangers(arguments)
    for name, value in DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    _check(arguments)
    if arguments.picture is not None:
        need("matplotlib", "gym")
    return _score_data_set(arguments) if arguments.normal else _score_records(arguments)


def _add_truth(group: Any) -> None:
    group.add_argument("--kafka", action="store_true", help="read the topics instead of files")
    group.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    group.add_argument(
        "--from",
        dest="begin",
        metavar="TIME",
        help="of Kafka: ISO 8601 or seconds; begin before the faults do (all)",
    )
    group.add_argument("--until", metavar="TIME", help="of Kafka, likewise (now)")
    group.add_argument(
        "--truth",
        type=Path,
        action="append",
        metavar="FILE",
        help="take faults and inventory from this, and only those, as of a run that was replayed; "
        "may be repeated",
    )
    group.add_argument(
        "--guard-ms",
        type=float,
        metavar="MS",
        help=f"no label this close to a fault's begin or end ({DEFAULTS['guard_ms']:g})",
    )
    group.add_argument(
        "--grace-seconds",
        type=float,
        metavar="S",
        help=f"an incident may fire so long after a fault ({DEFAULTS['grace_seconds']:g})",
    )
    group.add_argument(
        "--grace-batches",
        type=int,
        metavar="N",
        help="or so many batches, if that is later, but not after 30 s "
        f"({DEFAULTS['grace_batches']})",
    )
    group.add_argument("--seed", type=int, help=f"of the intervals ({DEFAULTS['seed']})")


def _add_data_sets(group: Any) -> None:
    group.add_argument("--normal", type=Path, metavar="CSV", help="batches of a healthy engine")
    group.add_argument("--abnormal", type=Path, metavar="CSV", help="batches of a slow one")
    group.add_argument(
        "--factors",
        metavar="LIST",
        help=f"how healthy ones are slowed down ({FACTORS}; with --abnormal: not)",
    )
    group.add_argument(
        "--protocol",
        choices=("paper", PREQUENTIAL),
        help=f"trials with slow batches, or all of it healthy ({DEFAULTS['protocol']})",
    )
    group.add_argument("--seeds", type=int, metavar="N", help="trials (20), or shuffled orders (4)")
    group.add_argument("--strategy", metavar="LIST", help=f"which judges ({STRATEGIES})")
    group.add_argument(
        "--split",
        choices=("random", "group"),
        help=f"shuffle rows, or hold whole jobs out ({DEFAULTS['split']})",
    )
    group.add_argument(
        "--training",
        type=int,
        metavar="N",
        help=f"batches learnt before ({DEFAULTS['training']:,})",
    )
    group.add_argument("--decode-only", action="store_true", help="leave batches with prefill out")


def _refuse_strangers(arguments: argparse.Namespace) -> None:
    """Refuse flags that would change nothing here."""
    sources = [bool(arguments.files), arguments.kafka, arguments.normal is not None]
    if sum(sources) != 1:
        raise CommandError("give one of: recordings, --kafka, --normal CSV")
    if arguments.normal is not None:
        _refuse(arguments, (*OF_KAFKA, *OF_RECORDS), "with --normal")
    else:
        _refuse(arguments, OF_DATA_SETS, "without --normal CSV")
    if not arguments.kafka:
        _refuse(arguments, OF_KAFKA, "without --kafka")
    if arguments.protocol == PREQUENTIAL:
        _refuse(arguments, OF_THE_PAPER, f"in --protocol {PREQUENTIAL}")


def _refuse(arguments: argparse.Namespace, flags: Sequence[str], where: str) -> None:
    for flag in flags:
        name = "begin" if flag == "from" else flag.replace("-", "_")
        value = getattr(arguments, name)
        if value is not None and value is not False:
            raise CommandError(f"--{flag} has no place {where}: leave it out")


def _check(arguments: argparse.Namespace) -> None:
    least = {"seeds": 0 if arguments.protocol == PREQUENTIAL else 1, "training": 1}
    for name, value in least.items():
        given = getattr(arguments, name)
        if given is not None and given < value:
            raise CommandError(f"--{name} is {given}: give {value} or more")
    picture = arguments.picture
    if picture is not None and picture.suffix not in (".png", ".svg"):
        raise CommandError(f"--picture {picture}: choose a name that ends in .png or .svg")
    for name in ("guard_ms", "grace_seconds", "grace_batches"):
        if not 0 <= getattr(arguments, name) < 1e9:
            flag = f"--{name.replace('_', '-')}"
            raise CommandError(f"{flag} is {getattr(arguments, name):g}: give 0 or more")
    _refuse_overwriting(arguments)


def _refuse_overwriting(arguments: argparse.Namespace) -> None:
    from latencyprism.commands.record import is_same_file

    json_path = None if arguments.json in (None, "-") else Path(arguments.json)
    read = [*arguments.files, *arguments.truth, arguments.normal, arguments.abnormal]
    for path in (json_path, arguments.picture):
        if any(is_same_file(path, other) for other in read):
            raise CommandError(f"{path} would replace what is read: choose another file")


def _score_records(arguments: argparse.Namespace) -> int:
    from simulator.score import Options, render, score_observed, to_json

    options = Options(
        guard_ns=int(arguments.guard_ms * 1e6),
        grace_ns=int(arguments.grace_seconds * 1e9),
        grace_batches=arguments.grace_batches,
        seed=arguments.seed,
    )
    observed = _observed(arguments)
    _check_content(observed)
    found = score_observed(observed, options)
    _show(arguments, render(found), to_json(found))
    if arguments.picture is not None:
        from simulator.score.picture import draw

        _draw(draw, found, arguments.picture)
    return 0


def _observed(arguments: argparse.Namespace) -> Observed:
    from latencyprism.commands.record import records_in
    from schemas.recording import RecordingError
    from schemas.records import Engine, Fault, HostReading
    from simulator.score import collect, merge

    parts = [collect(_of_kafka(arguments))] if arguments.kafka else []
    path_of: dict[str, Path] = {}
    try:
        for path in arguments.files:
            part = collect(records_in(path))
            _refuse_two_analyses(part, path, path_of)
            parts.append(part)
        for path in arguments.truth:
            told = (
                one for one in records_in(path) if isinstance(one, Fault | Engine | HostReading)
            )
            parts.append(collect(told))
    except RecordingError as err:
        raise CommandError(str(err)) from err
    return merge(parts)


def _refuse_two_analyses(part: Observed, path: Path, path_of: dict[str, Path]) -> None:
    for engine_id in sorted(part.judged):
        if engine_id in path_of:
            raise CommandError(
                f"{path_of[engine_id]} and {path} both have results of {engine_id}, which would be "
                "mixed: give the results of one analysis, and the other file with --truth for its "
                "faults alone"
            )
        path_of[engine_id] = path


def _check_content(observed: Observed) -> None:
    if not observed.points:
        raise CommandError(
            "there are no judged batches, so nothing can be scored: where the recording has "
            "iterations only, run 'latencyprism replay RUN --to RESULTS' and 'latencyprism score "
            "RESULTS --truth RUN'"
        )
    if not observed.episodes:
        raise CommandError(
            "there is no truth, neither a fault nor a control, so nothing can be scored: give the "
            "recording that has it with --truth, or make one with 'latencyprism inject'"
        )


def _of_kafka(arguments: argparse.Namespace) -> Iterator[Record]:
    need("confluent_kafka", "collect")
    from latencyprism.commands.record import open_history, times_of, warn_of_unreadable
    from schemas.settings import read_settings
    from schemas.topics import ALERTS, BATCHES, ENGINES, FAULTS
    from streams.broker import BrokerError

    begin_ns, end_ns = times_of(arguments)
    history = open_history(
        read_settings(arguments.config),
        topics=(FAULTS, ENGINES, BATCHES, ALERTS),
        begin_ns=begin_ns,
        end_ns=end_ns,
        engine_ids=(),
    )
    try:
        for found in history:
            yield found.record
    except BrokerError as err:
        raise CommandError(str(err)) from err
    warn_of_unreadable(history)


def _score_data_set(arguments: argparse.Namespace) -> int:
    need("river", "gym")
    from simulator.datasets import DatasetError
    from simulator.score.data_picture import draw
    from simulator.score.data_report import render, to_json
    from simulator.score.paper import ProtocolError

    try:
        found = _play(arguments)
    except (DatasetError, ProtocolError) as err:
        raise CommandError(str(err)) from err
    _show(arguments, render(found), to_json(found))
    if arguments.picture is not None:
        _draw(draw, found, arguments.picture)
    return 0


def _play(arguments: argparse.Namespace) -> Any:
    """Play the protocol and add what a reader has to know."""
    from dataclasses import replace

    from simulator.score import paper, prequential

    normal, notes = _samples(arguments, arguments.normal)
    found: Any
    if arguments.protocol == PREQUENTIAL:
        orders = 4 if arguments.seeds is None else arguments.seeds
        with _progress(orders + 1) as advance:
            found = prequential.play(normal, orders, advance)
        return replace(found, notes=notes)
    abnormal: list[Sample] = []
    if arguments.abnormal is not None:
        abnormal, more = _samples(arguments, arguments.abnormal)
        notes += (*more, _note_on(abnormal))
    protocol = paper.Protocol(
        split=arguments.split,
        seeds=20 if arguments.seeds is None else arguments.seeds,
        training=arguments.training,
        strategies=_strategies(arguments.strategy),
        disturbances=_factors(arguments.factors, "" if abnormal else FACTORS),
    )
    with _progress(protocol.seeds) as advance:
        found = paper.play(normal, protocol, abnormal, advance)
    return replace(found, notes=notes)


def _samples(arguments: argparse.Namespace, path: Path) -> tuple[list[Sample], tuple[str, ...]]:
    from simulator.datasets import bad_rows_of, read_dataset

    dataset = read_dataset(path)
    kept = [one for one in dataset.samples if one.decodes_only or not arguments.decode_only]
    if not kept:
        raise CommandError(f"{path} has no batch without prefill: leave --decode-only out")
    bad = bad_rows_of(dataset)
    is_told = dataset.format == "sglang"
    source = "the forward mode" if is_told else "the requests that join or do not decode"
    return kept, (
        f"{path.name}: {len(kept):,} batches of {dataset.format}; prefill tokens derived from "
        f"{source}.",
        *([bad + "."] if bad else []),
    )


def _note_on(abnormal: list[Sample]) -> str:
    return (
        f"Slow batches are drawn with replacement from {len(abnormal)}; where they are of another "
        "engine than the healthy ones, its own speed is part of the slowdown."
    )


def _strategies(text: str) -> tuple[Any, ...]:
    from simulator.score.strategies import STRATEGIES as known

    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise CommandError(f"no strategy {name!r}: choose of {', '.join(known)}")
    return names


def _factors(given: str | None, usual: str) -> tuple[str, ...]:
    from simulator.score.disturb import disturbance

    text = usual if given is None else given
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        try:
            disturbance(name)
        except ValueError as err:
            raise CommandError(f"--factors: {err}") from err
    return names


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far it is; standard output belongs to the result."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("judging", total=total)
        yield lambda done: progress.update(task, completed=done)


def _show(arguments: argparse.Namespace, tables: RenderableType, text: bytes) -> None:
    from rich.console import Console

    if arguments.json == "-":
        print(text.decode())
        return
    # A pipe has no width; tables that are cut to 80 columns say nothing.
    console = Console()
    Console(width=max(console.width, 176)).print(tables, highlight=False)
    if arguments.json is not None:
        try:
            Path(arguments.json).write_bytes(text)
        except OSError as err:
            raise CommandError(
                f"cannot write {arguments.json} ({err.strerror}): choose another file"
            ) from err


def _draw(draw: Any, found: Any, path: Path) -> None:
    try:
        draw(found, path)
    except OSError as err:
        raise CommandError(f"cannot write {path} ({err.strerror}): choose another file") from err
