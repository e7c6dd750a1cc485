"""The engines on this host, their ranks, and the best rung on which each can be watched."""

import socket
from typing import Any

from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, RankProcess, Scanner, is_running
from collectors.engines import find_engines
from collectors.engines.base import Family, Framework
from collectors.stacks import AttachRefused, NotServing, Sampler, SamplerUnavailable, attach
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
    cores = (engine.core, *engine.candidates)
    found = [_rung(subject, cores, framework, "engine_core", version, about)]
    if found[0].state != "ok" and engine.port is not None:
        found[0] = _with_metrics(found[0], framework, engine.port, settings)
    for rank in ranks_to_watch(engine, settings):
        found.append(
            _rung(
                f"{subject}: rank {rank.rank} ({rank.label or rank.role}), pid {rank.process.pid}",
                (rank.process,),
                framework,
                rank.role,
                version,
                {"engine_id": about["engine_id"], "pid": rank.process.pid, "rank": rank.rank},
            )
        )
    return found


def ranks_to_watch(engine: EngineProcess, settings: CollectSettings) -> tuple[RankProcess, ...]:
    """Give the ranks that the agent would watch beside the core: no lone worker, and none at all
    where that is switched off.
    """
    if not settings.workers or [rank.role for rank in engine.ranks] == ["worker"]:
        return ()
    return engine.ranks


def _rung(
    subject: str,
    processes: tuple[Process, ...],
    framework: Framework,
    role: Role,
    version: str | None,
    about: dict[str, Any],
) -> Finding:
    owner = owner_of(processes[0].pid)
    about = about | {"rung": None}
    families = framework.families(role, version)
    failure = "its iterations are no Python"
    try:
        found = _attach_first(processes, families) if families else None
    except NotServing as err:
        text = f"its loop does not run; if it still starts, look again when it serves: {err}"
        return Finding("note", subject, text, about)
    except (AttachRefused, SamplerUnavailable, ProcessLookupError) as err:
        found, failure = None, str(err)
    if found is None:
        text = f"cannot be watched batch by batch (its user {owner}): {failure}"
        return Finding("bad", subject, text, about)
    process, family, sampler = found
    rung = RUNGS.get(sampler.stats().get("rung", 1), "counter")
    sampler.stop()
    more = {"pid": process.pid, "rung": rung, "family": family.name}
    return Finding("ok", subject, f"{MEANING[rung]} ({family.name})", about | more)


def _attach_first(
    processes: tuple[Process, ...], families: list[Family]
) -> tuple[Process, Family, Sampler]:
    """Attach by the first family whose loop runs in one of the processes, as the agent does."""
    failures: list[NotServing] = []
    for process in [one for one in processes if is_running(one)] or processes[:1]:
        for family in families:
            try:
                sampler = attach(process.pid, family.spec, poll_hz=100, stack_hz=0, realtime=False)
            except NotServing as err:
                failures.append(err)
                continue
            return process, family, sampler
    raise failures[0]


def _with_metrics(
    finding: Finding, framework: Framework, port: int, settings: CollectSettings
) -> Finding:
    from collectors.scrape import ScrapeError, scrape

    try:
        found = scrape(framework, port, settings.metrics_timeout_seconds)
    except ScrapeError as err:
        text = f"{finding.text}; nor by its metrics: {err}"
        return Finding(finding.state, finding.subject, text, finding.details)
    feed = ""
    if framework.feed.option:
        feed = f", or by every iteration if the engine runs with {framework.feed.option}"
    if found is None:
        text = f"{finding.text}; not watched: its metrics page has no count of iterations{feed}"
        return Finding(finding.state, finding.subject, text, finding.details)
    # An engine without Python has no better rung than this one.
    state = finding.state if framework.families() else "ok"
    text = f"{finding.text}; watched by {MEANING['metrics']}{feed}"
    return Finding(state, finding.subject, text, finding.details | {"rung": "metrics"})
