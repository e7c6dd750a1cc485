"""Play recorded batches of real engines: prediction, false alarms, detection, poisoning, speed.

Every file of healthy batches in ../shared/data beside the repository, or in the folder that
LATENCYPRISM_SHARED_DATA names, is played; slow batches are healthy ones that are made to take
longer. Everything starts from an empty memory, by seeds, so that a run can be repeated. No service
is needed. The controls and faults of a live engine and of a fleet are in 'make gym'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from benchmarks.detection.data import FOLDER, files, load
from benchmarks.detection.parts import PARTS, reports
from benchmarks.detection.report import render
from latencyprism.errors import CommandError, need
from simulator.datasets import DatasetError


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder (%(default)s)")
    parser.add_argument(
        "--only",
        type=_parts,
        default=tuple(PARTS),
        metavar="LIST",
        help=f"parts, by commas ({','.join(PARTS)})",
    )
    parser.add_argument(
        "--seeds", type=_whole, default=20, metavar="N", help="trials (%(default)s)"
    )
    parser.add_argument(
        "--processes", type=_whole, default=2, metavar="N", help="at once (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    given = parse(arguments)
    console = Console(width=max(Console().width, 190))
    paths = files(given.data)
    if not paths:
        console.print(
            f"{given.data} has no recorded batches, so there is nothing to measure: they are not "
            "published with the project. Set LATENCYPRISM_SHARED_DATA to the folder that has them."
        )
        return 0
    if "slowdowns" in given.only:
        try:
            need("sklearn", "bench")
        except CommandError as err:
            console.print(f"{err}, or leave 'slowdowns' out with --only", markup=False)
            return 2
    figures: dict[str, Any] = {}
    for path in paths:
        try:
            data = load(path)
        except DatasetError as err:
            console.print(str(err), highlight=False)
            continue
        jobs = len({row.job for row in data.rows})
        console.rule(f"{data.name}: {len(data.rows):,} batches, {jobs} jobs", align="left")
        figures[data.name] = _play(console, path, given)
    console.print("Negative controls and faults of a live engine and of a fleet: make gym")
    if given.json is not None:
        given.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return 0


def _play(console: Console, path: Path, given: argparse.Namespace) -> dict[str, list[Any]]:
    figures: dict[str, list[Any]] = {}
    for name, report, seconds in reports(path, given.only, given.seeds, given.processes):
        console.print(render(report), highlight=False)
        console.print(f"{name}: {seconds:.0f} s", style="dim", highlight=False)
        figures.setdefault(name, []).append(report.figures)
    return figures


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"no part {name!r}: choose of {', '.join(PARTS)}")
    return names


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few: give 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
