"""Say what can be read on this host, what cannot, and what to do about it.

Nothing is changed and nothing is sent. The exit status is 1 if something that was found cannot
be watched batch by batch.
"""

import argparse
import json
import sys
from pathlib import Path

from latencyprism.checks import Finding
from latencyprism.errors import CommandError
from schemas.settings import KafkaSettings, read_settings, section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")
    parser.add_argument(
        "--json", action="store_true", help="print a list of objects instead of lines"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and print it."""
    findings = look(arguments.config)
    if arguments.json:
        json.dump([as_json(finding) for finding in findings], sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print(findings)
    return 1 if any(finding.state == "bad" for finding in findings) else 0


def look(config: Path | None) -> list[Finding]:
    """Make all checks."""
    from collectors.config import CollectSettings
    from latencyprism.checks.devices import check_devices
    from latencyprism.checks.engines import check_engines
    from latencyprism.checks.host import check_broker, check_installation, check_permissions

    settings = read_settings(config)
    collect = section(settings, "collect", CollectSettings)
    try:
        engines = check_engines(collect)
    except (LookupError, ValueError) as err:
        raise CommandError(f"section [collect]: {err}") from err
    return [
        *check_installation(),
        *check_permissions(),
        check_broker(section(settings, "kafka", KafkaSettings)),
        *check_devices(collect),
        *engines,
    ]


def as_json(finding: Finding) -> dict[str, object]:
    """Give a finding as ``--json`` prints it."""
    return {
        "state": finding.state,
        "subject": finding.subject,
        "text": finding.text,
        "details": finding.details,
    }


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    marks = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}
    for finding in findings:
        console.print(
            f"{marks[finding.state]} {finding.subject}: {escape(finding.text)}",
            highlight=False,
            soft_wrap=True,
        )
