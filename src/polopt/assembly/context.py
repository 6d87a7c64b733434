"""The context of a stage with a language model: data, rewards, evaluation, lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from polopt.assembly.fits import check_reach, check_vocabulary
from polopt.assembly.reward import RewardModel, reward_models
from polopt.coordination.sources import RolloutSource
from polopt.coordination.stage import Evaluation, Event, Learner, Observer, Stage, Until
from polopt.errors import ModelError, RecipeError
from polopt.math.divergence import kl_divergence_of_logs
from polopt.models import LanguageModel, ScalarModel, context_length, load, load_scalar, save
from polopt.models.adapter import DIRECTORY, attach, load_adapter
from polopt.recipe import StageRecipe, Update
from polopt.recipe.contradictions import ENDED
from polopt.rewards import RewardSpec, Scored, first_batch_report
from polopt.roles import Actor, Scorer
from polopt.roles.scorer import trainable
from polopt.rollout.engines import LocalEngine
from polopt.rollout.evaluation import Examination, evaluate, means, sample_line
from polopt.rollout.groups import experience, rollout_metrics
from polopt.rollout.rewarding import Judge, RewardFunction, judge, specs, text_of
from polopt.rollout.text import TextSource, text_source
from polopt.seeding import derive
from polopt.types import Advantages, Batch, Experience, Group, Metrics, Sampling
from polopt.update import AdaptiveNumber, FirstOrder
from polopt.update.minibatch import Loss
from polopt.update.natural_step import Divergence

SAMPLES_A_STEP = 8  # training responses recorded of each step
B = TypeVar("B")  # the batch type of a source
M = TypeVar("M", LanguageModel, ScalarModel)


@dataclass(frozen=True)
class StageInputs:
    """The inputs from which a stage is assembled. Paths: directories, hub ids or built-in names."""

    recipe: StageRecipe  # resolved
    weights: str  # of the model to train: the start of the stage, or a checkpoint inside it
    start: str  # initial weights of the stage: the reference, and the trunk of a new critic
    device: torch.device
    observe: Observer
    compare: bool  # evaluate before and after
    reward: RewardFunction | None = None  # from Python
    ends: Mapping[str, str] = field(default_factory=dict[str, str])  # stage -> where it ended

    def language_model(self, path: str) -> LanguageModel:
        """A language model on the stage's device; a built-in one is initialised by the seed."""
        loaded = load(self._located(path), revision=self._revision(path), seed=self._seed)
        loaded.model.to(self.device)  # pyright: ignore[reportArgumentType] - torch's overloads
        return loaded

    def scalar_model(self, path: str, outputs: int = 1) -> ScalarModel:
        """The same with a linear head of ``outputs`` numbers in the place of the vocabulary."""
        loaded = load_scalar(
            self._located(path), outputs=outputs, revision=self._revision(path), seed=self._seed
        )
        loaded.model.to(self.device)  # pyright: ignore[reportArgumentType] - torch's overloads
        return loaded

    def reader(self, field: str, path: str, policy: LanguageModel, outputs: int = 1) -> ScalarModel:
        """A scalar model that takes the responses of the policy as input.

        Raises:
            ModelError: a model that cannot be loaded, or has too small a vocabulary or context.
        """
        return self._readable(field, path, policy, partial(self.scalar_model, outputs=outputs))

    def language_reader(self, field: str, path: str, policy: LanguageModel) -> LanguageModel:
        """A language model that takes the responses of the policy as input."""
        return self._readable(field, path, policy, self.language_model)

    def _readable(
        self, field: str, path: str, policy: LanguageModel, load: Callable[[str], M]
    ) -> M:
        try:
            loaded = load(path)
        except ModelError as error:
            raise ModelError(str(error).replace("model.path", field, 1)) from error
        new = self.recipe.rollout.max_new_tokens
        longest = self.recipe.data.max_prompt_tokens or context_length(policy) - new
        check_vocabulary(field, (path, loaded), (self.recipe.model.path, policy))
        check_reach(field, loaded, longest + new)
        return loaded

    def policy(self) -> LanguageModel:
        """The trained policy: all of its weights, or an adapter on the frozen initial ones."""
        return self._trained(self.language_model)

    def reward_model(self) -> ScalarModel:
        """The trained reward model: the same with one output, whose head is trained in full."""
        return self._trained(self.scalar_model, head="score")

    def _trained(self, load: Callable[[str], M], head: str | None = None) -> M:
        settings = self.recipe.model
        if settings.lora is None:
            return load(self.weights)
        loaded = load(self.start)
        seed = derive(self.recipe.run.seed, self.recipe.name, "adapter")
        attach(loaded.model, settings, seed, head=head)
        if self.weights != self.start:  # inside the stage
            load_adapter(loaded.model, Path(self.weights) / DIRECTORY)
        trained = sum(p.numel() for p in trainable(loaded.model).values())
        frozen = loaded.model.num_parameters() - trained
        text = f"adapter of rank {settings.lora}: {trained:,} weights beside {frozen:,} frozen ones"
        self.tell(text)
        return loaded

    def tell(self, text: str, *, warning: bool = False) -> None:
        """Send a message to the observers; a warning is also written to the run directory."""
        kind, name = ("warning", "message") if warning else ("message", "text")
        self.observe(Event(kind, {name: text}))

    def update(self, **changes: Any) -> Update:  # noqa: ANN401
        """The section ``update`` of the recipe with changes, for one of the learners."""
        return self.recipe.update.model_copy(update=changes)

    @property
    def steps(self) -> int:
        """Batches that the stage consumes."""
        assert self.recipe.run.steps is not None, "resolved by the row"
        return self.recipe.run.steps

    @property
    def autocast(self) -> bool:
        """Whether forward passes compute in bfloat16."""
        return self.recipe.model.dtype == "bfloat16"

    @property
    def _seed(self) -> int:
        return derive(self.recipe.run.seed, "model")

    def _located(self, path: str) -> str:
        """The checkpoint at the end of an earlier stage, for ``stage:NAME``."""
        return self.ends[path.removeprefix(ENDED)] if path.startswith(ENDED) else path

    def _revision(self, path: str) -> str | None:
        return self.recipe.model.revision if path == self.recipe.model.path else None


