"""This package mirrors vLLM's V1 engine."""
