"""This package holds what decides the next batch."""
