"""Run the engine replica, or send it (or a real engine) a load.

'engine' starts a process that looks like vLLM to an observer and computes on the CPU; 'load'
plays a workload against any OpenAI-style server. Everything after the first word is passed on:
'latencyprism simulate engine --help'.
"""

import argparse
import sys

from latencyprism.errors import need


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("what", choices=("engine", "load"), help="what to simulate")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="passed on")


def run(arguments: argparse.Namespace) -> int:
    """Hand over to the simulator."""
    for module in ("numpy", "aiohttp", "prometheus_client", "setproctitle"):
        need(module, "simulator")
    if arguments.what == "load":
        from simulator.load import main as load_main

        return load_main(arguments.options)
    # The replica is found by its module's name on the command line, so it gets a process of its
    # own instead of a call.
    import os

    os.execv(sys.executable, [sys.executable, "-P", "-m", "simulator.replica", *arguments.options])
    return 0
