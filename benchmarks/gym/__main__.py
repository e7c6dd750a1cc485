"""Make every fault and every control, real and simulated, and score what was said of them.

Real faults are made on a replica of an engine that runs on this machine, and undone; simulated ones
in a fleet that exists only as its records. Takes about 15 minutes on two cores. Nothing is scored
by what the analysis itself believes: the truth comes from the injectors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gym import real, simulated
from schemas.recording import read_recording
from simulator import controls, faults
from simulator.score import Score, render, score, to_json
from simulator.score.picture import draw


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gym", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("gym-data"), help="folder (%(default)s)")
    parser.add_argument("--only", choices=("real", "simulated"), help="one part of it")
    parser.add_argument("--names", help="faults and controls, by commas; all of them by default")
    parser.add_argument(
        "--severities", default="medium", help="of the real faults, by commas (%(default)s)"
    )
    parser.add_argument(
        "--engines", type=int, default=12, help="simulated engines of each kind (%(default)s)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite."""
    given = parse(arguments)
    console = Console(width=max(Console().width, 140))
    known = (*faults.available(), *controls.available())
    names = tuple(given.names.split(",")) if given.names else known
    unknown = set(names) - set(known)
    if unknown:
        console.print(f"no fault or control named {', '.join(sorted(unknown))}: see --help")
        return 2
    given.data.mkdir(parents=True, exist_ok=True)
    if given.only != "simulated":
        _real(console, given, names)
    if given.only != "real":
        _simulated(console, given, names)
    return 0


def _real(console: Console, given: argparse.Namespace, names: Sequence[str]) -> None:
    def say(line: str) -> None:
        console.print(line, highlight=False, style="dim")

    played = real.play(given.data / "real", names, tuple(given.severities.split(",")), say)
    _effects(console, played)
    for title, reasons in (("Not made here", played.refused), ("Failed", played.failed)):
        if reasons:
            table = Table(title=title, title_justify="left")
            table.add_column("fault")
            table.add_column("why")
            for name, reason in reasons.items():
                table.add_row(name, reason)
            console.print(table)
    _report(console, "real", score(read_recording(played.recording)), given.data)


def _simulated(console: Console, given: argparse.Namespace, names: Sequence[str]) -> None:
    console.rule("Simulated fleet", align="left")
    _report(console, "simulated", score(simulated.play(names, given.engines)), given.data)


def _effects(console: Console, played: real.Played) -> None:
    console.rule("Real faults on the replica", align="left")
    table = Table(
        title="What each did to the iterations, by the engine's own record", title_justify="left"
    )
    table.add_column("fault")
    table.add_column("severity")
    for name in ("iterations", "ratio", "p99 ratio"):
        table.add_column(name, justify="right")
    for row in real.effects(played):
        table.add_row(*row)
    console.print(table)


def _report(console: Console, name: str, found: Score, folder: Path) -> None:
    console.print(render(found), highlight=False)
    (folder / f"{name}.json").write_bytes(to_json(found))
    draw(found, folder / f"{name}.png")
    console.print(f"Written: {folder / name}.json, {folder / name}.png", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
