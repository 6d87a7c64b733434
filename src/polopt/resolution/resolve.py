"""Recipe and row put together: every field that has an effect gets its value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polopt.algorithms import row
from polopt.choices.section import either
from polopt.recipe import (
    Problem,
    Recipe,
    Reward,
    StageRecipe,
    catalogue,
    contradictions,
    name_in,
    raise_for,
    shown,
)
from polopt.recipe.fields import flat, given, row_decides, section_types
from polopt.recipe.row import Row
from polopt.resolution.checks import findings, links
from polopt.resolution.effects import idle


@dataclass(frozen=True)
class _Filled:
    """A stage with the values of its row, and its fields without effect."""

    row: Row
    stage: StageRecipe
    values: dict[str, Any]
    given: set[str]
    idle: dict[str, str]  # field: reason


def resolve(recipe: Recipe, *, own_reward: bool = False) -> Recipe:
    """The recipe with every field decided that its rows use; resolving again changes nothing.

    A field without effect is refused where a stage states it, and dropped where it is shared and
    another stage uses it. In the result a field is ``None`` only where that is a meaning of its
    own (no dual clip) or where it has no effect.

    Args:
        recipe: What ``polopt.recipe.load`` returns.
        own_reward: A reward function comes from Python, so that the recipe need not name one.

    Raises:
        RecipeError: an unknown algorithm, a field without effect, a contradiction.
    """
    raise_for(contradictions(recipe))
    filled = [_fill(recipe, index, own_reward) for index in range(len(recipe.stages))]
    raise_for(list(_check_starts(recipe, filled)))
    raise_for(list(_without_effect(recipe, filled)) or list(_undecided(recipe, filled)))
    resolved = Recipe(stages=tuple(_settled(filled, index) for index in range(len(filled))))
    raise_for(
        [
            Problem(name_in(recipe, index, field), text)
            for index, (one, stage) in enumerate(zip(filled, resolved.stages, strict=True))
            for field, text in (
                *findings(one.row, stage, own_reward=own_reward),
                *links(stage, {other.stage.name: other.row.trains for other in filled[:index]}),
            )
        ]
    )
    return resolved


def stated_in_vain(recipe: Recipe) -> frozenset[str]:
    """The fields that the last stage of a recipe states and that have no effect in it."""
    last = _fill(recipe, len(recipe.stages) - 1, own_reward=True)
    return frozenset(last.given & last.idle.keys())


def _fill(recipe: Recipe, index: int, own_reward: bool) -> _Filled:
    stage = recipe.stages[index]
    own = row(stage.algorithm, name_in(recipe, index, "algorithm"))
    values = flat(stage)
    for field, default in own.defaults(stage.domain).items():
        if values[field] is None:
            values[field] = default
    if values["from"] is None:
        values["from"] = next((stage.name for stage in _starts(recipe, index, own)), None)
    _derive(values)
    if "reward" in own.requires and not values["rewards"] and not own_reward:
        values["rewards"] = _of_task(stage)
    reasons = {field: reason for field in values if (reason := idle(own, values, field))}
    return _Filled(own, stage, values, given(stage), reasons)


def _starts(recipe: Recipe, index: int, own: Row) -> Iterator[StageRecipe]:
    """The earlier stages that this one can start from, the nearest first.

    Only a reward model begins where a reward model ended.
    """
    for stage in reversed(recipe.stages[:index]):
        if row(stage.algorithm).trains in ("actor", own.trains):
            yield stage


def _check_starts(recipe: Recipe, filled: list[_Filled]) -> Iterator[Problem]:
    """A policy does not start from a reward model, and no model is named that is not loaded."""
    for index, one in enumerate(filled):
        start = one.values["from"]
        if start is None:
            continue
        possible = {stage.name: stage for stage in _starts(recipe, index, one.row)}
        if start not in possible:
            advice = f"a policy: {either(list(possible))}" if possible else "a policy"
            yield Problem(
                name_in(recipe, index, "from"),
                f"{shown(start)} is not allowed; it ends in a reward model, and {one.row.name} "
                f"starts from {advice}",
            )
        elif not _same_kind(one.row, row(possible[start].algorithm)):
            yield Problem(
                name_in(recipe, index, "from"),
                f"{shown(start)} is not allowed; it ends in a policy of "
                f"{possible[start].algorithm}, whose distribution {one.row.name} cannot train",
            )
        elif one.stage.model.path != possible[start].model.path:
            yield Problem(
                name_in(recipe, index, "model.path"),
                f"{shown(one.stage.model.path)} has no effect: the stage starts from the weights "
                f"of {start}; remove it",
            )


def _same_kind(one: Row, before: Row) -> bool:
    """Rows that learn from a buffer have a policy of their own kind; all others share one."""
    return one.fixed.get("pathwise") == before.fixed.get("pathwise")


def _derive(values: dict[str, Any]) -> None:
    """Defaults that follow from other fields."""
    if values["objective.aggregation_length"] is None:
        values["objective.aggregation_length"] = values["rollout.max_new_tokens"]
    if values["model.lora_alpha"] is None and values["model.lora"] is not None:
        values["model.lora_alpha"] = 2 * values["model.lora"]
    if values["run.checkpoint_every"] is None:
        values["run.checkpoint_every"] = max(1, values["run.steps"] // 10)


def _of_task(stage: StageRecipe) -> tuple[Reward, ...]:
    """A task brings its own verifier, so that a recipe need not name it."""
    return (Reward(verifier="task"),) if stage.data.parsed.of.has_verifier else ()


def _without_effect(recipe: Recipe, filled: list[_Filled]) -> Iterator[Problem]:
    """Refuse a stated field without effect."""
    seen: set[str] = set()
    for index, one in enumerate(filled):
        for field in (name for name in one.values if name in one.given & one.idle.keys()):
            shared = field in one.stage.inherited
            elsewhere = any(field in o.given and field not in o.idle for o in filled)
            name = name_in(recipe, index, field)
            if (shared and elsewhere) or name in seen:
                continue
            seen.add(name)
            value = one.values[field]
            what = "" if field == "rewards" else f"{shown(value)} has "
            yield Problem(name, f"{what}{one.idle[field]}")


def _undecided(recipe: Recipe, filled: list[_Filled]) -> Iterator[Problem]:
    """Refuse a field in use that neither the recipe nor the row decides."""
    here = [(i, one) for i, one in enumerate(filled) if one.stage.domain in one.row.places]
    for index, one in here:
        for field in row_decides():
            if one.values[field] is None and field not in one.idle:
                meaning = catalogue()[field].description
                yield Problem(name_in(recipe, index, field), f"missing; {meaning}")


def _settled(filled: list[_Filled], index: int) -> StageRecipe:
    one = filled[index]
    sections = {
        name: type(getattr(one.stage, name)).model_validate(
            {
                field.partition(".")[2]: value
                for field, value in one.values.items()
                if field.startswith(f"{name}.") and value is not None and field not in one.idle
            },
            by_alias=True,
            by_name=False,
        )
        for name in section_types()
    }
    rewards = () if "rewards" in one.idle else one.values["rewards"]
    update = {**sections, "rewards": rewards, "start": one.values["from"]}
    return one.stage.model_copy(update={**update, "inherited": frozenset()})
