"""The accelerators of this host, and how they can be read."""

from dataclasses import asdict

from collectors.config import CollectSettings
from collectors.devices import Devices
from collectors.xpu.child import START_SECONDS
from latencyprism.checks.finding import Finding


def check_devices(settings: CollectSettings) -> list[Finding]:
    """Ask each vendor once, in a process of its own."""
    devices = Devices(settings.host or "localhost", settings)
    try:
        devices.wait(START_SECONDS + settings.xpu_timeout_seconds)
        statuses = devices.status()
    finally:
        devices.stop()
    if not statuses:
        return [
            Finding(
                "note",
                "accelerators",
                "none was found on the PCI bus; where one is hidden (a container, a virtual "
                "machine), name its vendor in [collect] xpus",
            )
        ]
    return [
        Finding(
            "ok" if status.state == "working" and status.experimental is None else "note",
            f"accelerators {status.vendor}",
            status.text + (f". Experimental: {status.experimental}" if status.experimental else ""),
            asdict(status),
        )
        for status in statuses
    ]
