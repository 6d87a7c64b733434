"""Reward functions: loading, calling and checking them."""

from polopt.rewards.check import first_batch_report
from polopt.rewards.functions import FromFile, from_file, from_mathematics, from_verifier
from polopt.rewards.score import Completions, RewardSpec, Scored, score

__all__ = [
    "Completions",
    "FromFile",
    "RewardSpec",
    "Scored",
    "first_batch_report",
    "from_file",
    "from_mathematics",
    "from_verifier",
    "score",
]
