"""Whether a policy can act in environments: it sees and does there what it was trained to."""

from __future__ import annotations

import numpy as np

from polopt.envs.control.interface import Box, Environments
from polopt.errors import RecipeError
from polopt.models.network import Specification


def check_fits(made_of: Specification, environments: Environments, source: str, of: str) -> None:
    """Refuse environments of another shape.

    Args:
        made_of: the network of the policy.
        environments: of the recipe.
        source: that names them.
        of: whose policy it is.

    Raises:
        RecipeError: says both.
    """
    action = environments.action
    low, high = (action.low, action.high) if isinstance(action, Box) else ((), ())
    count = len(low) if isinstance(action, Box) else action.count
    seen, done = environments.observation_size, _actions(count, isinstance(action, Box))
    trained_on = made_of.observation_size, _actions(made_of.outputs, bool(made_of.low))
    if (seen, done) != trained_on:
        raise RecipeError(
            f"data.source: {source} has {seen} observations and {done}; the policy of {of} was "
            f"trained on {trained_on[0]} and {trained_on[1]}"
        )
    here = np.array([low, high], dtype=np.float32)
    trained = np.array([made_of.low, made_of.high], dtype=np.float32)
    for number in (here != trained).any(0).nonzero()[0][:1]:
        (a, b), (c, d) = here[:, number], trained[:, number]
        raise RecipeError(
            f"data.source: {source} has actions whose number {number} is between {a:g} and {b:g}; "
            f"the policy of {of} was trained on one between {c:g} and {d:g}"
        )


def _actions(count: int, continuous: bool) -> str:
    if not continuous:
        return f"{count} actions to choose from"
    return f"actions of {count} number{'s' if count > 1 else ''}"
