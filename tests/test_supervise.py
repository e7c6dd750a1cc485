"""`stream all`: one process of each role, restarted when it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latencyprism.commands.stream import ROLES, supervise, worker_commands

pytestmark = pytest.mark.process

LIVES = """\
import os, pathlib, sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(60)
"""
TIDIES_UP = (
    """\
import os, pathlib, signal, sys, time
def stop(*_):
    pathlib.Path(sys.argv[1] + ".tidy").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
"""
    + LIVES
)
DIES = LIVES.replace("time.sleep(60)", "sys.exit(3)")


@contextmanager
def supervised(commands: dict[str, list[str]]) -> Iterator[Callable[[], int | None]]:
    """Supervise in a thread; gives a function that ends it and returns the exit status."""
    stop = threading.Event()
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(supervise(commands, stop)))
    thread.start()

    def end() -> int | None:
        stop.set()
        thread.join(30)
        return statuses[0] if statuses else None

    try:
        yield end
    finally:
        end()


def command(script: str, path: Path) -> list[str]:
    return [sys.executable, "-c", script, str(path)]


def pids(path: Path, count: int) -> list[int]:
    """Wait until so many processes have entered themselves."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = path.read_text().split() if path.exists() else []
        if len(lines) >= count:
            return [int(line) for line in lines]
        time.sleep(0.02)
    raise AssertionError(f"not {count} processes in {path.name}")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_is_killed_is_started_again_and_the_others_stay(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with supervised({"one": command(LIVES, one), "two": command(LIVES, two)}):
        [first], [other] = pids(one, 1), pids(two, 1)
        os.kill(first, signal.SIGKILL)
        second = pids(one, 2)[1]
        assert second != first
        assert pids(two, 1) == [other]
        assert alive(other)


def test_a_worker_that_ends_at_once_is_started_again_and_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with supervised({"one": command(DIES, tmp_path / "one")}):
        assert len(set(pids(tmp_path / "one", 2))) == 2
    assert "one ended with status 3; starting it again in 1 s." in caplog.text


def test_stopping_ends_all_of_them(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with supervised({"one": command(LIVES, one), "two": command(LIVES, two)}) as end:
        started = pids(one, 1) + pids(two, 1)
        assert all(map(alive, started))
        assert end() == 0
    assert not any(map(alive, started))


def test_workers_are_asked_to_stop_so_that_they_can_finish(tmp_path: Path) -> None:
    one = tmp_path / "one"
    with supervised({"one": command(TIDIES_UP, one)}) as end:
        pids(one, 1)
        assert end() == 0
    assert (tmp_path / "one.tidy").exists()


def test_each_role_is_a_process_that_no_folder_of_the_user_can_confuse() -> None:
    commands = worker_commands(Path("my.toml"), "debug")
    assert list(commands) == list(ROLES)
    for role, line in commands.items():
        assert line[:6] == [sys.executable, "-P", "-m", "latencyprism", "stream", role]
        assert line[6:] == ["--log-level", "debug", "--config", "my.toml"]
    assert worker_commands(None, "info")["store"][6:] == ["--log-level", "info"]
