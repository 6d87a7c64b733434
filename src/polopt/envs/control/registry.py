"""Environments by name: the built-in ones, and every id of gymnasium."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from polopt.envs.control.arrays import ArrayEnvironments, Dynamics
from polopt.envs.control.biped import Biped
from polopt.envs.control.cartpole import CartPole
from polopt.envs.control.interface import Environments
from polopt.envs.control.pendulum import Pendulum
from polopt.envs.control.watch import StateWatch, Watch
from polopt.errors import RecipeError, one_line

PREFIX = "control:"
BUILTIN: Mapping[str, Callable[..., Dynamics]] = {
    "cartpole": CartPole,
    "pendulum": Pendulum,
    "biped": Biped,
}


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


def _dynamics(name: str, parameters: Mapping[str, Any]) -> Dynamics:
    try:
        return BUILTIN[name](**parameters)
    except TypeError as error:
        raise RecipeError(f"data.parameters: {PREFIX}{name}: {one_line(error)}") from error
