"""From a resolved stage to callables. Rows load this when a run is built, never before."""

from polopt.algorithms.build.learners import natural_step
from polopt.algorithms.build.moving import moving_numbers
from polopt.algorithms.build.objective import objective_of, policy_gradient
from polopt.algorithms.build.policy import (
    credit_of,
    policy_stage,
    prepared,
    reference_of,
    sampled_stage,
)
from polopt.algorithms.build.preference import direct_preference_stage, reward_model_stage
from polopt.algorithms.build.shared import Parts, Shared, examiner, shared
from polopt.algorithms.build.supervised import (
    demonstrated_stage,
    imitated_stage,
    likelihood,
    selection_of,
)

__all__ = [
    "Parts",
    "Shared",
    "credit_of",
    "demonstrated_stage",
    "direct_preference_stage",
    "examiner",
    "imitated_stage",
    "likelihood",
    "moving_numbers",
    "natural_step",
    "objective_of",
    "policy_gradient",
    "policy_stage",
    "prepared",
    "reference_of",
    "reward_model_stage",
    "sampled_stage",
    "selection_of",
    "shared",
]
