"""From a resolved stage to callables: what the rows of language models have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from polopt.algorithms.choices import chosen
from polopt.coordination.ledger import Ledger
from polopt.coordination.offline import OfflineSource
from polopt.coordination.sources import InlineSource, RolloutSource, Sampled
from polopt.coordination.stage import Evaluation, Event, Observer, Stage, Until
from polopt.credit import (
    Credit,
    assign,
    every_row,
    kl_penalty,
    overlong,
    terminal,
    untruncated,
)
from polopt.errors import RecipeError
from polopt.math.statistics import drift
from polopt.models import LanguageModel, save
from polopt.objective import (
    KLTerm,
    PolicyObjective,
    Reduction,
    StepTerms,
    policy_loss,
    reduction,
    step_terms,
    supervised_loss,
)
from polopt.recipe import StageRecipe
from polopt.rewards import RewardSpec, Scored, first_batch_report
from polopt.roles import Actor, frozen
from polopt.roles.policies.token import Quantity
from polopt.rollout.dataset import demonstrated
from polopt.rollout.engines import LocalEngine
from polopt.rollout.evaluation import Examination, evaluate, means, sample_line
from polopt.rollout.groups import experience, has_contrast, rollout_metrics
from polopt.rollout.rewarding import Judge, RewardFunction, judge, specs, text_of
from polopt.rollout.text import TextSource, text_source
from polopt.seeding import derive
from polopt.types import Batch, Credited, Experience, Group, Metrics, Sampling
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss

SAMPLES_A_STEP = 8  # training answers recorded of each step


@dataclass(frozen=True)
class Parts:
    """What a stage is built from."""

    recipe: StageRecipe  # resolved
    language_model: LanguageModel  # trained in place
    reference: Callable[[], LanguageModel]  # the weights that the stage started from
    observe: Observer
    compare: bool  # evaluate before and after
    reward: RewardFunction | None = None  # from Python


@dataclass(frozen=True)
class Common:
    """What every stage of a language model has: text, a way to judge it, a way to examine."""

    parts: Parts
    actor: Actor
    text: TextSource
    rewards: Sequence[RewardSpec]
    sampling: Sampling
    device: torch.device

    @property
    def pad_id(self) -> int:
        """The token that fills rows up."""
        return cast(int, self.text.tokeniser.tokenizer.pad_token_id)

    def engine(self, purpose: str) -> LocalEngine:
        """An engine whose draws are the purpose's own; of evaluation, the same in every stage."""
        run, name = self.parts.recipe.run, self.parts.recipe.name
        place = (purpose,) if purpose == "evaluation" else (name, purpose)
        seed = derive(run.seed, *place)
        return LocalEngine(self.parts.language_model, seed=seed, autocast=self.actor.autocast)

    def tensors(self, batch: Batch) -> Experience:
        """The batch as tensors on the device of the actor."""
        return experience(batch, pad_id=self.pad_id, device=self.device)


def common(parts: Parts, *, demonstrations: bool) -> Common:
    """Read the data and the rewards of a stage; say what was found."""
    recipe, rollout = parts.recipe, parts.recipe.rollout
    text = text_source(recipe, parts.language_model, demonstrations=demonstrations)
    for line in text.rows.report.lines():
        parts.observe(Event("message", {"text": line}))
    return Common(
        parts=parts,
        actor=Actor(parts.language_model, autocast=recipe.model.dtype == "bfloat16"),
        text=text,
        rewards=specs(recipe, text.task, parts.reward),
        sampling=Sampling(
            rollout.temperature,
            rollout.top_p,
            rollout.max_new_tokens,
            rollout.min_new_tokens,
            tuple(rollout.stop),
        ),
        device=parts.language_model.model.device,
    )


def sampled_stage(parts: Parts, loss: Loss[Any], credit: Credit) -> Stage:
    """A stage that samples groups, credits their tokens and takes first-order steps."""
    shared = common(parts, demonstrations=False)
    recipe = parts.recipe
    assert recipe.rollout.group_size is not None, "resolved by the row"
    assert recipe.rollout.resample_rounds is not None, "resolved by the row"
    scored = _reporting_once(
        judge(shared.text, shared.rewards, recipe.run.seed), shared, parts.observe
    )
    source = InlineSource(
        shared.engine("rollout"),
        Ledger(recipe.rollout.prompts_per_step),
        Sampled(
            shared.text.prompt,
            recipe.rollout.group_size,
            shared.sampling,
            scored,
            has_contrast,
            recipe.rollout.resample_rounds,
        ),
    )
    return _stage(
        shared,
        source,
        prepare=prepare(shared),
        credit=lambda tensors: _with_drift(tensors, assign(tensors, credit)),
        loss=loss,
    )


