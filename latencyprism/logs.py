"""One line per event, on standard error."""

import argparse
import logging
import sys

LEVELS = ("debug", "info", "warning", "error")


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """Add the flag that every long-running command has."""
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="least level that is printed"
    )


def start_logging(level: str) -> None:
    """Print log lines of at least this level."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        force=True,
    )
