"""Say in words what was seen: of one batch, of an incident, of a time. Lines for a terminal."""
