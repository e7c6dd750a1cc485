"""Run a query on the stored batches and print the answer.

The tables to ask are batches_view, incidents_view, engines_view, hosts and processes.
"""

import argparse
import os
from pathlib import Path

from latencyprism.errors import CommandError, need
from schemas.settings import read_settings, section

MOST_ROWS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("query", help="one SELECT statement")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML)")


def run(arguments: argparse.Namespace) -> int:
    """Print the rows as a table."""
    need("clickhouse_connect", "stream")
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from rich.console import Console
    from rich.table import Table

    from streams.sinks.base import SinkUnavailable
    from streams.sinks.clickhouse import ClickHouseSettings, connect, first_line

    store = section(read_settings(arguments.config), "store", ClickHouseSettings)
    try:
        client = connect(store, os.environ.get("LATENCYPRISM_CLICKHOUSE_PASSWORD", ""))
        result = client.query(arguments.query)
    except SinkUnavailable as err:
        raise CommandError(str(err)) from err
    except ClickHouseError as err:
        raise CommandError(f"the query failed: {first_line(err)}") from err
    table = Table(*result.column_names)
    for row in result.result_rows[:MOST_ROWS]:
        table.add_row(*("" if value is None else str(value) for value in row))
    console = Console()
    console.print(table)
    if len(result.result_rows) > MOST_ROWS:
        console.print(f"... and {len(result.result_rows) - MOST_ROWS} rows more: add a LIMIT.")
    client.close()
    return 0
