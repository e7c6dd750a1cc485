"""The command line: one command per file, everything else imported only when it is used."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("latencyprism")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"
