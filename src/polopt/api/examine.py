"""Evaluation of a model outside of a run."""

from __future__ import annotations

import torch

from polopt.algorithms import row
from polopt.algorithms.build import Parts, examiner, reward_model_stage, shared
from polopt.coordination.progress import progress
from polopt.errors import RecipeError
from polopt.recipe import StageRecipe
from polopt.rollout.evaluation import Evaluation


def examine(stage: StageRecipe, k: int) -> Evaluation:
    """Sample ``k`` answers to each evaluation prompt of a resolved stage, and the greedy one.

    A reward model is asked for its verdicts on held-out pairs instead.

    Raises:
        RecipeError: nothing says which answers are right.
    """
    if stage.run.threads is not None:
        torch.set_num_threads(stage.run.threads)
    path = stage.model.path
    with progress() as observe:
        parts = Parts(stage, path, path, torch.device("cpu"), observe, compare=True)
        found = (
            examiner(shared(parts), answers=k)
            if row(stage.algorithm).trains == "actor"
            else reward_model_stage(parts).evaluate
        )
    if found is None:
        raise RecipeError("reward: nothing says which answers are right; name a reward")
    return found(True)
