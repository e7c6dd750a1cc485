"""What a profile is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from simulator.profiles.machinery.host import Host


class Profile:
    """One version family of an engine; a folder's `profile.py` holds one as `PROFILE`.

    Attributes:
        framework: Name of the engine as `collectors/engines` calls it.

        processes: Labels of the iterating processes; the first one is the engine's core.

        root: The function that is always on the stack of the iterating thread.

        phases: Functions that a handful of stack samples must show.

        metrics: Names with labels on the metrics page, and the counter behind each.
    """

    summary = ""
    framework = ""
    processes: tuple[str, ...] = ("core",)
    root: tuple[str, str] | None = None
    phases: tuple[tuple[str, str], ...] = ()
    metrics_path = "/metrics"
    metrics: ClassVar[Mapping[str, str]] = {}

    def run(self, host: Host) -> None:
        """Start the processes from the first one, and give that one its own title."""
        raise NotImplementedError
