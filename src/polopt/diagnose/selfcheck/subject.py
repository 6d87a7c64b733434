"""What is checked: a stage of the user's recipe, assembled as a run would, and one small batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from torch import Tensor

from polopt.assembly import StageInputs, build
from polopt.assembly.around import Update, core
from polopt.choices.domain import TEXT
from polopt.coordination.stage import Event, Stage
from polopt.errors import counted
from polopt.models.sharded import whole
from polopt.recipe import StageRecipe
from polopt.roles import Actor, Scorer
from polopt.roles.policies.token import Quantity
from polopt.rollout.groups import has_contrast
from polopt.types import Advantages, Batch, Experience, Finish, Group, Outcome, Sample
from polopt.update import FirstOrder
from polopt.update.natural_step import NaturalStep

PROMPTS, ANSWERS, TOKENS, ROWS = 3, 4, 12, 6  # of a batch, at most
POLICY = "policy"  # the name of its learner
PATIENCE = 1000  # batches that a learner may skip before it learns
REWARDS = (1.0, 0.2, 0.7, 0.4, 0.9, 0.1, 0.6)  # of answers that all earned the same
READ: Sequence[Quantity] = ("logp", "values", "last_values")  # outputs that are compared


@dataclass(frozen=True)
class Part:
    """A learner whose gradient is compared, and what stands around it."""

    learner: FirstOrder[Any] | NaturalStep[Any]
    wrapped: Callable[[Update], Update]
    selects: bool  # whether it may learn from some of the rows alone, or wait

    @property
    def name(self) -> str:
        """Of the learner."""
        return self.learner.name

    @property
    def scorer(self) -> Scorer:
        """The role that it trains."""
        return self.learner.scorer

    @property
    def quantities(self) -> Sequence[Quantity]:
        """The outputs of the role that its loss reads."""
        return [one for one in READ if one in self.learner.loss.want]

    def gradient(
        self,
        experience: Experience,
        advantages: Advantages,
        scorer: Scorer,
        tokens: int | None = None,
    ) -> dict[str, Tensor]:
        """The gradient of the step's loss, by weight, with the outputs of a scorer.

        Empty where no row of the batch takes part.
        """
        learner, found = copy(self.learner), dict[str, Tensor]()
        learner.scorer = scorer
        asked = list[bool]()

        def measure(own: Experience, its: Advantages, _: int) -> dict[str, float]:
            found.update(learner.gradient(own, its, tokens))
            asked.append(True)
            return {}

        update = self.wrapped(measure)
        most = PATIENCE if self.selects else 1  # some learn only later, or from every other batch
        for step in range(most):
            update(experience, advantages, step)
            if asked:
                break
        return {name: whole(one) for name, one in found.items()}


@dataclass(frozen=True)
class Subject:
    """A stage and one batch of it, with what its roles said before the update."""

    inputs: StageInputs
    stage: Stage
    batch: Any  # a Batch; in control what was played
    experience: Experience
    parts: Sequence[Part]
    notes: Sequence[str]  # what was changed of the recipe, to be said

    @property
    def actor(self) -> Actor | None:
        """The policy that is trained, of text; None of a reward model and in control."""
        roles = (part.scorer for part in self.parts if part.name == POLICY)
        return next((role for role in roles if isinstance(role, Actor)), None)

    @property
    def samples(self) -> list[tuple[Group, Sample]]:
        """The rows of a batch of text, in its order."""
        if not isinstance(self.batch, Batch):
            return []
        return [(group, sample) for group in self.batch.groups for sample in group.samples]

    @property
    def sampled(self) -> bool:
        """Whether an engine drew the responses."""
        return any(sample.spans for _, sample in self.samples)


def stand_in(completions: Sequence[str]) -> list[float]:
    """The rewards of a model that an earlier stage has yet to train: different characters."""
    return [len(set(text)) / max(1, len(text)) for text in completions]


def unheard(_: Event) -> None:
    """An observer of a stage that is built to be checked: what it says is of no run."""


def small(recipe: StageRecipe) -> StageRecipe:
    """The same recipe with a batch that takes seconds: few rows, short answers, one device."""
    if recipe.domain != TEXT.name:
        return recipe
    rollout, update = recipe.rollout, recipe.update
    tokens = min(rollout.max_new_tokens, TOKENS)
    changed: dict[str, Any] = {
        "max_new_tokens": tokens,
        "min_new_tokens": min(rollout.min_new_tokens, tokens),
        "prompts_per_step": min(rollout.prompts_per_step, PROMPTS),
        "resample_rounds": 0,
    }
    if rollout.group_size is not None:
        changed["group_size"] = min(rollout.group_size, ANSWERS)
    batch = None if update.batch_size is None else min(update.batch_size, ROWS)
    settings = {"mode": "alternate", "target_mismatch": None}  # who generates when changes no loss
    return recipe.model_copy(
        update={
            "rollout": rollout.model_copy(update=changed),
            "update": update.model_copy(update={"batch_size": batch, "micro_batch_tokens": None}),
            "coordination": recipe.coordination.model_copy(update=settings),
        }
    )


def subject(inputs: StageInputs) -> Subject:
    """Assemble a stage, and let it make one batch.

    Args:
        inputs: with the recipe as :func:`small` makes it.

    Raises:
        UserError: what a run would be refused for.
    """
    stage = build(inputs)
    stage.source.publish(0)
    batch, notes = stage.source.next_batch(), list[str]()
    if isinstance(batch, Batch):
        batch, notes = _contrasted(batch)
    experience = stage.prepare(batch)
    return Subject(inputs, stage, batch, experience, parts_of(stage), notes)


def parts_of(stage: Stage) -> list[Part]:
    """The learners of a stage that take a gradient on what it prepares."""
    return [
        Part(inner, around, selects=inner is not learner)
        for learner in stage.learners
        for inner, around in [core(learner)]
        if isinstance(inner, FirstOrder | NaturalStep)
    ]


def _contrasted(batch: Batch) -> tuple[Batch, list[str]]:
    """The batch with rewards that teach something, and what was changed for that.

    The answers are cut short, so that most earn nothing: a step without a gradient would agree
    with everything.
    """
    groups = [_ended(group) for group in batch.groups]
    dull = [_is_dull(group) for group in groups]
    if not any(dull):
        return replace(batch, groups=tuple(groups)), []
    row = count()
    graded = [
        _graded(one, row) if is_dull else one for one, is_dull in zip(groups, dull, strict=True)
    ]
    note = (
        f"the short answers to {counted(sum(dull), 'prompt')} all earned the same: here they earn "
        f"from {min(REWARDS)} to {max(REWARDS)} in turn, or there would be no gradient to compare"
    )
    return replace(batch, groups=tuple(graded)), [note]


def _is_dull(group: Group) -> bool:
    return any(sample.spans for sample in group.samples) and not has_contrast(group)


def _ended(group: Group) -> Group:
    """Answers that were cut here count as ended: the run itself may drop those that were cut."""
    samples = (
        replace(one, finish=Finish.STOP) if one.spans and one.finish is Finish.LENGTH else one
        for one in group.samples
    )
    return replace(group, samples=tuple(samples))


def _graded(group: Group, row: Iterator[int]) -> Group:
    """The answers with rewards that all differ, as long as there are few."""
    rewards = [REWARDS[next(row) % len(REWARDS)] for _ in group.samples]
    samples = (
        replace(
            sample,
            reward=reward,
            outcome=Outcome.OK if reward > 0.5 else Outcome.WRONG,
            token_rewards=None,
        )
        for sample, reward in zip(group.samples, rewards, strict=True)
    )
    return replace(group, samples=tuple(samples))
