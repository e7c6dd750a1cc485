"""How often the right cause is named.

On public captures from light counters alone, with their normal halves as controls; on two
simulated faults at once. ``--calibrate`` counts how often answers are right in the gym by what they
rest on, and prints the table of models/causes/confidence.py anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.explain import calibration, doubles
from benchmarks.explain.captures import CaptureError
from benchmarks.explain.pairs import Judged, judge_all
from models.attribution import UNKNOWN
from models.causes.confidence import STEPS, TABLE
from simulator import faults
from simulator.fleet import presets

# Beside the repository, where it is not told.
FOLDER = (
    Path(
        os.environ.get(
            "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"
        )
    )
    / "root_cause"
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=FOLDER,
        help="captures: FRAMEWORK/PAIR/normal and abnormal (%(default)s)",
    )
    parser.add_argument("--only", choices=("pairs", "doubles"), help="one part of it")
    parser.add_argument(
        "--calibrate", action="store_true", help="count right answers in the gym instead"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; status 1 where a cause of a capture is wrong or a control is accused."""
    given = parse(arguments)
    console = Console(width=max(Console().width, 120))
    if given.calibrate:
        _calibrate(console)
        return 0
    went_well = True
    if given.only != "doubles":
        went_well = _pairs(console, given.data)
    if given.only != "pairs":
        _doubles(console)
    return 0 if went_well else 1


def _pairs(console: Console, folder: Path) -> bool:
    if not folder.is_dir():
        console.print(f"No captures in {folder}: skipped. Give their folder with --data.")
        return True
    try:
        judged = list(judge_all(folder))
    except CaptureError as err:
        console.print(str(err))
        return False
    pairs = [one for one in judged if one.right != UNKNOWN]
    controls = [one for one in judged if one.right == UNKNOWN]
    console.print(_judged_table("Captures with a fault, against one without", pairs))
    console.print(_judged_table("Halves of captures without a fault", controls))
    right = sum(one.is_right for one in pairs)
    false = sum(not one.is_right for one in controls)
    console.print(
        f"Right cause first in {right} of {len(pairs)} captures; "
        f"{false} of {len(controls)} controls accused."
    )
    return right == len(pairs) and not false


def _judged_table(title: str, judged: Sequence[Judged]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("framework", "capture", "injected", "named", "further", "pressure", "confidence"):
        table.add_column(name)
    for one in judged:
        found = one.found
        pressure = found.pressures.get(found.cause)
        table.add_row(
            one.framework,
            one.name,
            "-" if one.right == UNKNOWN else one.right,
            found.cause if one.is_right else f"[red]{found.cause}[/red]",
            ", ".join(found.others) or "-",
            "-" if pressure is None else f"{pressure:.2f}",
            f"{found.confidence:.2f}",
        )
    return table


def _doubles(console: Console) -> None:
    found = list(doubles.play(presets.available()))
    table = Table(title="Two simulated faults at once, both of medium severity")
    for name in ("engine", "faults", "told"):
        table.add_column(name)
    for one in found:
        if one.found and not all(one.listed):
            lost = [name for name, told in zip(one.names, one.listed, strict=True) if not told]
            table.add_row(one.preset, " and ".join(one.names), f"{one.told}, not {lost}")
    console.print(table)
    seen = [one for one in found if one.found]
    both = sum(all(one.listed) for one in seen)
    console.print(
        f"Both listed in {both} of {len(seen)} incidents ({both / max(len(seen), 1):.0%}); "
        f"{len(found) - len(seen)} of {len(found)} were not found."
    )


def _calibrate(console: Console) -> None:
    answers = list(calibration.play(faults.available()))
    fitted, counts = calibration.fit(answers)
    table = Table(title=f"{len(answers)} answers, firing and updated, while a fault was at work")
    for name in ("basis", "margin from", "answers", "right", "now", "fitted"):
        table.add_column(name)
    for basis, shares in fitted.items():
        for step, share in enumerate(shares):
            total, right = counts.get((basis, step), [0, 0])
            now = TABLE[basis][step]
            table.add_row(
                basis, f"{STEPS[step]:g}", str(total), str(right), f"{now:.2f}", f"{share:.2f}"
            )
    console.print(table)
    for basis, shares in fitted.items():
        console.print(f'    "{basis}": {shares},', highlight=False)


if __name__ == "__main__":
    sys.exit(main())
