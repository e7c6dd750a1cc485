"""Run the engine replica, a load, a profile of another engine, or a fleet of simulated engines.

'engine' starts a process that looks like vLLM to an observer and computes on the CPU; 'load'
plays a workload against any OpenAI-style server; 'profile' starts small processes that bear the
names of one version family of an engine, and make up their own requests; 'fleet' makes the records
that agents would send of any number of engines, with faults whose truth is known. Everything after
the first word is passed on: 'latencyprism simulate engine --help'.
"""

import argparse
import os
import sys
from typing import NoReturn

from latencyprism.errors import need


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "what", choices=("engine", "load", "profile", "fleet"), help="what to simulate"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="passed on")


def run(arguments: argparse.Namespace) -> int:
    """Hand over to the simulator."""
    if arguments.what == "profile":
        _replace_process("simulator.profiles", arguments.options)
    if arguments.what == "fleet":
        need("numpy", "simulator")
        if "kafka" in arguments.options:
            need("confluent_kafka", "collect")
        from simulator.fleet.__main__ import main as fleet_main

        return fleet_main(arguments.options)
    for module in ("numpy", "aiohttp", "prometheus_client", "setproctitle"):
        need(module, "simulator")
    if arguments.what == "load":
        from simulator.load import main as load_main

        return load_main(arguments.options)
    _replace_process("simulator.replica", arguments.options)


def _replace_process(module: str, options: list[str]) -> NoReturn:
    # Both write their own titles over the command line, so they get a process instead of a call.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *options])
