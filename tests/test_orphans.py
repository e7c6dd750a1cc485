"""What is left when the supervisor of the workers is killed: nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: "object", seconds: float = 30.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.process
def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    """An orphaned store would keep the database's folder locked for whoever comes next."""
    config = tmp_path / "latencyprism.toml"
    # Nobody listens there: each worker waits for the broker, which is enough to be alive.
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    command = [sys.executable, "-m", "latencyprism", "stream", "all", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ)) as supervisor:
        assert supervisor.stderr is not None
        try:
            assert wait_until(lambda: len(children_of(supervisor.pid)) == 3)
            workers = children_of(supervisor.pid)
            # Each has said that it waits, so each has asked to end with its parent.
            said = b""
            while said.count(b"Waiting for it") < 3:
                said += supervisor.stderr.readline()
        finally:
            supervisor.send_signal(signal.SIGKILL)
        supervisor.stderr.close()

    assert wait_until(lambda: not any(is_alive(pid) for pid in workers))
