"""Whether the optional packages that a recipe needs are installed, before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from polopt.errors import MissingExtraError
from polopt.recipe import Recipe


def check_packages(recipe: Recipe) -> None:
    """Ask for peft where a stage trains an adapter; what data and trackers need, they ask for.

    Raises:
        MissingExtraError: names the extra to install.
    """
    ranks = [stage.model.lora for stage in recipe.stages if stage.model.lora is not None]
    if ranks and find_spec("peft") is None:
        raise MissingExtraError(
            f'model.lora: {ranks[0]} needs the package peft: pip install "polopt[lora]"'
        )
