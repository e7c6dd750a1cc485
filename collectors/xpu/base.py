"""What the agent must know of a vendor's accelerators: one file each, the file's name is its name.

A vendor has one or more *ways* to be read, best first: its library, then its command line tools.
A way may hang in the driver, so none is ever called in the agent's own process: a child process
for each vendor does it (`collectors.xpu.worker`) and is killed when it takes too long.
"""

import contextlib
import math
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from collectors.xpu.text import pci_address
from schemas.records import MissingReason, XpuDevice

# Device files that sysfs ties to a PCI address, and the class that they are found under.
CLASS_OF_FILES = {"dri": "drm", "accel": "accel"}
CLASS_FILE = re.compile(r"/dev/(dri|accel)/(\w+)")
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# Tools that speak the user's language and number format are asked not to.
UNTRANSLATED = {"LC_ALL": "C", "LANG": "C"}
# What is slow (processes, error counts, link throughput) is asked in one of so many looks.
SLOW_LOOKS = 10
# No tool says this much about the devices of one host; one that does has gone wild.
MOST_OUTPUT_BYTES = 16 * 1024**2


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

        period_seconds: Pause between two looks; the worker sets it before the first one.
    """

    name: str
    slow: bool = False
    period_seconds: float = 1.0

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
    header or key, never by position. A ``slow`` command runs in one of `SLOW_LOOKS` looks; in
    between its last answer stands.
    """

    arguments: tuple[str, ...]
    parse: Callable[[str], Sequence[XpuDevice]]
    slow: bool = False


class CommandWay(Way):
    """A way that runs one or more commands and joins what they say of each device.

    Later commands add to the fields that earlier ones left None, by ``device_id``.
    """

    def __init__(self, name: str, commands: Sequence[Command], slow: bool = False) -> None:
        self.name = name
        self.slow = slow
        self.commands = tuple(commands)
        self._looks = 0
        self._slow_answers: dict[int, Sequence[XpuDevice]] = {}

    def why_not(self) -> str | None:
        """Look for the programs on the path."""
        for command in self.commands:
            if (missing := missing_program(command.arguments[0])) is not None:
                return missing
        return None

    def read(self) -> list[XpuDevice]:
        """Run each command whose turn it is and join the answers."""
        return merge(self.answers())

    def answers(self) -> list[Sequence[XpuDevice]]:
        """Run each command whose turn it is; give the last answer of the others."""
        turn = self._looks % SLOW_LOOKS == 0
        answers: list[Sequence[XpuDevice]] = []
        for place, command in enumerate(self.commands):
            if not command.slow:
                answers.append(command.parse(run(command.arguments)))
                continue
            if turn or place not in self._slow_answers:
                self._slow_answers[place] = command.parse(run(command.arguments))
            answers.append(self._slow_answers[place])
        self._looks += 1
        return answers


