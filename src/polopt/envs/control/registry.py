"""Environments by name: the built-in ones, and every id of gymnasium."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polopt.envs.control.arrays import ArrayEnvironments, Dynamics
from polopt.envs.control.biped import Biped
from polopt.envs.control.cartpole import CartPole
from polopt.envs.control.interface import Environments
from polopt.envs.control.pendulum import Pendulum
from polopt.envs.control.watch import StateWatch, Watch
from polopt.errors import RecipeError, one_line
from polopt.recipe.fields import either
from polopt.recipe.messages import shown

PREFIX = "control:"
BUILTIN: Mapping[str, Callable[..., Dynamics]] = {
    "cartpole": CartPole,
    "pendulum": Pendulum,
    "biped": Biped,
}
LIMIT = "max_episode_steps"  # as gymnasium calls it
PARAMETERS: Mapping[str, Sequence[str]] = {"biped": ("preset", "physics")}  # beside the limit


def make(source: str, count: int, parameters: Mapping[str, Any]) -> Environments:
    """``count`` environments of a data source such as ``control:cartpole``.

    Raises:
        RecipeError: no such environment, or a parameter that it does not take.
        MissingExtraError: it needs a package that is not installed.
    """
    name = source.removeprefix(PREFIX)
    if name in BUILTIN:
        return ArrayEnvironments(_dynamics(name, parameters), count)
    from polopt.envs.control.gymnasium import make as make_by_gymnasium

    return make_by_gymnasium(name, count, parameters, others=BUILTIN)


def watch(source: str, parameters: Mapping[str, Any]) -> Watch:
    """One environment of a data source, to be looked at; raises what :func:`make` does."""
    name = source.removeprefix(PREFIX)
    if name in BUILTIN:
        return StateWatch(_dynamics(name, parameters))
    from polopt.envs.control.frames import FrameWatch

    return FrameWatch(name, parameters)


def unlimited(source: str, parameters: Mapping[str, Any]) -> bool:
    """Whether nobody says after how many steps an episode is cut."""
    name = source.removeprefix(PREFIX)
    if name in BUILTIN or LIMIT in parameters:
        return False
    from polopt.envs.control.gymnasium import unlimited as unlimited_by_gymnasium

    return unlimited_by_gymnasium(name)


def _dynamics(name: str, parameters: Mapping[str, Any]) -> Dynamics:
    allowed = [LIMIT, *PARAMETERS.get(name, ())]
    for key in parameters:
        if key not in allowed:
            raise RecipeError(
                f"data.parameters.{one_line(key, 80)}: not a parameter of {PREFIX}{name}; "
                f"{either(allowed)}"
            )
    given = dict(parameters)
    if LIMIT in given:
        steps = given["limit"] = given.pop(LIMIT)
        if type(steps) is not int or steps < 1:
            raise RecipeError(
                f"data.parameters.{LIMIT}: {shown(steps)} is not allowed; an integer >= 1"
            )
    try:
        return BUILTIN[name](**given)
    except TypeError as error:
        raise RecipeError(f"data.parameters: {PREFIX}{name}: {one_line(error)}") from error
