"""This package publishes the engine's numbers under vLLM's names."""
