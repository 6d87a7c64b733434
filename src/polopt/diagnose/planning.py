"""The memory plans of a recipe on a device, and the recipe as they decide it."""

from __future__ import annotations

from polopt.choices.section import Section
from polopt.memory.plan import Plan, plan
from polopt.memory.stage import stated
from polopt.memory.ways import require
from polopt.memory.work import Device
from polopt.recipe import Recipe, StageRecipe


def planned(recipe: Recipe, device: Device) -> tuple[Recipe, list[Plan | None]]:
    """The recipe with what its plans decide, and the plan of each stage; None: of networks.

    Raises:
        RecipeError: a stage cannot fit, in one line, with the two cheapest ways out.
        ModelError: a configuration cannot be read.
    """
    plans = list[Plan | None]()
    stages = list[StageRecipe]()
    for index, stage in enumerate(recipe.stages):
        if stage.domain != "text":
            plans.append(None)
            stages.append(stage)
            continue
        asked = stated(recipe, index)
        made = plan(asked.work, device, assumed=asked.assumed)
        if asked.is_known:
            require(asked.work, made, f"model.path: {stage.model.path!r} of stage {stage.name}")
        plans.append(made)
        stages.append(_decided(stage, made))
    return recipe.model_copy(update={"stages": tuple(stages)}), plans


def _decided(stage: StageRecipe, made: Plan) -> StageRecipe:
    """The stage with those choices of its plan without which a run would do otherwise."""
    changes = dict[str, Section]()
    for one in made.choices:
        if one.binds:
            name, _, key = one.field.partition(".")
            section: Section = changes[name] if name in changes else getattr(stage, name)
            changes[name] = section.model_copy(update={key: one.value})
    return stage.model_copy(update=changes)
