"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def chdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of ClickHouse inside this process, with our tables; for tests marked `pipeline`.

    chDB opens one folder per process, so the whole session has this one: take engine ids of your
    own.
    """
    pytest.importorskip("chdb", reason="no chDB: pip install 'latencyprism[demo]'")
    from streams.sinks.clickhouse import ClickHouseSettings, connect, migrate

    folder = tmp_path_factory.mktemp("chdb")
    client = connect(ClickHouseSettings(dsn=f"chdb:///{folder}"))
    migrate(client)
    yield client
    client.close()
