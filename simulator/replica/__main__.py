"""Run a replica with `python -m simulator.replica`."""

from simulator.replica.api_server import main

if __name__ == "__main__":
    raise SystemExit(main())
