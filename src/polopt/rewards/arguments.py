"""The arguments of a reward function: what its signature asks for, by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polopt.errors import RewardError, did_you_mean
from polopt.types import Prompt

Function = Callable[..., Any]


def offered(
    prompts: Sequence[Prompt], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
) -> dict[str, list[Any]]:
    """Every argument that a reward function may ask for: the batch, and the data columns by name.

    A column that a row lacks is None for this row. The names of the batch win over columns.
    """
    columns = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return {
        **{name: [prompt.columns.get(name) for prompt in prompts] for name in columns},
        "prompts": [prompt.text for prompt in prompts],
        "prompt_ids": [list(prompt.tokens) for prompt in prompts],
        "completions": list(completions),
        "completion_ids": [[int(token) for token in ids] for ids in completion_ids],
    }


@dataclass(frozen=True)
class Declared:
    """The arguments that the signature of a reward function asks for."""

    names: frozenset[str]
    required: Sequence[str]  # those without a default
    everything: bool  # it takes ``**kwargs``


def declared(name: str, function: Function) -> Declared:
    """Read a signature.

    Args:
        name: of the reward, for messages.
        function: any callable.

    Raises:
        RewardError: a required parameter that cannot be given by name.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward {name!r}: its parameters cannot be read; a def function"
        ) from error
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise RewardError(
                f"reward {name!r}: parameter {parameter.name!r} is positional-only; "
                "a parameter that can be given by name"
            )
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Declared(
        names=frozenset(p.name for p in named),
        required=[p.name for p in named if p.default is p.empty],
        everything=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def wanted(name: str, asked: Declared, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Copies of the arguments in ``batch`` (of :func:`offered`) that a function asks for.

    Raises:
        RewardError: a required parameter that is neither part of the batch nor a column.
    """
    for parameter in asked.required:
        if parameter not in batch:
            raise _unknown(name, parameter, batch)
    names = batch.keys() if asked.everything else asked.names & batch.keys()
    return {key: copy.deepcopy(batch[key]) for key in names}


def check_columns(name: str, asked: Declared, rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a function that requires a column that no row has; reads no more rows than it must.

    Args:
        name: of the reward, for messages.
        asked: its signature.
        rows: columns of row after row; one that only some rows have is None in the others.

    Raises:
        RewardError: names the parameter.
    """
    known = offered((), (), ())
    lacking = [parameter for parameter in asked.required if parameter not in known]
    for columns in rows if lacking else ():
        known |= {column: [] for column in columns}
        lacking = [parameter for parameter in lacking if parameter not in columns]
        if not lacking:
            return
    if lacking:
        raise _unknown(name, lacking[0], known)


def _unknown(name: str, parameter: str, batch: Mapping[str, list[Any]]) -> RewardError:
    near = did_you_mean(parameter, batch)
    hint = f"; {near}" if near else ""
    return RewardError(
        f"reward {name!r}: parameter {parameter!r} is no column of the data{hint} "
        f"(there are: {', '.join(sorted(batch))})"
    )
