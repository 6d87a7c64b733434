"""The work of a stage, by its resolved recipe and the shapes of its models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from polopt import hub
from polopt.algorithms import row
from polopt.choices.roles import reads_process, reads_values
from polopt.memory.shapes import Shape, shape_at
from polopt.memory.work import GIB, REWARDS, Model, Work
from polopt.places import BUILT_IN, model_directory
from polopt.recipe import Recipe, StageRecipe
from polopt.recipe.contradictions import ENDED, rewards_by_field
from polopt.recipe.fields import flat

ASSUMED = 512
"""Tokens of a prompt, or of a given answer, where no setting limits them."""

ShapeOf = Callable[[str, str], Shape]
"""``(field, path) -> shape``."""


@dataclass(frozen=True)
class Stated:
    """The work of a stage, and what it takes for granted."""

    work: Work
    assumed: tuple[str, ...]

    @property
    def is_known(self) -> bool:
        """Whether all architectures are; where one is not, its sizes are a guess."""
        return all(model.shape.known for model in self.work.models)


def stated(recipe: Recipe, index: int, ranks: int = 1, *, vllm: bool = False) -> Stated:
    """The work of a stage of text in a resolved recipe.

    Args:
        recipe: resolved.
        index: of the stage.
        ranks: that share it; what is told is the work of each.
        vllm: whether that generates, on a GPU.

    Raises:
        ModelError: the ``config.json`` of a model cannot be read, in one line.
    """
    stage = recipe.stages[index]
    models = tuple(_models(stage, _shapes(recipe, stage)))
    shape = models[0].shape
    prompt, answer, assumed = _lengths(stage, shape)
    assumed += [
        f"{one.shape.kind or 'an unnamed architecture'} is not known here: counted as Llama"
        for one in models[:1]
        if not one.shape.known
    ]
    requires = row(stage.algorithm).requires
    sampled, compared = "prompts" in requires, "pairs" in requires
    update, rollout = stage.update, stage.rollout
    group = (rollout.group_size or 1) + (stage.credit.baseline == "greedy") if sampled else 1
    natural = row(stage.algorithm).update == "natural_step"
    work = Work(
        models=models,
        prompts=rollout.prompts_per_step if sampled else update.batch_size or 1,
        group_size=2 if compared else group,
        prompt_tokens=prompt,
        answer_tokens=answer,
        minibatches=update.minibatches or 1,
        whole_groups=compared,
        samples=sampled,
        scores=sampled or any(model.role == "reference" for model in models),
        nucleus=rollout.top_p < 1,
        evaluation=stage.evaluation.prompts if _answers(stage) else 0,
        engines=0 if stage.coordination.mode == "alternate" else stage.coordination.engines,
        engine_devices=stage.coordination.engine_devices,
        vllm=vllm,
        share_of_vllm=None if rollout.vllm_memory is None else int(rollout.vllm_memory * GIB),
        ranks=ranks,
        sharded=ranks > 1 and update.shard and stage.model.lora is None,
        dtype=stage.model.dtype,
        optimiser="natural_step" if natural else update.optimiser,
        rows=rollout.rows,
        micro_batch_tokens=update.micro_batch_tokens,
        checkpointing=update.checkpointing,
    )
    return Stated(work, tuple(assumed))


def _shapes(recipe: Recipe, stage: StageRecipe) -> ShapeOf:
    """The shape of a model that the stage names; ``stage:NAME`` has that of its stage."""

    def find(field: str, path: str) -> Shape:
        if path.startswith(ENDED):
            name = path.removeprefix(ENDED)
            path = next(one.model.path for one in recipe.stages if one.name == name)
        return shape_named(field, path, stage.model.revision if path == stage.model.path else None)

    return find


def shape_named(field: str, path: str, revision: str | None = None) -> Shape:
    """The shape of a built-in model, of one in a directory, or of one of the hub.

    Raises:
        ModelError: there is none, or its ``config.json`` cannot be read; in one line.
    """
    if path.startswith(BUILT_IN):
        return shape_at(path, field)
    directory = model_directory(field, path)
    if directory is None:
        directory = hub.configuration(field, path, revision).parent
    return shape_at(str(directory), field)


def _models(stage: StageRecipe, shape_of: ShapeOf) -> Iterator[Model]:
    """The models of a stage, the one that it is about first."""
    values, trains = flat(stage), row(stage.algorithm)
    own = shape_of("model.path", stage.model.path)
    lora, targets = stage.model.lora, stage.model.lora_targets
    if trains.trains == "reward_model":
        yield Model("reward model", own, True, lora, targets, speaks=False)
        return
    yield Model("policy", own, True, lora, targets)
    compared = bool(stage.kl.coefficient) or reads_process(values) or "reference" in trains.roles
    if compared and lora is None:  # otherwise it is the policy without its adapter
        yield Model("reference", own, False)
    if reads_values(values) and stage.critic.trunk == "own":
        path = stage.critic.path
        shape = own if path is None else shape_of("critic.path", path)
        actions = stage.credit.returns == "q" or stage.credit.baseline == "action"
        yield Model("critic", shape, True, speaks=False, actions=actions)
    if reads_process(values):
        path = stage.process.path
        shape = own if path is None else shape_of("process.path", path)
        yield Model("process reward model", shape, True, lora, targets)
    for where, reward in rewards_by_field(stage):
        if reward.model is not None:
            learns = bool(reward.refresh_every)
            shape = shape_of(f"{where}.model", reward.model)
            yield Model(REWARDS, shape, learns, speaks=False)


def _lengths(stage: StageRecipe, shape: Shape) -> tuple[int, int, list[str]]:
    """The longest prompt and answer, and which of them no setting limits."""
    assumed = list[str]()
    given = "prompts" not in row(stage.algorithm).requires
    answer = min(stage.rollout.max_new_tokens, shape.context)
    if given:
        answer = min(max(answer, ASSUMED), shape.context // 2)
        assumed.append(f"given answers have at most {answer} tokens")
    prompt = stage.data.max_prompt_tokens
    if prompt is None:
        prompt = max(1, min(ASSUMED, shape.context - answer))
        assumed.append(f"prompts have at most {prompt} tokens; data.max_prompt_tokens says it")
    return prompt, answer, assumed


def _answers(stage: StageRecipe) -> bool:
    """Whether an evaluation samples answers: where something can judge them."""
    judged = bool(stage.rewards) or stage.data.parsed.of.has_verifier
    return judged and row(stage.algorithm).has("rollout.max_new_tokens")
