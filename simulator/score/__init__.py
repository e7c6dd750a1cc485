"""Compare verdicts and incidents with the truth about what was injected."""

from simulator.score.metrics import Group, Score
from simulator.score.options import Options
from simulator.score.report import render, to_json
from simulator.score.scoring import score

__all__ = ["Group", "Options", "Score", "render", "score", "to_json"]
