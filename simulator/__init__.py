"""The simulator is the fault gym: an engine replica, its load generator and its disturbances."""
