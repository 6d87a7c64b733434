"""The recipe: what a run is made of, as TOML and as flags of the same dotted names.

``load`` reads, merges and validates; ``polopt.resolution.resolve`` lets the row fill in the rest.
Nothing here imports torch.
"""

from __future__ import annotations

from polopt.choices.section import Scalar, Section
from polopt.recipe.contradictions import contradictions
from polopt.recipe.fields import Leaf, catalogue
from polopt.recipe.load import dump, load, standalone
from polopt.recipe.messages import Problem, name_in, raise_for, shown
from polopt.recipe.schema import (
    KL,
    Coordination,
    Credit,
    Critic,
    Data,
    Episodes,
    Evaluation,
    Model,
    Network,
    Objective,
    Preference,
    Pretraining,
    Process,
    Recipe,
    Reward,
    Rollout,
    Run,
    StageRecipe,
    TrustRegion,
    Until,
    Update,
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
