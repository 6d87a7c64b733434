"""The parameters of reward functions, compared with the columns of data before a model loads."""

from __future__ import annotations

from collections.abc import Iterator

from polopt.algorithms import row
from polopt.choices.domain import TEXT
from polopt.data import BadRowError, read_source
from polopt.data.rows import Columns
from polopt.envs.text import load as load_task
from polopt.recipe import StageRecipe
from polopt.rewards.arguments import check_columns, declared
from polopt.rollout.rewarding import RewardFunction, functions


def check_signatures(stage: StageRecipe, given: RewardFunction | None = None) -> None:
    """Refuse a reward function with a parameter that nothing can fill.

    Args:
        stage: resolved.
        given: a function from Python, which takes the place of the recipe's rewards.

    Raises:
        RewardError: names the function and the parameter, and a column that may be meant.
        DataError: a source that cannot be read.
    """
    if stage.domain != TEXT.name or row(stage.algorithm).trains != "actor":
        return
    data = stage.data
    sources = {"data.source": data.source, "data.evaluation_source": data.evaluation_source}
    for name, function in functions(stage, given).items():
        for field, source in sources.items():
            if source is not None:
                check_columns(name, declared(name, function), _columns(stage, source, field))


def _columns(stage: StageRecipe, source: str, field: str) -> Iterator[Columns]:
    """The columns of row after row; the rows of a task are alike."""
    data = stage.data
    if source == data.source and data.parsed.of.has_verifier:
        yield load_task(source, data.parameters, stage.run.seed).row("train", 0)
        return
    rows = read_source(data, source, field)
    yield from (columns for _, columns in rows if not isinstance(columns, BadRowError))
