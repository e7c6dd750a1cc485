"""Compare verdicts and incidents with the truth about what was injected."""

from simulator.score.collect import Collector, Observed, collect, merge
from simulator.score.metrics import Group, Score
from simulator.score.options import Options
from simulator.score.report import render, to_json
from simulator.score.scoring import score, score_observed

__all__ = [
    "Collector",
    "Group",
    "Observed",
    "Options",
    "Score",
    "collect",
    "merge",
    "render",
    "score",
    "score_observed",
    "to_json",
]
