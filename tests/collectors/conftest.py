from __future__ import annotations

import os

import pytest

from collectors import capture as capture_module
from collectors import capture_requests as requests_module
from collectors.capture import Target
from collectors.discovery import EngineProcess, read_process
from collectors.engines import load


@pytest.fixture
def own_process() -> Target:
    """This very process, as if it were an engine: enough where nothing has to be read."""
    core = read_process(os.getpid())
    assert core is not None
    engine = EngineProcess(framework="vllm", name="8000", core=core)
    return Target("h:8000", "h", engine, load("vllm"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures without py-spy and without pauses: what is tested is who gets one."""
    monkeypatch.setattr(capture_module, "find_py_spy", lambda: None)
    monkeypatch.setattr(requests_module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(requests_module, "FIRST_RETRY_SECONDS", 0.01)
