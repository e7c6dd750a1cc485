"""This package computes one batch in the worker process."""