def critic_free_stage(parts: Parts) -> Stage:
    """The stage of every row without a critic: its columns say all that is its own."""
    return sampled_stage(parts, policy_gradient(parts.recipe), credit_of(parts.recipe))


def demonstrated_stage(parts: Parts, loss: Loss[Any]) -> Stage:
    """A stage that learns from given responses, every token of them alike."""
    shared = common(parts, demonstrations=True)
    assert parts.recipe.update.batch_size is not None, "resolved by the row"

    def group(place: int) -> Group:
        return demonstrated(place, shared.text.demonstration(place))

    source = OfflineSource(group, parts.recipe.update.batch_size)
    return _stage(shared, source, prepare=shared.tensors, credit=_alike, loss=loss)


def prepare(shared: Common) -> Callable[[Batch], Experience]:
    """Tensors of a batch with what the actor before the update and the reference say of it."""
    reference: Actor | None = None
    if shared.parts.recipe.kl.coefficient:
        reference = frozen(shared.parts.reference(), autocast=shared.actor.autocast)

    def prepared(batch: Batch) -> Experience:
        tensors = shared.tensors(batch)
        assert tensors.tokens is not None
        logp_ref = None if reference is None else reference.log_probs(tensors.tokens)
        return replace(tensors, logp_old=shared.actor.log_probs(tensors.tokens), logp_ref=logp_ref)

    return prepared


def credit_of(recipe: StageRecipe) -> Credit:
    """The credit columns of a resolved stage."""
    shapers = [terminal()]
    if recipe.credit.overlong_penalty:
        assert recipe.credit.overlong_buffer is not None, "resolved"
        longest = float(recipe.rollout.max_new_tokens)
        buffer = longest * recipe.credit.overlong_buffer
        shapers.append(overlong(longest, buffer, recipe.credit.overlong_penalty))
    if recipe.kl.coefficient and recipe.kl.placement == "reward":
        shapers.append(kl_penalty(recipe.kl.coefficient, chosen("estimator", recipe)))
    return Credit(
        shapers=tuple(shapers),
        returns=chosen("returns", recipe),
        baseline=chosen("baseline", recipe),
        normalise=chosen("normalisation", recipe),
        keep=untruncated if recipe.credit.drop_truncated else every_row,
    )


def objective_of(recipe: StageRecipe) -> PolicyObjective:
    """The objective columns of a resolved stage."""
    kl = None
    if recipe.kl.coefficient and recipe.kl.placement == "loss":
        kl = KLTerm(
            chosen("estimator", recipe),
            recipe.kl.coefficient,
            corrected=bool(recipe.kl.importance_corrected),
        )
    return PolicyObjective(
        ratio=chosen("ratio", recipe),
        surrogate=chosen("bound", recipe),
        aggregate=chosen("aggregation", recipe),
        aggregation_length=recipe.objective.aggregation_length,
        kl=kl,
        correction=chosen("correction", recipe),
        mask_edit=chosen("mask", recipe),
        entropy_coefficient=recipe.objective.entropy_coefficient or 0.0,
    )


def policy_gradient(recipe: StageRecipe) -> Loss[StepTerms]:
    """The same as a loss of the actor's scores."""
    objective = objective_of(recipe)
    want: set[Quantity] = {"logp", "entropy"}
    return Loss(
        want=want,
        terms=lambda experience, credited: step_terms(
            experience, credited, objective, experience.logp
        ),
        value=lambda scores, terms: policy_loss(
            _given(scores.logp), scores.entropy, terms, objective
        ),
        needs_logp=objective.mask_edit is not None,
    )


def likelihood(recipe: StageRecipe) -> Loss[Reduction]:
    """Negative log-likelihood of the given tokens with the stage's aggregation."""
    aggregate = chosen("aggregation", recipe)
    want: set[Quantity] = {"logp"}

    def terms(experience: Experience, credited: Credited) -> Reduction:
        length = recipe.objective.aggregation_length
        return reduction(credited.mask, experience.group, aggregate, length)

    return Loss(want, terms, lambda scores, reduce: supervised_loss(_given(scores.logp), reduce))


