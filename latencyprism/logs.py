"""One line per event, on standard error: text for people, or a JSON object for a log store."""

import argparse
import json
import logging
import os
import sys
from datetime import UTC, datetime

from latencyprism.errors import CommandError

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
# Also how the workers that 'stream all' starts get to know the format.
FORMAT_VARIABLE = "LATENCYPRISM_LOG_FORMAT"


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """Add the flag that every long-running command has."""
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="least level that is printed"
    )


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add the flag that is given before the command."""
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        help=f"how log lines are written; {FORMAT_VARIABLE} sets it, too (default: text)",
    )


def choose_format(chosen: str | None) -> None:
    """Keep what the command line says for `start_logging`, here and in processes started here."""
    if chosen is not None:
        os.environ[FORMAT_VARIABLE] = chosen


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object on one line.

    Its keys are ``ts`` (RFC 3339, UTC), ``level``, ``logger`` and ``message``, and ``exc`` with
    the traceback where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        told = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exc"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def make_formatter(log_format: str) -> logging.Formatter:
    """Make the formatter of ``text`` or ``json``.

    Raises:
        CommandError: It is neither.
    """
    if log_format not in FORMATS:
        raise CommandError(
            f"{FORMAT_VARIABLE} is {log_format!r}: set it to one of {', '.join(FORMATS)}"
        )
    if log_format == "json":
        return JsonFormatter()
    return logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def start_logging(level: str) -> None:
    """Print log lines of at least this level, in the format that was chosen.

    Raises:
        CommandError: The environment names a format that there is not.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(os.environ.get(FORMAT_VARIABLE) or "text"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
