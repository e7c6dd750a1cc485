"""The fault gym's suite: real faults on the replica, simulated ones in a fleet, one score."""
