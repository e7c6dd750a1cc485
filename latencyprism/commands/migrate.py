"""Create or update the ClickHouse tables; safe to run again."""

import argparse
import os
from pathlib import Path

from latencyprism.errors import CommandError, need
from schemas.settings import read_settings, section


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")


def run(arguments: argparse.Namespace) -> int:
    """Apply what is missing and say what was done."""
    need("clickhouse_connect", "stream")
    from streams.sinks.base import SinkUnavailable
    from streams.sinks.clickhouse import ClickHouseSettings, connect, migrate

    store = section(read_settings(arguments.config), "store", ClickHouseSettings)
    try:
        client = connect(store, os.environ.get("LATENCYPRISM_CLICKHOUSE_PASSWORD", ""))
    except SinkUnavailable as err:
        raise CommandError(str(err)) from err
    applied = migrate(client)
    client.close()
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("the tables are up to date")
    return 0
