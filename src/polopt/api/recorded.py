"""The recipe that stands in the config.json of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polopt.algorithms import resolve
from polopt.recipe import Recipe, load


def recorded(config: Mapping[str, Any], flags: Mapping[str, Any] | None = None) -> Recipe:
    """The resolved recipe of a run, with some of its fields overridden."""
    own_reward = config["reward_from_python"] is not None
    return resolve(load(config["recipe"], flags or {}), own_reward=own_reward)