class PolicyContext(Protocol):
    """The context of a trained policy, text or control, as its learners need it."""

    @property
    def inputs(self) -> StageInputs:
        """The inputs of the stage."""
        ...

    @property
    def recipe(self) -> StageRecipe:
        """The resolved recipe of the stage."""
        ...

    @property
    def adaptive(self) -> Sequence[AdaptiveNumber]:
        """The adaptive numbers of the stage."""
        ...

    @property
    def actor(self) -> Scorer:
        """The policy whose weights are trained."""
        ...

    @property
    def divergence(self) -> Divergence:
        """``(old, new) -> KL(old‖new)`` of two distributions of the actor."""
        ...


@dataclass(frozen=True)
class StageContext:
    """The context of a trained language model: data, rewards and sampling."""

    inputs: StageInputs
    actor: Actor
    text: TextSource
    rewards: Sequence[RewardSpec]
    sampling: Sampling
    reward_models: Sequence[RewardModel] = ()
    adaptive: Sequence[AdaptiveNumber] = ()  # of the recipe

    @property
    def recipe(self) -> StageRecipe:
        """The resolved recipe of the stage."""
        return self.inputs.recipe

    @property
    def divergence(self) -> Divergence:
        """``KL(old‖new)`` of two next-token distributions, given by their log-probs."""
        return kl_divergence_of_logs

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return cast(int, self.text.tokeniser.tokenizer.pad_token_id)

    def engine(self, purpose: str) -> LocalEngine:
        """An engine with random numbers by ``purpose``; those of evaluation by the run alone."""
        run, name = self.recipe.run, self.recipe.name
        place = (purpose,) if purpose == "evaluation" else (name, purpose)
        seed = derive(run.seed, *place)
        return LocalEngine(self.actor.language_model, seed=seed, autocast=self.actor.autocast)

    def tensors(self, batch: Batch) -> Experience:
        """The batch as tensors on the device of the actor."""
        return experience(batch, pad_id=self.pad_id, device=self.inputs.device)


def stage_context(
    inputs: StageInputs, *, demonstrations: bool = False, preferences: bool = False
) -> StageContext:
    """Load the model, the data and the rewards of a stage, and report on the data."""
    recipe, rollout = inputs.recipe, inputs.recipe.rollout
    language_model = inputs.policy()
    models = reward_models(inputs, language_model)
    text = text_source(
        recipe, language_model, demonstrations=demonstrations, preferences=preferences
    )
    report(inputs, text)
    return StageContext(
        inputs=inputs,
        actor=Actor(language_model, autocast=inputs.autocast),
        text=text,
        rewards=specs(
            recipe, text.task, inputs.reward, {m.name: m.function(inputs.device) for m in models}
        ),
        reward_models=models,
        sampling=Sampling(
            rollout.temperature,
            rollout.top_p,
            rollout.max_new_tokens,
            rollout.min_new_tokens,
            tuple(rollout.stop),
        ),
    )


def policy_learner(of: PolicyContext, loss: Loss[Any], **options: Any) -> FirstOrder[Any]:  # noqa: ANN401
    """The learner of the policy, by first-order optimiser steps."""
    recipe = of.recipe
    return FirstOrder(
        of.actor,
        loss,
        recipe.update,
        steps=of.inputs.steps,
        seed=derive(recipe.run.seed, recipe.name, "update"),
        name="policy",
        **options,
    )


def report(inputs: StageInputs, text: TextSource) -> None:
    """Report what was found in the data to the observers."""
    for line in text.rows.report.lines():
        inputs.tell(line)


