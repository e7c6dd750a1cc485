"""What `doctor` says of an engine, and what `capture` takes: by the rules of the agent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collectors import agent as agent_module
from collectors import scrape as scrape_module
from collectors.clock import Scrape
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, RankProcess, read_process
from collectors.engines import load
from collectors.scrape import ScrapeError
from collectors.stacks import AttachRefused, NotServing
from latencyprism.__main__ import main
from latencyprism.checks import Finding
from latencyprism.checks import engines as engine_checks
from latencyprism.commands import capture as capture_command
from latencyprism.engines import find_engine

Attached = list[int]


class FakeSampler:
    def stats(self) -> dict[str, int]:
        return {"rung": 1}

    def stop(self) -> None:
        pass


def own(pid: int | None = None) -> Process:
    found = read_process(pid or os.getpid())
    assert found is not None
    return found


def engine_of(ranks: tuple[RankProcess, ...] = (), **more: Any) -> EngineProcess:
    return EngineProcess(framework="vllm", name="8000", core=own(), port=8000, ranks=ranks, **more)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Check one engine; `attach` and `scrape` give or raise what the test says."""

    def check_one(
        engine: EngineProcess,
        attach: Callable[[int], Any],
        scrape: Callable[[], Any] = lambda: None,
        **settings: Any,
    ) -> list[Finding]:
        monkeypatch.setattr(engine_checks, "find_engines", lambda *_: [engine])
        monkeypatch.setattr(engine_checks, "attach", lambda pid, *_, **__: attach(pid))
        monkeypatch.setattr(scrape_module, "scrape", lambda *_: scrape())
        return engine_checks.check_engines(CollectSettings(host="h", **settings))

    return check_one


def refused(_: int) -> Any:
    raise AttachRefused("give it SYS_PTRACE")


def starting(_: int) -> Any:
    raise NotServing("no thread runs the loop")


def no_page() -> Any:
    raise ScrapeError("nobody answers")


def test_where_another_process_iterates_that_one_is_found(
    check: Callable[..., list[Finding]],
) -> None:
    def attach(pid: int) -> Any:
        return FakeSampler() if pid == os.getppid() else starting(pid)

    [finding] = check(engine_of(candidates=(own(os.getppid()),)), attach)
    assert finding.state == "ok"
    assert finding.details["pid"] == os.getppid()


def test_an_engine_that_still_starts_is_a_note(check: Callable[..., list[Finding]]) -> None:
    [finding] = check(engine_of(), starting, no_page)
    assert finding.state == "note"
    assert "look again when it serves" in finding.text
    [finding] = check(engine_of(), refused, no_page)
    assert finding.state == "bad"


def test_a_metrics_page_without_a_count_is_no_watching(
    check: Callable[..., list[Finding]],
) -> None:
    [finding] = check(engine_of(), refused, lambda: None)
    assert finding.state == "bad"
    assert "not watched: its metrics page has no count of iterations" in finding.text
    assert "interval means" not in finding.text
    assert finding.details["rung"] is None
    page = Scrape(
        at_ns=1,
        iterations=1,
        tokens=None,
        waiting_requests=None,
        running_requests=None,
        token_latency_seconds=None,
        token_latency_count=None,
    )
    [finding] = check(engine_of(), refused, lambda: page)
    assert "watched by interval means only" in finding.text
    assert finding.details["rung"] == "metrics"


@pytest.mark.parametrize(
    ("roles", "workers", "looked_at"),
    [
        (["worker"], True, 1),
        (["worker", "worker"], True, 3),
        (["worker", "worker"], False, 1),
        (["engine_core"], True, 2),
        (["engine_core"], False, 1),
    ],
)
def test_ranks_that_the_agent_leaves_alone_are_left_alone(
    roles: list[Any], workers: bool, looked_at: int, check: Callable[..., list[Finding]]
) -> None:
    attached: Attached = []

    def attach(pid: int) -> Any:
        attached.append(pid)
        return FakeSampler()

    ranks = tuple(
        RankProcess(process=own(), rank=number + 1, role=role) for number, role in enumerate(roles)
    )
    assert len(check(engine_of(ranks), attach, workers=workers)) == looked_at
    assert len(attached) == looked_at


@pytest.mark.parametrize("first", [True, False])
def test_a_framework_of_ones_own_takes_the_place_of_the_one_of_its_name(
    first: bool, check: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, ours = load("vllm"), load("vllm")
    asked: list[object] = []
    for framework in (mine, ours):
        monkeypatch.setattr(
            framework, "version", lambda _, it=framework: asked.append(it), raising=False
        )
    monkeypatch.setattr(agent_module, "load_file", lambda _: mine)
    monkeypatch.setattr(agent_module, "load", lambda _: ours)
    settings = {"engine_files": ("mine.toml",), "engines": ("vllm",) if first else ()}
    check(engine_of(), refused, no_page, **settings)
    assert asked == [mine]
    collect = CollectSettings(host="h", **settings)  # type: ignore[arg-type]
    monkeypatch.setattr("collectors.engines.find_engines", lambda *_: [engine_of()])
    assert find_engine(collect, None, "h")[1] is mine


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_a_capture_of_no_time_is_refused_at_once(
    seconds: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_command, "start_logging", lambda _: None)
    assert main(["capture", f"--seconds={seconds}"]) == 2
    assert "give a number above 0" in capsys.readouterr().err


def test_a_folder_that_the_user_names_may_be_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    config = tmp_path / "c.toml"
    config.write_text(f'[collect]\ncapture_folder = "{tmp_path}/link"\n')
    monkeypatch.setattr(capture_command, "start_logging", lambda _: None)
    monkeypatch.setattr(capture_command, "find_engine", lambda *_: (engine_of(), load("vllm")))
    monkeypatch.setattr("collectors.capture.find_py_spy", lambda: None)
    base = ["capture", "--seconds", "0.2", "--config", str(config)]
    assert main(base) == 2
    assert "is a link" in capsys.readouterr().err

    def refuse(_: Path) -> None:
        raise AssertionError("a folder that the user names is the user's choice")

    monkeypatch.setattr("collectors.capture_files.make_base", refuse)
    assert main([*base, "--folder", str(tmp_path / "link")]) == 0
    assert len(list((tmp_path / "real").iterdir())) == 1