class StreamWay(Way):
    """A way that keeps one command running, which prints its devices again and again.

    That spares a fork and the tool's own start for each look. A thread collects the lines, so
    that the tool never waits for a reader, and keeps only the newest complete block of them.

    Args:
        name: Goes onto every reading as ``tool``.

        command: ``{period_ms}`` and ``{period_seconds}`` in its arguments are filled in;
            ``parse`` gets one block, with the first line of all before it.

        is_complete: Whether these lines are all that the tool prints in one turn; it gets the
            first line (the header) and the lines of this turn.
    """

    def __init__(
        self, name: str, command: Command, is_complete: Callable[[str, list[str]], bool]
    ) -> None:
        self.name = name
        self.command = command
        self._is_complete = is_complete
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._block: str | None = None
        self._block_at_ns = 0
        self._ended: str | None = None

    def why_not(self) -> str | None:
        """Look for the program on the path."""
        return missing_program(self.command.arguments[0])

    def read(self) -> list[XpuDevice]:
        """Wait for the next block that the tool prints."""
        if self._process is None:
            self._start()
        with self._changed:
            self._changed.wait_for(lambda: self._block is not None or self._ended is not None)
            block, at_ns, ended = self._block, self._block_at_ns, self._ended
            self._block = None
        if block is None:
            self.close()
            raise XpuError(
                f"{' '.join(self.command.arguments)} ended: {(ended or '')[-300:]!r}; run it by "
                "hand to see why"
            )
        age_ns = time.monotonic_ns() - at_ns
        return [replace(device, age_ns=age_ns) for device in self.command.parse(block)]

    def close(self) -> None:
        """Stop the command."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # It may be stuck in the driver; then its end is the business of whoever kills us.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)

    def _start(self) -> None:
        arguments = [
            argument.replace("{period_ms}", str(max(round(self.period_seconds * 1000), 1))).replace(
                "{period_seconds}", str(max(round(self.period_seconds), 1))
            )
            for argument in self.command.arguments
        ]
        self._block, self._ended = None, None
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=tempfile.gettempdir(),
                env=os.environ | UNTRANSLATED,
            )
        except OSError as err:
            raise XpuError(
                f"{arguments[0]} cannot be started: {err.strerror}; check its installation"
            ) from err
        reader = threading.Thread(target=self._collect, args=(self._process,), daemon=True)
        reader.start()

    def _collect(self, process: subprocess.Popen[bytes]) -> None:
        header, lines, size = "", [], 0
        assert process.stdout is not None
        with process.stdout as output:
            while raw := output.readline(MOST_OUTPUT_BYTES):
                size += len(raw)
                line = plain(raw.decode(errors="replace")).rstrip("\r\n")
                if not line.strip():
                    continue
                if not header:
                    header = line
                    continue
                lines.append(line)
                if size > MOST_OUTPUT_BYTES:
                    process.kill()
                    break
                if self._is_complete(header, lines):
                    with self._changed:
                        self._block = "\n".join([header, *lines]) + "\n"
                        self._block_at_ns = time.monotonic_ns()
                        self._changed.notify_all()
                    lines, size = [], 0
        with self._changed:
            self._ended = "\n".join([header, *lines])[-1000:]
            self._changed.notify_all()


def missing_program(name: str) -> str | None:
    """Say that a program is not on the path, or None where it is."""
    if shutil.which(name) is None:
        return f"{name} is not on the path: install the vendor's tools"
    return None


def run(arguments: Sequence[str]) -> str:
    """Run a vendor's command and give its standard output as text, without terminal colours.

    It runs in a folder of its own, because some tools write files where they stand. No time-out
    here: the whole process is killed from outside, with all that it started.

    Raises:
        XpuError: It could not be started or ended with an error.
    """
    with tempfile.TemporaryDirectory(prefix="latencyprism-xpu-") as folder:
        try:
            process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=os.environ | UNTRANSLATED,
            )
        except OSError as err:
            raise XpuError(
                f"{arguments[0]} cannot be started: {err.strerror}; check its installation"
            ) from err
        with process:
            output, error = _communicate(process, arguments[0])
    if process.returncode != 0:
        said = error.strip() or output.strip()
        raise XpuError(
            f"{' '.join(arguments)} ended with status {process.returncode}: {said[:300]!r}; run "
            "it by hand to see why"
        )
    return output


def _communicate(process: subprocess.Popen[bytes], name: str) -> tuple[str, str]:
    """Read both outputs to their ends, and no more than a tool that is sane would write."""
    read: dict[object, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                read[key.fileobj] += data
                if len(read[key.fileobj]) > MOST_OUTPUT_BYTES:
                    process.kill()
                    raise ParseError(
                        f"{name} printed more than {MOST_OUTPUT_BYTES} bytes and was stopped: run "
                        "it by hand to see why"
                    )
    output, error = (plain(data.decode(errors="replace")) for data in read.values())
    return output, error


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


def plausible(device: XpuDevice) -> XpuDevice:
    """Take out what cannot be, whatever the tool printed: it is ``suspect``, not a value."""
    wrong = {
        one.name: None
        for one in fields(XpuDevice)
        if isinstance(value := getattr(device, one.name), float | int)
        and not _can_be(one.name, value)
    }
    if not wrong:
        return device
    suspect: dict[str, MissingReason] = dict.fromkeys(wrong, "suspect")
    return replace(device, **wrong, missing=device.missing | suspect)  # type: ignore[arg-type]


def _can_be(name: str, value: float) -> bool:
    if not math.isfinite(value):
        return False
    if name.endswith("_celsius"):
        return -60 <= value <= 200
    return 0 <= value <= 1 if name.endswith("_ratio") else value >= 0


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

        visible_variables: Environment variables by which a process is given some devices only,
            as ``CUDA_VISIBLE_DEVICES``; of a process's environment nothing else is looked at.

        index_files: Device files whose number is the device's index, as a pattern with one
            group; files that sysfs ties to a PCI address are known without.
    """

    vendors: ClassVar[dict[str, type["Vendor"]]] = {}

    title: ClassVar[str]
    pci_vendor_ids: ClassVar[frozenset[int]] = frozenset()
    pci_class_prefixes: ClassVar[tuple[str, ...]] = ("03", "12")
    experimental: ClassVar[str | None] = None
    visible_variables: ClassVar[tuple[str, ...]] = ()
    index_files: ClassVar[str | None] = None

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

    def device_files(
        self, paths: Iterable[str], sys: Path = Path("/sys"), proc: Path = Path("/proc")
    ) -> set[str]:
        """Say which devices these open files are: PCI addresses, and indices as text.

        Files that stand for all devices (``/dev/kfd``, ``/dev/nvidiactl``) say nothing.

        Args:
            paths: Where a process's file descriptors point to.

            sys: Root of the system's device tree.

            proc: Root of the process file system, where a driver may explain its files.
        """
        found: set[str] = set()
        for path in set(paths):
            if (match := CLASS_FILE.fullmatch(path)) is not None:
                device = sys / "class" / CLASS_OF_FILES[match[1]] / match[2] / "device"
                if device.exists() and (address := pci_address(device.resolve().name)):
                    found.add(address)
            elif self.index_files and (match := re.fullmatch(self.index_files, path)):
                found.add(match[1])
        return found


def available() -> list[str]:
    """Give the names of all vendors, from the files of this folder."""
    helpers = {"base", "text", "worker", "child", "owners"}
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
