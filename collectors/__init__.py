"""The agent: reads engines, processes and the host from outside, and publishes what it read."""
