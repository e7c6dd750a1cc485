"""This package holds the model that the worker computes."""
