"""The context of a stage with a language model: data, rewards, evaluation, lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from torch import Tensor

from polopt.assembly.chosen import number
from polopt.assembly.inputs import StageInputs
from polopt.assembly.reward import RewardModel, reward_models
from polopt.choices.roles import reads_process
from polopt.choices.update import optimiser_steps
from polopt.coordination.sources import RolloutSource
from polopt.coordination.stage import Evaluation, Event, Learner, Observer, Stage, Until
from polopt.data import Wanted
from polopt.errors import RewardError
from polopt.math.divergence import kl_divergence_of_logs
from polopt.models import LanguageModel, reader_of, save, weights
from polopt.objective import SIDES
from polopt.recipe import StageRecipe
from polopt.recipe.fields import flat
from polopt.rewards import RewardSpec, Scored, first_batch_report
from polopt.roles import Actor, Scorer
from polopt.roles.policies.proven import proven
from polopt.rollout import usage
from polopt.rollout.divided import agreeing, divided
from polopt.rollout.engines import Engine
from polopt.rollout.evaluation import Examination, evaluate, means, sample_line
from polopt.rollout.groups import (
    asked,
    earned,
    experience,
    introduced,
    lag_metrics,
    marks,
    rollout_metrics,
)
from polopt.rollout.noted import token_fields
from polopt.rollout.rewarding import Judge, judge, specs, text_of
from polopt.rollout.text import TextSource, text_source
from polopt.rollout.usage import Usage
from polopt.rollout.variety import variety_metrics
from polopt.seeding import derive
from polopt.types import (
    Advantages,
    Batch,
    Experience,
    Group,
    Metrics,
    Noted,
    Outcome,
    Sample,
    Sampling,
)
from polopt.update import AdaptiveNumber, FirstOrder
from polopt.update.minibatch import Loss
from polopt.update.natural_step import Divergence

SAMPLES_A_STEP = 8  # training responses recorded of each step
B = TypeVar("B")  # the batch type of a source


def unnoted() -> Noted | None:
    """Of learners that keep nothing of the tokens that they learn from."""
    return None


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

    @property
    def engine(self) -> Engine:
        """The engine of the stage, for training and evaluation; made when it is first needed."""
        return self.inputs.engine(self.actor)

    def weights(self) -> Mapping[str, Tensor]:
        """The weights of the policy as they are now, under the names of its files."""
        return weights(self.actor.language_model)

    def judge(self, rewards: Sequence[RewardSpec]) -> Judge:
        """What fills in rewards; several ranks score a part each."""
        own = judge(self.text, rewards, self.recipe.run.seed)
        # Beside trainers the first rank alone scores: it has the actors for rewards.
        clustered = self.recipe.coordination.mode == "cluster"
        return divided(own, self.inputs.ranks, judging=1 if clustered else None)

    def seed(self, purpose: str) -> int:
        """The seed of the draws for ``purpose``; those of evaluation go by the run alone."""
        run, name = self.recipe.run, self.recipe.name
        place = (purpose,) if purpose == "evaluation" else (name, purpose)
        return derive(run.seed, *place)

    def tensors(self, batch: Batch) -> Experience:
        """The batch as tensors on the device of the actor."""
        return experience(batch, pad_id=self.pad_id, device=self.inputs.device)


def stage_context(inputs: StageInputs, wanted: Wanted = "prompts") -> StageContext:
    """Load the model, the data and the rewards of a stage, and report on the data."""
    language_model = inputs.policy()
    reader = reader_of(language_model)
    text = text_source(inputs.recipe, reader, wanted=wanted, avoid=inputs.avoid)
    report(inputs, text)
    return context_of(inputs, language_model, text)


def context_of(
    inputs: StageInputs, language_model: LanguageModel, text: TextSource
) -> StageContext:
    """The context of a policy that is loaded, with the rewards of its stage."""
    recipe, rollout = inputs.recipe, inputs.recipe.rollout
    if reason := proven(language_model.model).unpacked:
        name = type(language_model.model).__name__
        inputs.tell(f"rows of {name} are padded, and prompts computed for each row: {reason}")
    models = reward_models(inputs, language_model)
    rewards = specs(
        recipe, text.task, inputs.reward, {m.name: m.function(inputs.device) for m in models}
    )
    for reward in rewards:
        if reward.in_trainer:
            name = f"reward {reward.name!r}"
            inputs.tell(f"{name} runs in the trainer: it cannot be sent to another process")
    return StageContext(
        inputs=inputs,
        actor=Actor(language_model, inputs.computing),
        text=text,
        rewards=rewards,
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
        peak=number(recipe, "update.learning_rate", of.adaptive),
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
    react: Callable[[Metrics], Metrics] = lambda _: {},
    noted: Callable[[], Noted | None] = unnoted,
) -> Stage:
    """The stage of a language model, evaluated by its responses unless ``evaluate`` is given."""
    return staged(
        of.inputs,
        source,
        prepare=prepare,
        credit=credit,
        learners=learners,
        save_model=lambda path: _save(of, path),
        describe=_describer(of, noted),
        evaluate=evaluate or examiner(of),
        text=of.text,
        react=react,
    )


def _save(of: StageContext, directory: Path) -> None:
    """Write the policy, and beside it how it was asked and sampled from."""
    save(of.actor.language_model, directory)
    field = of.recipe.data.prompt_field
    usage.write(Usage(of.text.has_messages, field, of.sampling), directory)


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
    text: TextSource | None = None,
    batches_per_step: int = 1,
    react: Callable[[Metrics], Metrics] = lambda _: {},
) -> Stage:
    """Build the :class:`Stage`; its name and lengths are those of the recipe."""
    recipe, steps, until = inputs.recipe, inputs.steps, inputs.recipe.until
    return Stage(
        name=recipe.name,
        algorithm=recipe.algorithm,
        steps=steps,
        source=source,
        prepare=agreeing(inputs.ranks, prepare),
        credit=credit,
        learners=learners,
        save_model=save_model,
        evaluate=evaluate,
        describe=describe,
        react=react,
        held_out=() if text is None else [prompt.keys for prompt in text.evaluation],
        asked=asked if text is not None else lambda _: (),
        earned=earned if text is not None else lambda _: {},
        introduced=(partial(introduced, size=text.rows.size) if text is not None else lambda _: {}),
        batches_per_step=batches_per_step,
        evaluate_every=recipe.evaluation.every,
        checkpoint_every=recipe.run.checkpoint_every or max(1, steps // 10),
        best=recipe.evaluation.best,
        until=None if until is None else Until(until.metric, until.at_least),
        is_last=inputs.is_last,
    )


def examiner(of: StageContext, *, publishing: bool = False) -> Callable[[bool], Evaluation] | None:
    """Evaluation by responses, where something can judge them.

    Args:
        of: the stage.
        publishing: have the engine serve the weights first, where no source of the stage does.
    """
    found = examination(of)
    if found is None or not publishing:
        return None if found is None else lambda greedy: evaluate(found, greedy=greedy)
    engine = found.engine

    def examine(greedy: bool) -> Evaluation:
        engine.publish(of.weights, engine.version + 1)
        evaluation = evaluate(found, greedy=greedy)
        engine.rest()
        return evaluation

    return examine


def examination(of: StageContext, answers: int = 1) -> Examination | None:
    """What is asked and how it is judged: by the verifier of the task, else by the rewards."""
    task = of.text.task
    own = specs(of.recipe.model_copy(update={"rewards": ()}), task)
    if not (rewards := own or list(of.rewards)):
        return None
    score = of.judge(rewards)
    if own and of.rewards:
        score = _marked_by(score, of.judge(of.rewards))
    return examined_by(of, score, answers)


def examined_by(of: StageContext, score: Judge, answers: int) -> Examination:
    """The stage's own prompts and sampling, judged by ``score``."""
    return Examination(
        engine=of.engine,
        prompts=of.text.evaluation,
        sampling=of.sampling,
        seed=of.seed("evaluation"),
        score=score,
        text=text_of(of.text),
        describe=of.text.describe,
        answers=answers,
        extract=of.text.extract,
    )


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
    of: StageContext, noted: Callable[[], Noted | None]
) -> Callable[[Batch], tuple[Metrics, Sequence[Mapping[str, Any]]]]:
    """The function that gives the metrics of a batch and the responses that are recorded."""
    text = text_of(of.text)
    rewards = of.recipe.rewards
    first_verifies = not rewards or rewards[0].verifier == "task"
    # The accuracy of a task is by its verifier; another reward of 1 is not a right answer.
    verified = of.text.task is None or (first_verifies and of.inputs.reward is None)

    def describe(batch: Batch) -> tuple[Metrics, Sequence[Mapping[str, Any]]]:
        batch = batch.fresh
        pairs = [(group, sample) for group in batch.groups for sample in group.samples]
        if not any(sample.spans for _, sample in pairs):
            return given_responses(batch)
        own = means(of.text.describe(text(s), g.prompt.columns) for g, s in pairs)
        metrics = rollout_metrics(batch) | variety_metrics(batch.groups)
        if of.recipe.coordination.mode != "alternate":
            metrics |= lag_metrics(batch, optimiser_steps(flat(of.recipe)))
        if not verified:
            metrics.pop("accuracy", None)
        metrics |= {f"task/{name}": value for name, value in own.items()}
        return metrics, _sample_lines(of, pairs[:SAMPLES_A_STEP], noted())

    return describe


