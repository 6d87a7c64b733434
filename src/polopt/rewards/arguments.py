"""The arguments of a reward function: what its signature asks for, by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polopt.errors import RewardError, did_you_mean
from polopt.types import Prompt

Function = Callable[..., Any]


def offered(
    prompts: Sequence[Prompt], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
) -> dict[str, list[Any]]:
    """Everything that a function may ask for: the batch, and every data column by name.

    A column that a row lacks is None there. The names of the batch win over columns.
    """
    columns = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return {
        **{name: [prompt.columns.get(name) for prompt in prompts] for name in columns},
        "prompts": [prompt.text for prompt in prompts],
        "prompt_ids": [list(prompt.tokens) for prompt in prompts],
        "completions": list(completions),
        "completion_ids": [[int(token) for token in ids] for ids in completion_ids],
    }


def wanted(name: str, function: Function, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Copies of what the signature of a function declares; all of it where it takes ``**kwargs``.

    Args:
        name: of the reward, for messages.
        function: any callable.
        batch: see ``offered``.

    Raises:
        RewardError: a required parameter that is neither part of the batch nor a column.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward {name!r}: its parameters cannot be read; a def function"
        ) from error
    names: set[str] = set()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            names.update(batch)
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            names.add(parameter.name)
            if parameter.name not in batch and parameter.default is parameter.empty:
                raise _unknown(name, parameter.name, batch)
        elif parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise RewardError(
                f"reward {name!r}: parameter {parameter.name!r} is positional-only; "
                "a parameter that can be given by name"
            )
    return {key: copy.deepcopy(values) for key, values in batch.items() if key in names}


def _unknown(name: str, parameter: str, batch: Mapping[str, list[Any]]) -> RewardError:
    near = did_you_mean(parameter, batch)
    hint = f"; {near}" if near else ""
    return RewardError(
        f"reward {name!r}: parameter {parameter!r} is no column of the data{hint} "
        f"(there are: {', '.join(sorted(batch))})"
    )
