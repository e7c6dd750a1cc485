"""Find the engine of this host that a user means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latencyprism.errors import CommandError

if TYPE_CHECKING:
    from collectors.config import CollectSettings
    from collectors.discovery import EngineProcess
    from collectors.engines import Framework


def find_engine(
    collect: CollectSettings, wanted: str | None, host: str, otherwise: str = ""
) -> tuple[EngineProcess, Framework]:
    """Give the one engine of this host that is meant, and its framework.

    Args:
        collect: Which frameworks are looked for.

        wanted: Its engine_id, name, port or a pid of it; None where one engine runs.

        host: This host's name in engine_ids.

        otherwise: What else the user may do, at the end of the error.

    Raises:
        CommandError: There is none, or more than one.
    """
    frameworks, names = engines_here(collect, host)
    fitting = [
        engine
        for engine_id, engine in names.items()
        if wanted is None
        or wanted in (engine_id, engine.name, str(engine.port))
        or (wanted.isdigit() and int(wanted) in engine.roles)
    ]
    if len(fitting) == 1:
        return fitting[0], frameworks[fitting[0].framework]
    here = ", ".join(sorted(names)) or "none"
    meant = "" if wanted is None else f" named {wanted!r}"
    raise CommandError(
        f"{len(fitting)} engines{meant} run on this host (found: {here}); name one by its "
        f"engine_id, port or pid{otherwise}"
    )


def engines_here(
    collect: CollectSettings, host: str
) -> tuple[dict[str, Framework], dict[str, EngineProcess]]:
    """Give the frameworks by name, and the engines that run on this host by engine_id.

    Raises:
        CommandError: The settings name a framework or file that cannot be used.
    """
    from collectors.agent import frameworks_of
    from collectors.discovery import Scanner
    from collectors.engines import find_engines

    try:
        frameworks = {framework.name(): framework for framework in frameworks_of(collect)}
    except (LookupError, ValueError) as err:
        raise CommandError(f"section [collect]: {err}") from err
    engines = find_engines(Scanner().scan(), list(frameworks.values()))
    return frameworks, {f"{host}:{engine.name}": engine for engine in engines}
