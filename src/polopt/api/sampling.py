"""How answers are sampled: as in training, but for what is asked to differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from polopt.api import arguments
from polopt.errors import RecipeError
from polopt.types import Sampling


class Settings(TypedDict, total=False):
    """What takes the place of the sampling of the training; None: nothing does."""

    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    stop: str | Sequence[str] | None


def sampled(trained: Sampling, n: int | None = None, **settings: Unpack[Settings]) -> Sampling:
    """The sampling of ``n`` answers to a prompt.

    Without a temperature, one answer is the most likely one (0), and several are drawn at the
    temperature of the training.

    Args:
        trained: the sampling of the training.
        n: answers to a prompt; None: one.
        settings: what is to differ.

    Raises:
        RecipeError: a value that is not allowed, or several answers at temperature 0.
    """
    given: dict[str, Any] = {k: value for k, value in settings.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    fields = given if n is None else {"group_size": n, **given}
    arguments.check("rollout", fields, names={"group_size": "n"}, or_zero={"temperature"})
    several = n is not None and n > 1
    given.setdefault("temperature", trained.temperature if several else 0.0)
    if several and given["temperature"] == 0:
        raise RecipeError(
            f"temperature: 0 is not allowed with n = {n}, whose answers would be the same; a "
            "number > 0, or n = 1"
        )
    given["stop"] = tuple(given.get("stop", trained.stop))
    return replace(trained, **given)
