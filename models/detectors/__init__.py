"""Detectors: each turns standardised residuals into a score; 1 and above is an alarm.

A score is comparable with itself over time, not with another detector's.
"""

from models.detectors.base import Detector, Evidence, available, load

__all__ = ["Detector", "Evidence", "available", "load"]