def assembled(
    of: StageContext,
    source: RolloutSource[Batch],
    *,
    prepare: Callable[[Batch], Experience],
    credit: Callable[[Experience], Advantages],
    learners: Sequence[Learner],
    evaluate: Callable[[bool], Evaluation] | None = None,
) -> Stage:
    """The stage of a language model, evaluated by its responses unless ``evaluate`` is given."""
    recipe, examine = of.recipe, evaluate or examiner(of)
    if examine is None and recipe.evaluation.every:
        raise RecipeError(
            f"evaluation.every: {recipe.evaluation.every} is not allowed where nothing says which "
            f"answers to {recipe.data.source} are right; name a reward, or 0"
        )
    return staged(
        of.inputs,
        source,
        prepare=prepare,
        credit=credit,
        learners=learners,
        save_model=lambda path: save(of.actor.language_model, path),
        describe=_describer(of),
        evaluate=examine,
        compare=bool(of.rewards) or evaluate is not None,
    )


def staged(
    inputs: StageInputs,
    source: RolloutSource[B],
    *,
    prepare: Callable[[B], Experience],
    credit: Callable[[Experience], Advantages],
    learners: Sequence[Learner],
    save_model: Callable[[Path], None],
    describe: Callable[[B], tuple[Metrics, Sequence[Mapping[str, Any]]]],
    evaluate: Callable[[bool], Evaluation] | None,
    batches_per_step: int = 1,
    compare: bool = True,
) -> Stage:
    """Build the :class:`Stage`; its name and lengths are those of the recipe."""
    recipe, steps, until = inputs.recipe, inputs.steps, inputs.recipe.until
    return Stage(
        name=recipe.name,
        algorithm=recipe.algorithm,
        steps=steps,
        source=source,
        prepare=prepare,
        credit=credit,
        learners=learners,
        save_model=save_model,
        evaluate=evaluate,
        describe=describe,
        batches_per_step=batches_per_step,
        evaluate_every=recipe.evaluation.every,
        checkpoint_every=recipe.run.checkpoint_every or max(1, steps // 10),
        until=None if until is None else Until(until.metric, until.at_least),
        compare=inputs.compare and compare,
    )


def examiner(of: StageContext, answers: int = 1) -> Callable[[bool], Evaluation] | None:
    """Evaluation by the task's verifier if there is one, else by the rewards; else None."""
    task = of.text.task
    own = specs(of.recipe.model_copy(update={"rewards": ()}), task)
    if not (rewards := own or list(of.rewards)):
        return None
    score = judge(of.text, rewards, of.recipe.run.seed)
    if own and of.rewards:
        trained_on = judge(of.text, of.rewards, of.recipe.run.seed)
        score = _marked_by(score, trained_on)
    examination = Examination(
        engine=of.engine("evaluation"),
        prompts=of.text.evaluation,
        sampling=of.sampling,
        score=score,
        text=text_of(of.text),
        describe=of.text.describe,
        answers=answers,
    )
    return lambda greedy: evaluate(examination, greedy=greedy)


def _marked_by(verify: Judge, reward: Judge) -> Judge:
    """Score by the rewards of training; right or wrong by the verifier of the task."""

    def judged(groups: Sequence[Group]) -> list[Group]:
        outcomes = iter([s.outcome for group in verify(groups) for s in group.samples])
        return [
            replace(group, samples=tuple(replace(s, outcome=next(outcomes)) for s in group.samples))
            for group in reward(groups)
        ]

    return judged


def _describer(
    of: StageContext,
) -> Callable[[Batch], tuple[Metrics, Sequence[Mapping[str, Any]]]]:
    """The function that gives the metrics of a batch and the responses that are recorded."""
    text = text_of(of.text)
    rewards = of.recipe.rewards
    first_verifies = not rewards or rewards[0].verifier == "task"
    # The accuracy of a task is by its verifier; another reward of 1 is not a right answer.
    verified = of.text.task is None or (first_verifies and of.inputs.reward is None)

    def describe(batch: Batch) -> tuple[Metrics, Sequence[Mapping[str, Any]]]:
        pairs = [(group, sample) for group in batch.groups for sample in group.samples]
        if not any(sample.spans for _, sample in pairs):
            return given_responses(batch)
        own = means(of.text.describe(text(s), g.prompt.columns) for g, s in pairs)
        metrics = rollout_metrics(batch)
        if not verified:
            metrics.pop("accuracy", None)
        metrics |= {f"task/{name}": value for name, value in own.items()}
        samples = [
            {"kind": "train", **sample_line(group, sample, text)}
            for group, sample in pairs[:SAMPLES_A_STEP]
        ]
        return metrics, samples

    return describe


def given_responses(batch: Batch) -> tuple[Metrics, Sequence[Mapping[str, Any]]]:
    """Metrics of given responses; no samples are recorded, they are in the data."""
    samples = [sample for group in batch.groups for sample in group.samples]
    return {"tokens": float(sum(int(s.mask.sum()) for s in samples))}, []


def reporting_once(judged: Judge, of: StageContext, observe: Observer) -> Judge:
    """The same scoring function, which also reports on the first batch."""
    names = [reward.name for reward in of.rewards]
    told = False

    def judge_and_tell(groups: Sequence[Group]) -> list[Group]:
        nonlocal told
        result = judged(groups)
        if not told:
            told = True
            samples = [sample for group in result for sample in group.samples]
            scored = [Scored(s.reward, dict(s.parts), s.outcome) for s in samples]
            for line in first_batch_report(scored, names):
                observe(Event("message", {"text": line}))
        return result

    return judge_and_tell
