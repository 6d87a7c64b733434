"""Evaluation of a model outside of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch

from polopt import isolated
from polopt.algorithms import row
from polopt.api.domains import IN_DOMAIN
from polopt.assembly import StageInputs, control
from polopt.assembly.chosen import named
from polopt.assembly.context import examiner, stage_context
from polopt.assembly.fits import check_fits, shape, shape_of_policy
from polopt.assembly.preference import reward_model_stage
from polopt.coordination.progress import progress
from polopt.errors import RecipeError
from polopt.models.network import load_policy
from polopt.recipe import StageRecipe
from polopt.roles.control import StepActor
from polopt.rollout.evaluation import Evaluation


def examine(stage: StageRecipe, weights: str, k: int) -> Evaluation:
    """Sample ``k`` answers to each evaluation prompt of a resolved stage, and the greedy one.

    A reward model is evaluated on held-out pairs, a policy in control on episodes.

    Raises:
        RecipeError: no reward or verifier; several answers in control.
    """
    if stage.run.threads is not None:
        torch.set_num_threads(stage.run.threads)
    with progress() as observe, closing(isolated):
        inputs = StageInputs(stage, weights, weights, torch.device("cpu"), observe, compare=True)
        here = IN_DOMAIN[stage.domain]
        found = named(here.examiner)(inputs, k)
    if found is None:
        raise RecipeError("reward: nothing says which answers are right; name a reward")
    evaluation: Evaluation = found(here.sampled_examples)
    return evaluation


def of_text(inputs: StageInputs, k: int) -> Callable[[bool], Evaluation] | None:
    """Evaluate a language model on prompts, or a reward model on pairs."""
    if row(inputs.recipe.algorithm).trains == "actor":
        return examiner(stage_context(inputs), answers=k)
    return reward_model_stage(inputs).evaluate


def of_control(inputs: StageInputs, k: int) -> Callable[[bool], Evaluation]:
    """Evaluate a policy in control on episodes.

    Raises:
        RecipeError: it does not fit the environment, or ``k`` is not 1.
    """
    stage = inputs.recipe
    if k > 1:
        raise RecipeError(
            f"--k: {k} is not allowed in control, where the likeliest actions alone are taken; 1, "
            "and evaluation.episodes for more episodes"
        )
    network = load_policy(Path(inputs.weights))
    trained, here = shape_of_policy(network.made_of), shape(control.made(stage, 1))
    check_fits(trained, here, stage.data.source, inputs.weights)
    return control.examiner(stage, StepActor(network))
