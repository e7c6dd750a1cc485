"""Readers of accelerators, one file for each vendor."""