def _sample_lines(
    of: StageContext, pairs: Sequence[tuple[Group, Sample]], noted: Noted | None
) -> list[dict[str, Any]]:
    """Answers as lines of samples.jsonl, with what the update made of their tokens."""
    text, tokenizer, names = text_of(of.text), of.text.tokeniser.tokenizer, list(SIDES.values())
    lines = [
        {"kind": "train", **_keyed(group), **sample_line(group, sample, text)}
        for group, sample in pairs
    ]
    for place, (line, (_, sample)) in enumerate(zip(lines, pairs, strict=True)):
        if noted is not None:
            sides = None if noted.sides is None else noted.sides[place]
            line |= token_fields(
                sample, line["completion"], noted.advantages[place], sides, names, tokenizer
            )
    return lines


def _keyed(group: Group) -> dict[str, str]:
    return {"key": group.prompt.keys[0]} if group.prompt.keys else {}


def given_responses(batch: Batch) -> tuple[Metrics, Sequence[Mapping[str, Any]]]:
    """Metrics of given responses; no samples are recorded, they are in the data."""
    samples = [sample for group in batch.groups for sample in group.samples]
    return {"tokens": float(sum(int(s.mask.sum()) for s in samples))}, []


def _check_without_verdicts(of: StageContext) -> None:
    """Refuse, or say of, what needs rewards that tell right from wrong.

    Raises:
        RewardError: a process reward model, which would have nothing to learn from, or a reward of
            the length of right answers.
    """
    advice = "return booleans, or is_accuracy = true"
    if weight := of.recipe.credit.length_reward:
        raise RewardError(
            f"credit.length_reward: {weight:g} has no effect where nothing says which answers are "
            f"right; {advice}"
        )
    if reads_process(flat(of.recipe)):
        raise RewardError(
            f"reward: nothing says which answers are right, as {of.recipe.algorithm} needs for its "
            f"process rewards; {advice}"
        )
    rollout = of.recipe.rollout
    if rollout.resample_rounds and (rollout.accuracy_min or rollout.accuracy_max != 1):
        of.inputs.tell(
            "rollout.accuracy_min and accuracy_max have no effect: nothing says which answers "
            f"are right; {advice}",
            warning=True,
        )


def reporting_once(judged: Judge, of: StageContext, observe: Observer) -> Judge:
    """The same scoring function, which also reports on the first batch."""
    names = [reward.name for reward in of.rewards]
    first = iter([True])  # taken by one of the threads that score

    def judge_and_tell(groups: Sequence[Group]) -> list[Group]:
        result = judged(groups)
        if next(first, False):
            samples = [sample for group in result for sample in group.samples]
            scored = [Scored(s.reward, dict(s.parts), s.outcome) for s in samples]
            for line in first_batch_report(scored, names):
                observe(Event("message", {"text": line}))
            if not marks(samples) and any(s.outcome is Outcome.SCORED for s in samples):
                _check_without_verdicts(of)
        return result

    return judge_and_tell
