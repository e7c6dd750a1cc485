"""Baselines: what a batch should cost, learnt online; the file's name is the baseline's name."""

from models.baselines.base import Baseline, Expectation, Place, available, load

__all__ = ["Baseline", "Expectation", "Place", "available", "load"]
