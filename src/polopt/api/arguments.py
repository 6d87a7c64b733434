"""Arguments that are fields of the recipe, too: the same ranges and the same words for both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from polopt.errors import RecipeError
from polopt.recipe import Rollout, Run, Section
from polopt.recipe.messages import field_name, refused

_SECTIONS: Mapping[str, type[Section]] = {"rollout": Rollout, "run": Run}
_SAME: Mapping[str, str] = MappingProxyType({})


def check(
    section: Literal["rollout", "run"],
    values: Mapping[str, Any],
    *,
    names: Mapping[str, str] = _SAME,
    or_zero: Collection[str] = (),
) -> None:
    """Check arguments by the fields of a section.

    Args:
        section: of the recipe.
        values: by the names of the fields.
        names: of arguments that are called something else.
        or_zero: fields that may also be 0 here.

    Raises:
        RecipeError: the first that is wrong; ``top_p: 2 is not allowed; a number > 0 and <= 1``.
    """
    fields = {name: v for name, v in values.items() if name not in or_zero or v != 0}
    try:
        _SECTIONS[section].model_validate(fields)
    except ValidationError as error:
        name, *rest = error.errors(include_url=False, include_context=False)[0]["loc"]
        name, value = str(name), fields[str(name)]
        for part in rest:
            value = value[part]
        text = refused((section, name, *rest), value)
        if name in or_zero:
            text = text.replace("; ", "; 0, or ", 1)
        raise RecipeError(f"{field_name((names.get(name, name), *rest))}: {text}") from None
