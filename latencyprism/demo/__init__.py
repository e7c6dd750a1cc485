"""The demonstration: an engine, the whole product around it, and a machine that is disturbed."""
