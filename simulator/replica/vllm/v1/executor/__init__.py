"""This package takes batches to the worker process and brings the answers back."""
