"""How often the right cause is named: on public captures, on two faults at once, how sure."""
