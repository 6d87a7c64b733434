"""The recipe: what a run is made of, as TOML and as flags of the same dotted names.

``load`` reads, merges and validates; ``polopt.algorithms.resolve`` lets the row fill in the rest.
Nothing here imports torch.
"""

from __future__ import annotations

from polopt.recipe.base import Scalar, Section
from polopt.recipe.columns import (
    KL,
    Credit,
    Critic,
    Episodes,
    Network,
    Objective,
    Preference,
    Pretraining,
    Process,
    TrustRegion,
    Update,
)
from polopt.recipe.contradictions import contradictions
from polopt.recipe.fields import Leaf, catalogue
from polopt.recipe.load import dump, load, standalone
from polopt.recipe.messages import Problem, name_in, raise_for, shown
from polopt.recipe.schema import (
    Coordination,
    Data,
    Evaluation,
    Model,
    Recipe,
    Reward,
    Rollout,
    Run,
    StageRecipe,
    Until,
)

__all__ = [
    "KL",
    "Coordination",
    "Credit",
    "Critic",
    "Data",
    "Episodes",
    "Evaluation",
    "Leaf",
    "Model",
    "Network",
    "Objective",
    "Preference",
    "Pretraining",
    "Problem",
    "Process",
    "Recipe",
    "Reward",
    "Rollout",
    "Run",
    "Scalar",
    "Section",
    "StageRecipe",
    "TrustRegion",
    "Until",
    "Update",
    "catalogue",
    "contradictions",
    "dump",
    "load",
    "name_in",
    "raise_for",
    "shown",
    "standalone",
]
