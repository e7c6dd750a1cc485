"""This package holds the scheduler and what it hands to the workers."""
