"""Readers of ``/proc`` and ``/sys``: each file reads one subject; roots are parameters."""
