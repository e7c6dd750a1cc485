"""CPython of each version that engines run on: what is installed, and what Maven can download.

usage: python tests/pythons/interpreters.py    (make pythons: download what can be downloaded)
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
CACHE = HERE.parents[1] / ".cache" / "pythons"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
COMPLETE = "complete"
DOWNLOAD_TIMEOUT_SECONDS = 600.0

# A free-threaded build is not what its version promises here; a shim is not the interpreter.
TELL = (
    "import platform, sys, sysconfig\n"
    "print(sysconfig.get_config_var('Py_GIL_DISABLED') or 0)\n"
    "print(platform.python_version())\n"
    "print(sys.executable)\n"
)


class PythonUnavailableError(Exception):
    """A version cannot be had here; the message says what is missing."""


@dataclass(frozen=True)
class Interpreter:
    """One CPython: its exact release, how to start it, and what it needs in its environment."""

    release: str
    command: str
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a script with it; its standard output is a pipe."""
        # What is meant for the interpreter of the tests would mislead this one.
        ours = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
        return subprocess.Popen(
            [self.command, *arguments],
            env=ours | self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )


def ask(command: str, environment: dict[str, str]) -> Interpreter | None:
    """Give the interpreter behind a command, or None if it does not run or has no GIL."""
    try:
        answer = subprocess.run(
            [command, "-c", TELL],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except OSError:
        return None
    match answer.stdout.splitlines():
        case ["0", release, executable] if answer.returncode == 0:
            return Interpreter(release, executable, environment)
    return None


def installed_commands(version: str) -> Iterator[str]:
    """Give what may be an installed interpreter of a version."""
    if found := shutil.which(f"python{version}"):
        yield found
    releases = Path.home() / ".pyenv" / "versions"
    yield from sorted(str(path) for path in releases.glob(f"{version}.*/bin/python{version}"))


@cache
def installed(version: str) -> Interpreter:
    """Give the installed interpreter of a version."""
    for command in installed_commands(version):
        found = ask(command, {})
        if found is not None and found.release.startswith(f"{version}."):
            return found
    raise PythonUnavailableError(f"no python{version} with a GIL is installed: install it")


def home_of(version: str) -> Path:
    """Give the folder of a downloaded interpreter."""
    return CACHE / version / "org" / "bytedeco" / "cpython" / "linux-x86_64"


@cache
def downloaded(version: str) -> Interpreter:
    """Give the downloaded interpreter of a version."""
    home = home_of(version)
    if not (CACHE / version / COMPLETE).is_file():
        raise PythonUnavailableError(
            f"no python{version} was downloaded: make pythons, or install it"
        )
    environment = {"PYTHONHOME": str(home), "LD_LIBRARY_PATH": str(home)}
    found = ask(str(home / f"python{version}"), environment)
    if found is None:
        raise PythonUnavailableError(
            f"the downloaded python{version} does not run on this machine: install one"
        )
    return found


def of_version(version: str) -> Interpreter:
    """Give an interpreter of a version, wherever it is from."""
    try:
        return installed(version)
    except PythonUnavailableError:
        return downloaded(version)


def download(version: str) -> None:
    """Download an interpreter with Maven, unless that was done."""
    stamp = CACHE / version / COMPLETE
    pom = POM.read_text(encoding="utf-8")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pom:
        return
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise PythonUnavailableError("there are builds for Linux on x86-64 only: install one")
    if shutil.which("mvn") is None:
        raise PythonUnavailableError(
            "there is no mvn to download it: install Maven (Debian and Ubuntu: apt install maven)"
        )
    shutil.rmtree(CACHE / version, ignore_errors=True)
    command = ["mvn", "--quiet", "--batch-mode", "--file", str(POM)]
    command += [f"dependency:unpack@{version}", f"-Dpythons={CACHE}"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PythonUnavailableError("Maven took too long: check the network") from error
    if done.returncode != 0:
        raise PythonUnavailableError(
            f"Maven could not download it:\n{done.stdout}{done.stderr}\n"
            "check that Maven Central can be reached (behind a proxy: ~/.m2/settings.xml)"
        )
    # A jar keeps no permissions.
    (home_of(version) / f"python{version}").chmod(0o755)
    stamp.write_text(pom, encoding="utf-8")


def main() -> None:
    """Download every version, and say what cannot be had: tests without it are skipped."""
    for version in VERSIONS:
        try:
            download(version)
            print(f"python{version}: {downloaded(version).release}")  # noqa: T201
        except PythonUnavailableError as error:
            print(f"python{version}: {error}")  # noqa: T201


if __name__ == "__main__":
    main()
