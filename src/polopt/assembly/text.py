"""Policy optimisation of a language model: the columns of a recipe become one stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

from polopt.assembly.adaptive import adaptive_numbers
from polopt.assembly.around import core
from polopt.assembly.chosen import chosen, number
from polopt.assembly.context import (
    SAMPLES_A_STEP,
    StageContext,
    assembled,
    examination,
    examiner,
    reporting_once,
    stage_context,
    unnoted,
)
from polopt.assembly.critic import Valued, critic_learner, valued
from polopt.assembly.drift import drifts_of
from polopt.assembly.estimates import measuring
from polopt.assembly.extras import companions
from polopt.assembly.inputs import StageInputs
from polopt.assembly.lag import answered
from polopt.assembly.learners import learner_of_policy
from polopt.assembly.objective import old_is_new
from polopt.assembly.process import Crediting, Processed, processed
from polopt.assembly.refresh import agreement, refreshed
from polopt.assembly.source import source_of
from polopt.choices.coordination import anchored_in_sampling
from polopt.choices.returns import SUMS
from polopt.choices.roles import reads_process
from polopt.coordination.rollouter import Sampled
from polopt.coordination.stage import Evaluation, Learner, Stage
from polopt.credit import (
    Credit,
    as_given,
    assign,
    every_row,
    kl_penalty,
    length,
    overlong,
    spread,
    terminal,
    untruncated,
)
from polopt.math.divergence import k1
from polopt.math.ratios import token_log_ratio
from polopt.math.reduce import row_sum
from polopt.recipe import Rollout, StageRecipe
from polopt.recipe.fields import flat
from polopt.roles import Actor, Scorer, WithoutAdapter, frozen, measured
from polopt.rollout.evaluation import answers, both, figures, mean_interval
from polopt.rollout.groups import informative, recorded
from polopt.rollout.rewarding import judge
from polopt.types import Advantages, Batch, Experience, Group, Noted
from polopt.update import AdaptiveNumber, Lagged


def policy_stage(inputs: StageInputs) -> Stage:
    """The stage of a row that is described by its columns alone."""
    of, critic = valued(stage_context(inputs))
    of = replace(of, adaptive=adaptive_numbers(of.recipe, of.actor.log_probs))
    reference, process = reference_of(of), processed(of)
    policy = learner_of_policy(of, critic, companions(of))
    credit: Crediting = partial(assign, credit=credit_of(of.recipe, of.adaptive))
    learners: list[Learner] = [policy, *of.adaptive, *_following(of, reference)]
    if critic is not None and critic.role is not None:
        learners = [critic_learner(of, critic), *map(critic.held_back, learners)]
    if process is not None:
        credit = process.measured(credit)
        learners = process.learners(learners, credit)
    return sampled_stage(
        of,
        prepare=prepared(of, reference, critic, process),
        credit=credit,
        learners=learners,
        evaluate=_evaluated(of, reference),
        noted=getattr(core(policy)[0], "taken", unnoted),
    )


def _evaluated(
    of: StageContext, reference: Actor | WithoutAdapter | None
) -> Callable[[bool], Evaluation] | None:
    """Evaluate by answers; before and after, where there is a reference, also by the KL to it.

    ``Σₜ log π - log π_ref`` of a sampled answer, a mean over those to a prompt: ``kl/measured`` of
    training, on prompts that were held out. Every time, by what the KL term makes of some answers.
    """
    found = examination(of)
    if found is None or reference is None:
        return examiner(of)
    measure = measuring(of, reference)

    def divergences(groups: Sequence[Group]) -> list[float]:
        tensors = of.tensors(Batch(tuple(groups), taken_at=0))
        assert tensors.tokens is not None
        logp, ref = (measured(role, tensors.tokens, "logp") for role in (of.actor, reference))
        sums = row_sum(k1(token_log_ratio(logp, ref, tensors.mask)), tensors.mask)
        return [float(sums[tensors.group == group.ticket].mean()) for group in groups]

    def evaluate(greedy: bool) -> Evaluation:
        given = answers(found, greedy=greedy)
        evaluation = replace(figures(found, given), beside=measure(given.sampled))
        if not greedy:
            return evaluation
        kl = divergences(given.sampled)
        return both(evaluation, Evaluation({"kl": fmean(kl)}, {"kl": mean_interval(kl)}, []))

    return evaluate


def sampled_stage(
    of: StageContext,
    *,
    prepare: Callable[[Batch], Experience],
    credit: Callable[[Experience], Advantages],
    learners: Sequence[Learner],
    evaluate: Callable[[bool], Evaluation] | None = None,
    noted: Callable[[], Noted | None] = unnoted,
) -> Stage:
    """A stage that samples groups, computes advantages and trains its learners on them.

    ``noted`` says after an update what it made of the tokens of recorded answers.
    """
    rollout = of.recipe.rollout
    assert rollout.group_size is not None, "resolved by the row"
    # Threads of one rank score beside the trainers, who get what came of it.
    alone = of.recipe.coordination.mode != "alternate"
    score = judge(of.text, of.rewards, of.recipe.run.seed) if alone else of.judge(of.rewards)
    scored = reporting_once(score, of, of.inputs.observe)
    sampled = Sampled(
        of.text.prompt,
        rollout.group_size,
        of.sampling,
        of.seed("rollout"),
        scored,
        **resampled(rollout),
        greedy=of.recipe.credit.baseline == "greedy",
    )
    supply = answered(of, sampled, source_of(of, sampled))
    stage = assembled(
        of,
        supply.source,
        prepare=prepare,
        credit=lambda tensors: _with_metrics(of, tensors, credit(tensors)),
        learners=[*learners, *refreshed(of), *supply.learners],
        evaluate=evaluate,
        react=supply.react,
        noted=noted,
    )
    return replace(stage, timeline=of.inputs.serving.timeline)


def resampled(rollout: Rollout) -> dict[str, Any]:
    """The groups that are replaced by new prompts, and for how many rounds."""
    if not rollout.resample_rounds:
        return {}
    least, most = rollout.accuracy_min, rollout.accuracy_max
    assert least is not None and most is not None, "resolved by the row"
    return {"keep": informative(least, most), "rounds": rollout.resample_rounds}


def reference_of(of: StageContext) -> Actor | WithoutAdapter | None:
    """The reference policy, where a KL or a log-ratio to it is computed; else None."""
    if not of.recipe.kl.coefficient and not reads_process(flat(of.recipe)):
        return None
    return frozen_start(of)


def frozen_start(of: StageContext) -> Actor | WithoutAdapter:
    """The frozen initial policy of the stage: a second model, or the adapter switched off."""
    if of.recipe.model.lora is not None:
        return WithoutAdapter(of.actor)
    reference = of.inputs.language_model(of.inputs.start)
    if not of.recipe.kl.refresh_every:  # one that follows the policy would lose its small steps
        of.inputs.froze(reference.model)
    return frozen(of.inputs.sharded(reference), of.actor.how)


def _following(of: StageContext, reference: Scorer | None) -> list[Learner]:
    """The reference as a lagged copy of the policy, where ``kl.refresh_every`` is set."""
    kl = of.recipe.kl
    if not kl.refresh_every or not isinstance(reference, Actor):
        return []
    copy, source = (
        dict(actor.language_model.model.named_parameters()) for actor in (reference, of.actor)
    )
    return [Lagged("reference", copy, source, every=kl.refresh_every, rate=kl.refresh_rate)]


def prepared(
    of: StageContext,
    reference: Scorer | None,
    critic: Valued | None,
    process: Processed | None = None,
) -> Callable[[Batch], Experience]:
    """The function from a batch to tensors, with the outputs of every role before the update.

    Log-probs of the policy are left to the pass with gradient where that gives the same.
    """
    stale, of_gradient = anchored_in_sampling(flat(of.recipe)), old_is_new(of.recipe)

    def prepare(batch: Batch) -> Experience:
        tensors = of.tensors(batch)
        assert tensors.tokens is not None
        logp_ref = None if reference is None else measured(reference, tensors.tokens, "logp")
        logp_old = tensors.logp_rollout if stale else None
        if not (stale or of_gradient):
            logp_old = of.actor.log_probs(tensors.tokens)
        shown = recorded(batch, SAMPLES_A_STEP, of.inputs.device)
        tensors = replace(tensors, logp_old=logp_old, logp_ref=logp_ref, recorded=shown)
        tensors = tensors if critic is None else critic.of(tensors)
        return tensors if process is None else process.rewarded(tensors)

    return prepare


def credit_of(recipe: StageRecipe, adaptive: Sequence[AdaptiveNumber] = ()) -> Credit:
    """The credit columns of a resolved stage; adaptive numbers are read at each batch."""
    credit = recipe.credit
    placed = terminal() if credit.returns in SUMS else as_given()
    shapers = [placed if credit.spread in (None, "none") else spread(chosen("spread", recipe))]
    if recipe.credit.overlong_penalty:
        assert recipe.credit.overlong_buffer is not None, "resolved"
        longest = float(recipe.rollout.max_new_tokens)
        buffer = longest * recipe.credit.overlong_buffer
        shapers.append(overlong(longest, buffer, recipe.credit.overlong_penalty))
    if recipe.credit.length_reward:
        shapers.append(length(recipe.credit.length_reward))
    if recipe.kl.coefficient and recipe.kl.placement == "reward":
        beta = number(recipe, "kl.coefficient", adaptive)
        shapers.append(kl_penalty(beta, chosen("estimator", recipe)))
    return Credit(
        shapers=tuple(shapers),
        returns=chosen("returns", recipe),
        baseline=chosen("baseline", recipe, adaptive),
        normalise=chosen("normalisation", recipe),
        keep=untruncated if recipe.credit.drop_truncated else every_row,
    )


def _with_metrics(of: StageContext, experience: Experience, advantages: Advantages) -> Advantages:
    """The same with how far the policy has moved, and with the agreement of reward models."""
    # Where pi_old is the policy that sampled, the learner measures it.
    moved = {} if anchored_in_sampling(flat(of.recipe)) else drifts_of(of.recipe)(experience)
    metrics = agreement(of, experience) | moved
    return replace(advantages, metrics=advantages.metrics | metrics)
