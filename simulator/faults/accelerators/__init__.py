"""What the faults of accelerators share: the vendors' tools, and processes that use a device."""

from simulator.faults.accelerators.tenant import Tenant
from simulator.faults.accelerators.tool import Clocks, Power, Tool
from simulator.faults.accelerators.vendors import obstacles_of, tool_of

__all__ = ["Clocks", "Power", "Tenant", "Tool", "obstacles_of", "tool_of"]
