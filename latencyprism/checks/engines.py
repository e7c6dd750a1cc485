"""The engines on this host, their ranks, and the best rung on which each can be watched."""

import socket
from typing import Any

from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, Scanner
from collectors.engines import find_engines
from collectors.engines.base import Framework
from collectors.stacks import AttachRefused, SamplerUnavailable, attach
from latencyprism.checks.finding import Finding
from latencyprism.checks.host import owner_of
from schemas.records import Role

RUNGS = {1: "counter", 2: "stack"}
MEANING = {
    "counter": "every iteration, by the engine's own counter",
    "stack": "every iteration, by the calls on its stack",
    "metrics": "interval means only, by its metrics page",
}


def check_engines(settings: CollectSettings) -> list[Finding]:
    """Attach to each engine and each of its ranks for a moment."""
    from collectors.agent import frameworks_of

    frameworks = {one.name(): one for one in frameworks_of(settings)}
    engines = find_engines(Scanner().scan(), list(frameworks.values()))
    if not engines:
        return [
            Finding("note", "engines", f"none is running here (looked for {', '.join(frameworks)})")
        ]
    host = settings.host or socket.gethostname()
    return [
        finding
        for engine in engines
        for finding in _check(engine, frameworks[engine.framework], host, settings)
    ]


def _check(
    engine: EngineProcess, framework: Framework, host: str, settings: CollectSettings
) -> list[Finding]:
    version = framework.version(engine)
    subject = f"engine {engine.framework} on port {engine.port}, pid {engine.core.pid}"
    about = {
        "engine_id": f"{host}:{engine.name}",
        "framework": engine.framework,
        "version": version,
        "model": engine.model,
        "port": engine.port,
        "pid": engine.core.pid,
        "rank": 0,
        "processes": {str(pid): role for pid, role in engine.roles.items()},
    }
    found = [_rung(subject, engine.core, framework, "engine_core", version, about)]
    if found[0].state != "ok" and engine.port is not None:
        found[0] = _with_metrics(found[0], framework, engine.port, settings)
    for rank in engine.ranks:
        found.append(
            _rung(
                f"{subject}: rank {rank.rank} ({rank.label or rank.role}), pid {rank.process.pid}",
                rank.process,
                framework,
                rank.role,
                version,
                {"engine_id": about["engine_id"], "pid": rank.process.pid, "rank": rank.rank},
            )
        )
    return found


def _rung(
    subject: str,
    process: Process,
    framework: Framework,
    role: Role,
    version: str | None,
    about: dict[str, Any],
) -> Finding:
    failure = "its iterations are no Python"
    for family in framework.families(role, version):
        try:
            sampler = attach(process.pid, family.spec, poll_hz=100, stack_hz=0, realtime=False)
        except (AttachRefused, SamplerUnavailable, ProcessLookupError) as err:
            failure = str(err)
            continue
        rung = RUNGS.get(sampler.stats().get("rung", 1), "counter")
        sampler.stop()
        return Finding(
            "ok",
            subject,
            f"{MEANING[rung]} ({family.name})",
            about | {"rung": rung, "family": family.name},
        )
    owner = owner_of(process.pid)
    return Finding(
        "bad",
        subject,
        f"cannot be watched batch by batch (its user {owner}): {failure}",
        about | {"rung": None},
    )


def _with_metrics(
    finding: Finding, framework: Framework, port: int, settings: CollectSettings
) -> Finding:
    from collectors.scrape import ScrapeError, scrape

    try:
        scrape(framework, port, settings.metrics_timeout_seconds)
    except ScrapeError as err:
        return Finding(
            "bad", finding.subject, f"{finding.text}; nor by its metrics: {err}", finding.details
        )
    # An engine without Python has no better rung than this one.
    state = finding.state if framework.families() else "ok"
    text = f"{finding.text}; watched by {MEANING['metrics']}"
    if framework.feed.option:
        text += f", or by every iteration if the engine runs with {framework.feed.option}"
    return Finding(state, finding.subject, text, finding.details | {"rung": "metrics"})
