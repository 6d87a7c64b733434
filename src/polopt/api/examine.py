"""Evaluation of a model outside of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from polopt.algorithms import row
from polopt.algorithms.bodies import is_on_bodies
from polopt.algorithms.build import Parts, control, examiner, reward_model_stage, shared
from polopt.algorithms.build.fits import check_fits, shape, shape_of_policy
from polopt.coordination.progress import progress
from polopt.errors import RecipeError
from polopt.models.network import load_policy
from polopt.recipe import StageRecipe
from polopt.roles.control import StepActor
from polopt.rollout.evaluation import Evaluation


def examine(stage: StageRecipe, weights: str, k: int) -> Evaluation:
    """Sample ``k`` answers to each evaluation prompt of a resolved stage, and the greedy one.

    A reward model is asked for its verdicts on held-out pairs instead; a policy on bodies plays.

    Raises:
        RecipeError: nothing says which answers are right; several answers of a body.
    """
    if stage.run.threads is not None:
        torch.set_num_threads(stage.run.threads)
    with progress() as observe:
        parts = Parts(stage, weights, weights, torch.device("cpu"), observe, compare=True)
        found = _examiner(parts, k)
    if found is None:
        raise RecipeError("reward: nothing says which answers are right; name a reward")
    return found(not is_on_bodies(stage.data.source))  # nobody sees the episode of a body


def _examiner(parts: Parts, k: int) -> Callable[[bool], Evaluation] | None:
    stage = parts.recipe
    if is_on_bodies(stage.data.source):
        if k > 1:
            raise RecipeError(
                f"--k: {k} is not allowed on bodies, which are played by their likeliest actions "
                "alone; 1, and evaluation.episodes for more episodes"
            )
        network = load_policy(Path(parts.weights))
        trained, here = shape_of_policy(network.made_of), shape(control.made(stage, 1))
        check_fits(trained, here, stage.data.source, parts.weights)
        return control.examiner(stage, StepActor(network))
    if row(stage.algorithm).trains == "actor":
        return examiner(shared(parts), answers=k)
    return reward_model_stage(parts).evaluate
