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
from simulator.score import Score, merge, render, score, score_observed, to_json
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
        "--rounds", type=int, default=1, help="of everything simulated (%(default)s)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; status 1 if an injection did not go as planned."""
    given = parse(arguments)
    console = Console(width=max(Console().width, 140))
    known = (*faults.available(), *controls.available())
    names = tuple(given.names.split(",")) if given.names else known
    unknown = set(names) - set(known)
    if unknown:
        console.print(f"no fault or control named {', '.join(sorted(unknown))}: see --help")
        return 2
    given.data.mkdir(parents=True, exist_ok=True)
    went_well = True
    if given.only != "simulated":
        went_well = _real(console, given, names)
    if given.only != "real":
        _simulated(console, given, names)
    return 0 if went_well else 1


def _real(console: Console, given: argparse.Namespace, names: Sequence[str]) -> bool:
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
    found = score(read_recording(played.recording))
    _report(console, "real", found, given.data)
    _strays(console, played, found)
    return not played.failed


def _simulated(console: Console, given: argparse.Namespace, names: Sequence[str]) -> None:
    console.rule("Simulated fleet", align="left")
    found = score_observed(merge(simulated.play(names, given.rounds)))
    _report(console, "simulated", found, given.data)


def _effects(console: Console, played: real.Played) -> None:
    console.rule("Real faults on the replica", align="left")
    table = Table(
        title="What each did to the iterations, by the engine's own record", title_justify="left"
    )
    table.add_column("fault")
    table.add_column("severity")
    for name in ("iterations", "compared", "median", "mean", "p99"):
        table.add_column(name, justify="right")
    for one in played.effects:
        ratios = (one.median_ratio, one.mean_ratio, one.p99_ratio)
        table.add_row(
            one.fault.name,
            one.fault.severity or f"{one.fault.intensity:g}",
            str(one.iterations),
            str(one.compared),
            *("-" if ratio is None else f"x{ratio:.2f}" for ratio in ratios),
        )
    console.print(table)


def _strays(console: Console, played: real.Played, found: Score) -> None:
    """Show whether the machine was really slower when an incident fired that nobody injected."""
    if not found.false:
        return
    table = Table(
        title="Incidents that no fault explains, by the engine's own record", title_justify="left"
    )
    for name in ("after", "named", "said", "iterations really took"):
        table.add_column(name)
    for one in found.false:
        incident = one.incident
        end_ns = incident.end_ns or incident.begin_ns + real.QUIET_NS
        true_ratio = real.true_ratio_of(played, incident.begin_ns, end_ns)
        table.add_row(
            f"{(incident.begin_ns - found.begin_ns) / 1e9:.0f} s",
            incident.cause,
            f"x{incident.ratio:.2f}",
            "not known" if true_ratio is None else f"x{true_ratio:.2f}",
        )
    console.print(table)


def _report(console: Console, name: str, found: Score, folder: Path) -> None:
    console.print(render(found), highlight=False)
    (folder / f"{name}.json").write_bytes(to_json(found))
    draw(found, folder / f"{name}.png")
    console.print(f"Written: {folder / name}.json, {folder / name}.png", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
