"""The parts that several versions of SGLang share, under the paths that SGLang gives them."""
