"""Credit assignment: from scores to advantages. ``assign`` composes the choices of a row."""

from polopt.credit.assign import Baseline, Credit, Normalise, Returns, Shaper, assign
from polopt.credit.outcome import (
    batch_std,
    batch_z,
    constant,
    greedy,
    group_mean,
    group_mean_divide,
    group_std,
    leave_one_out,
    length_weighted,
    no_baseline,
    unchanged,
    value,
)
from polopt.credit.shaping import kl_penalty, overlong, spread, terminal
from polopt.credit.temporal import full, gae, outcome, reward_to_go

__all__ = [
    "Baseline",
    "Credit",
    "Normalise",
    "Returns",
    "Shaper",
    "assign",
    "batch_std",
    "batch_z",
    "constant",
    "full",
    "gae",
    "greedy",
    "group_mean",
    "group_mean_divide",
    "group_std",
    "kl_penalty",
    "leave_one_out",
    "length_weighted",
    "no_baseline",
    "outcome",
    "overlong",
    "reward_to_go",
    "spread",
    "terminal",
    "unchanged",
    "value",
]