def _stage(
    shared: Common,
    source: RolloutSource,
    *,
    prepare: Callable[[Batch], Experience],
    credit: Callable[[Experience], Credited],
    loss: Loss[Any],
) -> Stage:
    """What is the same for every row: learner, evaluation, lengths."""
    parts, recipe, run = shared.parts, shared.parts.recipe, shared.parts.recipe.run
    steps = run.steps
    assert steps is not None, "resolved by the row"
    learner = FirstOrder(
        shared.actor,
        loss,
        recipe.update,
        steps=steps,
        seed=derive(run.seed, recipe.name, "update"),
        name="policy",
    )
    examine, until = examiner(shared), recipe.until
    if examine is None and recipe.evaluation.every:
        raise RecipeError(
            f"evaluation.every: {recipe.evaluation.every} is not allowed where nothing says which "
            f"answers to {recipe.data.source} are right; name a reward, or 0"
        )
    return Stage(
        name=recipe.name,
        algorithm=recipe.algorithm,
        steps=steps,
        source=source,
        prepare=prepare,
        credit=credit,
        learners=(learner,),
        save_model=lambda path: save(parts.language_model, path),
        evaluate=examine,
        describe=_describer(shared),
        evaluate_every=recipe.evaluation.every,
        checkpoint_every=run.checkpoint_every or max(1, steps // 10),
        until=None if until is None else Until(until.metric, until.at_least),
        compare=parts.compare and bool(shared.rewards),
    )


def examiner(shared: Common, answers: int = 1) -> Callable[[bool], Evaluation] | None:
    """Accuracy by the task's verifier if there is one, else by the rewards; None without any."""
    task = shared.text.task
    own = specs(shared.parts.recipe.model_copy(update={"rewards": ()}), task)
    if not (rewards := own or list(shared.rewards)):
        return None
    score = judge(shared.text, rewards, shared.parts.recipe.run.seed)
    if own and shared.rewards:
        trained_on = judge(shared.text, shared.rewards, shared.parts.recipe.run.seed)
        score = _marked_by(score, trained_on)
    examination = Examination(
        engine=shared.engine("evaluation"),
        prompts=shared.text.evaluation,
        sampling=shared.sampling,
        score=score,
        text=text_of(shared.text),
        describe=shared.text.describe,
        answers=answers,
    )
    return lambda greedy: evaluate(examination, greedy=greedy)


def _marked_by(verify: Judge, reward: Judge) -> Judge:
    """The rewards that training uses, and right or wrong as the verifier of the task says."""

    def judged(groups: Sequence[Group]) -> list[Group]:
        outcomes = iter([s.outcome for group in verify(groups) for s in group.samples])
        return [
            replace(group, samples=tuple(replace(s, outcome=next(outcomes)) for s in group.samples))
            for group in reward(groups)
        ]

    return judged


def _describer(
    shared: Common,
) -> Callable[[Batch], tuple[Metrics, Sequence[Mapping[str, Any]]]]:
    """Metrics of a batch and the answers of it that are recorded."""
    text = text_of(shared.text)
    rewards = shared.parts.recipe.rewards
    first_verifies = not rewards or rewards[0].verifier is not None
    # Of a task, accuracy is what its verifier says; another reward of 1 is not a right answer.
    verified = shared.text.task is None or (first_verifies and shared.parts.reward is None)

    def describe(batch: Batch) -> tuple[Metrics, Sequence[Mapping[str, Any]]]:
        pairs = [(group, sample) for group in batch.groups for sample in group.samples]
        if not any(sample.spans for _, sample in pairs):
            return {"tokens": float(sum(int(s.mask.sum()) for _, s in pairs))}, []
        own = means(shared.text.describe(text(s), g.prompt.columns) for g, s in pairs)
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


def _reporting_once(judged: Judge, shared: Common, observe: Observer) -> Judge:
    """The same, telling what was found in the first batch."""
    names = [reward.name for reward in shared.rewards]
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


def _with_drift(experience: Experience, credited: Credited) -> Credited:
    """How far the policy to be updated is from the one that sampled: 0 where weights arrived."""
    if experience.logp_old is None or experience.logp_rollout is None:
        return credited
    found = drift(experience.logp_old, experience.logp_rollout, experience.mask)
    metrics = {"behaviour/kl": float(found.k3), "behaviour/ess": float(found.ess_fraction)}
    return replace(credited, metrics=credited.metrics | metrics)


def _alike(experience: Experience) -> Credited:
    """Every token of every row counts the same: A = 1."""
    advantages = experience.mask.to(torch.float32)
    return Credited(advantages, experience.mask, experience.mask.any(-1))


def _given(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None, "asked for"
    return tensor
