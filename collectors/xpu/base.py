"""What the agent must know of a vendor's accelerators: one file each, the file's name is its name.

A vendor has one or more *ways* to be read, best first: its library, then its command line tools.
A way may hang in the driver, so none is ever called in the agent's own process: a child process
for each vendor does it (`collectors.xpu.worker`) and is killed when it takes too long.
"""

import os
import re
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from schemas.records import XpuDevice

TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class XpuError(Exception):
    """A way could not be read; the text ends with what to do."""


class NotPermitted(XpuError):
    """The device is there and this user, or this container, may not ask about it."""


class ParseError(XpuError):
    """The tool answered something that this version does not understand."""


class Way(ABC):
    """One way to read a vendor's devices: a library or a command.

    Attributes:
        name: Goes onto every reading as ``tool``: ``nvml``, ``nvidia-smi``, ...

        slow: Whether a look takes so long that it is done at a tenth of the rate.
    """

    name: str
    slow: bool = False

    @abstractmethod
    def why_not(self) -> str | None:
        """Say why this way is not open here, with what to do about it; None where it is."""

    @abstractmethod
    def read(self) -> list[XpuDevice]:
        """Look at all devices once; may block for as long as the driver does.

        Raises:
            NotPermitted: This user may not ask.
            ParseError: The answer is not understood.
            XpuError: Anything else, with what to do.
        """

    def close(self) -> None:  # noqa: B027 - most ways hold nothing
        """Give back what the way holds; called once, at the end."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line and what makes devices of its output.

    ``parse`` is pure: it gets the standard output as text, without colours, and reads it by
    header or key, never by position.
    """

    arguments: tuple[str, ...]
    parse: Callable[[str], Sequence[XpuDevice]]


class CommandWay(Way):
    """A way that runs one or more commands and joins what they say of each device.

    Later commands add to the fields that earlier ones left None, by ``device_id``.
    """

    def __init__(self, name: str, commands: Sequence[Command], slow: bool = False) -> None:
        self.name = name
        self.slow = slow
        self.commands = tuple(commands)

    def why_not(self) -> str | None:
        """Look for the programs on the path."""
        for command in self.commands:
            if shutil.which(command.arguments[0]) is None:
                return f"{command.arguments[0]} is not on the path: install the vendor's tools"
        return None

    def read(self) -> list[XpuDevice]:
        """Run each command and join the answers."""
        return merge([command.parse(run(command.arguments)) for command in self.commands])


def run(arguments: Sequence[str]) -> str:
    """Run a vendor's command and give its standard output as text, without terminal colours.

    It runs in a folder of its own, because some tools write files where they stand. No time-out
    here: the whole process is killed from outside, with all that it started.

    Raises:
        XpuError: It could not be started or ended with an error.
    """
    environment = os.environ | {"LC_ALL": "C", "LANG": "C"}
    with tempfile.TemporaryDirectory(prefix="latencyprism-xpu-") as folder:
        try:
            done = subprocess.run(
                list(arguments),
                capture_output=True,
                check=False,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        except OSError as err:
            raise XpuError(
                f"{arguments[0]} cannot be started: {err.strerror}; check its installation"
            ) from err
    output = plain(done.stdout.decode(errors="replace"))
    if done.returncode != 0:
        said = plain(done.stderr.decode(errors="replace")).strip() or output.strip()
        raise XpuError(
            f"{' '.join(arguments)} ended with status {done.returncode}: {said[:300]!r}; run it "
            "by hand to see why"
        )
    return output


def plain(text: str) -> str:
    """Strip terminal colours."""
    return TERMINAL_CODES.sub("", text)


def merge(looks: Sequence[Sequence[XpuDevice]]) -> list[XpuDevice]:
    """Join what several commands say: the first one that knows a field has it."""
    devices: dict[str, XpuDevice] = {}
    for look in looks:
        for device in look:
            known = devices.get(device.device_id)
            devices[device.device_id] = device if known is None else _fill(known, device)
    return list(devices.values())


def _fill(known: XpuDevice, more: XpuDevice) -> XpuDevice:
    added = {
        one.name: getattr(more, one.name)
        for one in fields(XpuDevice)
        if one.name != "missing" and getattr(known, one.name) in (None, {}, "")
    }
    filled = replace(known, **added)
    missing = {
        name: reason
        for name, reason in (more.missing | known.missing).items()
        if getattr(filled, name) is None
    }
    return replace(filled, missing=missing)


class Vendor(ABC):
    """A vendor's accelerators.

    Attributes:
        title: How people call it.

        pci_vendor_ids: By which its devices are found on the host; several tools of different
            vendors share a name, so this decides before any tool is asked.

        pci_class_prefixes: Of those vendors' devices, the classes that are accelerators, as in
            ``/sys/bus/pci/devices/*/class`` without ``0x``: ``03`` display, ``12`` processing.

        experimental: Why its counters are not trusted yet; None where they are.
    """

    vendors: ClassVar[dict[str, type["Vendor"]]] = {}

    title: ClassVar[str]
    pci_vendor_ids: ClassVar[frozenset[int]] = frozenset()
    pci_class_prefixes: ClassVar[tuple[str, ...]] = ("03", "12")
    experimental: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        """Enter the vendor under its file's name."""
        cls.vendors[cls.__module__.rpartition(".")[2]] = cls

    @classmethod
    def name(cls) -> str:
        """Give the vendor's name: that of its file."""
        return cls.__module__.rpartition(".")[2]

    @abstractmethod
    def ways(self) -> list[Way]:
        """Give the ways to read the devices, best first; must not touch the driver."""

    def is_here(self, sys: Path = Path("/sys")) -> bool:
        """Tell from the PCI bus whether this host has such a device; must not raise."""
        for device in (sys / "bus/pci/devices").glob("*"):
            try:
                vendor = int((device / "vendor").read_text(), 16)
                device_class = (device / "class").read_text().strip().removeprefix("0x")
            except (OSError, ValueError):
                continue
            if vendor in self.pci_vendor_ids and device_class.startswith(self.pci_class_prefixes):
                return True
        return False


def available() -> list[str]:
    """Give the names of all vendors, from the files of this folder."""
    helpers = {"base", "text", "worker"}
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem not in helpers)


def load(name: str) -> Vendor:
    """Make the vendor of that name.

    Raises:
        LookupError: There is no such file; the text lists what there is.
    """
    if name not in available():
        raise LookupError(f"unknown accelerator vendor {name!r}; have: {', '.join(available())}")
    import_module(f"{__package__}.{name}")
    return Vendor.vendors[name]()
