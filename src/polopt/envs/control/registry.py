"""Environments by name: the built-in ones, and every id of gymnasium."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from polopt.envs.control.arrays import ArrayEnvironments, Dynamics
from polopt.envs.control.biped import Biped
from polopt.envs.control.cartpole import CartPole
from polopt.envs.control.interface import Environments
from polopt.envs.control.pendulum import Pendulum
from polopt.envs.control.recording.interface import Watch
from polopt.envs.control.recording.states import StateWatch
from polopt.errors import RecipeError, did_you_mean, one_line

PREFIX = "control:"
BUILTIN: Mapping[str, type[CartPole | Pendulum | Biped]] = {
    "cartpole": CartPole,
    "pendulum": Pendulum,
    "biped": Biped,
}
LIMIT = "max_episode_steps"  # as gymnasium calls it


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
    """One environment of a data source, to be recorded; raises what :func:`make` does."""
    name = source.removeprefix(PREFIX)
    if name in BUILTIN:
        return StateWatch(_dynamics(name, parameters))
    from polopt.envs.control.recording.frames import FrameWatch

    return FrameWatch(name, parameters)


def unlimited(source: str, parameters: Mapping[str, Any]) -> bool:
    """Whether episodes have no time limit."""
    name = source.removeprefix(PREFIX)
    if name in BUILTIN or LIMIT in parameters:
        return False
    from polopt.envs.control.gymnasium import unlimited as unlimited_by_gymnasium

    return unlimited_by_gymnasium(name)


def _dynamics(name: str, parameters: Mapping[str, Any]) -> Dynamics:
    known = [one.name for one in fields(BUILTIN[name]) if one.init]
    for parameter in parameters:
        if parameter not in known:
            advice = did_you_mean(parameter, known, f"allowed: {', '.join(known)}")
            raise RecipeError(f"data.parameters.{one_line(parameter, 80)}: unknown; {advice}")
    return BUILTIN[name](**parameters)
