"""This tree mirrors the paths of vLLM, because observers recognise frames by path suffix."""
