"""The parts that several versions of vLLM share, under the paths that vLLM gives them."""
