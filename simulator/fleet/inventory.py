"""What agents say of the engines that they watch."""

from __future__ import annotations

import hashlib
from functools import cache

from schemas.records import Engine, EngineState
from simulator.fleet.places import Place
from simulator.fleet.setting import Setting

# As collectors.agent has it.
INVENTORY_NS = 10_000_000_000
# As collectors.setting has it.
DIGEST_DIGITS = 16


def command_of(setting: Setting) -> tuple[str, ...]:
    """Give what the engine was started with; traffic, drafts and faults change nothing of it.

    >>> from simulator.fleet.presets import load
    >>> command_of(load("a100_vllm"))
    ('vllm', 'simulated-32b', 'ranks=1', 'max_requests=128', 'token_budget=2048', 'block_tokens=16')
    """
    flags = ("ranks", "max_requests", "token_budget", "block_tokens")
    numbers = (f"{name}={getattr(setting, name)}" for name in flags)
    return setting.framework, setting.model, *numbers


@cache
def _digest(command: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(command).encode()).hexdigest()[:DIGEST_DIGITS]


def engine_record(
    setting: Setting,
    place: Place,
    at_ns: int,
    state: EngineState,
    *,
    process_start_ns: int,
    iterations_seen: int,
    engine_iterations: int,
) -> Engine:
    """Give the inventory record of an engine."""
    pids = tuple(pid for pid, _, _ in place.processes(setting))
    worker = setting.rank_role == "worker"
    watched = tuple(range(setting.ranks))
    devices = place.device_ids(setting)
    return Engine(
        engine_id=place.engine_id,
        host=place.host,
        at_ns=at_ns,
        state=state,
        framework=setting.framework,
        process_start_ns=process_start_ns,
        version=setting.version,
        model=setting.model,
        port=place.port,
        source=setting.source,
        pids=pids,
        ranks=1 if worker else setting.ranks,
        agent_version="simulated",
        iterations_seen=iterations_seen,
        iterations_missed=0,
        engine_iterations=engine_iterations,
        agent_cpu_ratio=0.01,
        records_dropped=0,
        watched_ranks=watched,
        sources=tuple(setting.source for _ in watched),
        device_ids=devices,
        poll_hz=1000,
        stack_hz=setting.stack_hz,
        command_digest=_digest(command_of(setting)),
        device_models=tuple(setting.device.model for _ in devices) if setting.device else (),
        # Agents are sure only of engines without an accelerator.
        cuda_graphs=False if setting.device is None else None,
    )
