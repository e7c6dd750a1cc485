"""Entry point of ``latencyprism`` and ``python -m latencyprism``."""

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any, Protocol

from latencyprism import __version__
from latencyprism.errors import CommandError
from latencyprism.lifeline import follow_supervisor
from latencyprism.logs import add_log_format, choose_format
from schemas.settings import SettingsError

DESCRIPTION = """\
Watch running LLM inference engines (vLLM, ...) from outside, batch by batch, and tell a slowdown
that the workload explains from one that something broke. No change to the engine, no restart.
"""

EPILOG = """\
Start here:   latencyprism demo       the whole product on this machine, about two minutes
              latencyprism doctor     what can be read on this host, and what is in the way
In production: 'collect' on every inference host, 'stream all' beside Kafka and ClickHouse.
"""

# Name and module; the first sentence of the module's docstring is the command's help.
COMMANDS = (
    "demo",
    "doctor",
    "collect",
    "stream",
    "topics",
    "migrate",
    "sql",
    "explain",
    "incidents",
    "deadletters",
    "capture",
    "simulate",
    "inject",
    "record",
    "replay",
    "score",
)


class Command(Protocol):
    """What a module in `latencyprism.commands` offers."""

    __doc__: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's flags."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and give the exit status."""
        ...


def load_command(name: str) -> Command:
    """Import a command's module; what it needs beyond the core is imported when it runs."""
    module: Any = importlib.import_module(f"latencyprism.commands.{name}")
    command: Command = module
    return command


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="latencyprism",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"latencyprism {__version__}")
    add_log_format(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = load_command(name)
        text = command.__doc__.strip()
        child = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(child)
        child.set_defaults(run=command.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command that was asked for; a user's mistake is one line, never a traceback."""
    follow_supervisor()
    arguments = build_parser().parse_args(argv)
    choose_format(arguments.log_format)
    try:
        status: int = arguments.run(arguments)
    except (CommandError, SettingsError) as err:
        print(f"latencyprism {arguments.command}: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away; Python would complain at exit otherwise.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


if __name__ == "__main__":
    sys.exit(main())
