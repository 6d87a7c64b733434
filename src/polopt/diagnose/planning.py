"""The memory plans of a recipe on a device, and the recipe as they decide it."""

from __future__ import annotations

from dataclasses import replace

from polopt.algorithms import row
from polopt.choices.section import Section
from polopt.cluster.placement import trainers
from polopt.errors import ModelError
from polopt.memory.plan import Choice, Plan, plan
from polopt.memory.stage import Stated, stated
from polopt.memory.ways import require
from polopt.memory.work import Device
from polopt.ranks import place
from polopt.recipe import Recipe, StageRecipe

LOCAL = Choice("rollout.engine", "local", "vllm has no room beside what trains", "plan", binds=True)
UNPLANNED = "networks in control are too small for a plan"


def ranks_of(recipe: Recipe) -> int:
    """How many ranks a run has: those that torchrun started, or the trainers of mode cluster."""
    return max(place().size, trainers(recipe.stages))


def device_of_each(device: Device, ranks: int) -> Device:
    """What each of several ranks has: a device like this one, or its part of the main memory."""
    if ranks == 1:
        return device
    here = min(ranks, place().local_size) if place().size > 1 else ranks
    memory = device.memory // here if device.kind == "cpu" else device.memory
    return replace(device, memory=memory, name=f"{device.name}, for each of {ranks} ranks")


def plan_of(recipe: Recipe, index: int, ranks: int, device: Device) -> tuple[Stated, Plan]:
    """The work of a stage of text and its plan on a device; it may not fit.

    What ``auto`` would have vLLM generate is the local engine's where it fits with that alone.

    Raises:
        ModelError: the ``config.json`` of a model cannot be read, in one line.
    """
    asked = _asked(recipe, index, ranks, device)
    made = plan(asked.work, device, assumed=asked.assumed)
    if made.fits or not asked.work.vllm or recipe.stages[index].rollout.engine != "auto":
        return asked, made
    asked = stated(recipe, index, ranks)
    made = plan(asked.work, device, assumed=asked.assumed)
    return asked, replace(made, choices=(LOCAL, *made.choices))


def _asked(recipe: Recipe, index: int, ranks: int, device: Device) -> Stated:
    """The work of a stage, with the engine that generates on a device."""
    stage = recipe.stages[index]
    vllm = _by_vllm(stage, ranks, device)
    found = stated(recipe, index, ranks, vllm=vllm)
    if stage.rollout.engine != "auto" or not (device.predicted and found.work.samples):
        return found
    line = 'rollout.engine = "auto" is taken for local; "vllm" asks for the plan with vllm'
    return replace(found, assumed=(*found.assumed, line))


def _by_vllm(stage: StageRecipe, ranks: int, device: Device) -> bool:
    """Whether vLLM generates; what is installed beside a card that is not here nobody knows."""
    wish = stage.rollout.engine
    if device.kind != "cuda" or wish == "local":
        return False
    if wish == "vllm" or device.predicted:
        return wish == "vllm"
    import torch

    from polopt.rollout.engines.choose import chosen

    own = torch.device("cuda" if stage.run.device == "auto" else stage.run.device)
    samples = "prompts" in row(stage.algorithm).requires
    alone = ranks == 1 or stage.coordination.mode != "alternate"
    return chosen(wish, own, samples=samples, alone=alone).engine == "vllm"


def planned(recipe: Recipe, device: Device) -> tuple[Recipe, list[Plan | str]]:
    """The recipe with what its plans decide, and the plan of each stage, or why it has none.

    Args:
        recipe: resolved.
        device: that a run would use; each of its ranks has one.

    A configuration that says too little is no obstacle: what cannot be loaded is told by whatever
    loads it.

    Raises:
        RecipeError: a stage cannot fit, in one line, with the two cheapest ways out.
    """
    ranks = ranks_of(recipe)
    device = device_of_each(device, ranks)
    plans = list[Plan | str]()
    stages = list[StageRecipe]()
    for index, stage in enumerate(recipe.stages):
        if stage.domain != "text":
            plans.append(UNPLANNED)
            stages.append(stage)
            continue
        try:
            asked, made = plan_of(recipe, index, ranks, device)
        except ModelError as error:
            plans.append(str(error))
            stages.append(stage)
            continue
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
