"""This package holds the one model of the replica."""
