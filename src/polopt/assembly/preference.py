"""Stages that learn from pairs and rankings: a reward model, and direct preference optimisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from torch import Tensor

from polopt.assembly.chosen import chosen
from polopt.assembly.context import (
    StageContext,
    assembled,
    examiner,
    given_responses,
    policy_learner,
    report,
    stage_context,
    staged,
)
from polopt.assembly.inputs import StageInputs
from polopt.assembly.objective import given
from polopt.assembly.supervised import alike
from polopt.assembly.text import frozen_start
from polopt.coordination.offline import OfflineSource
from polopt.coordination.stage import Evaluation, Stage
from polopt.data import Ranking
from polopt.math.reduce import masked, row_mean, row_sum
from polopt.models import reader_of, save
from polopt.objective import (
    PreferenceObjective,
    PreferenceTerms,
    direct_preference_loss,
    preference_terms,
    reward_model_loss,
)
from polopt.recipe import StageRecipe
from polopt.roles import Critic, measured
from polopt.roles.policies.token import Outputs
from polopt.rollout.comparison import compare
from polopt.rollout.dataset import ranked
from polopt.rollout.evaluation import both
from polopt.rollout.groups import experience
from polopt.rollout.text import TextSource, text_source
from polopt.seeding import derive
from polopt.types import Batch, Experience, TokenRows
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss


def reward_model_stage(inputs: StageInputs) -> Stage:
    """A stage that trains a reward model to order the responses to a prompt."""
    recipe = inputs.recipe
    model = inputs.reward_model()
    text = text_source(recipe, reader_of(model), wanted="pairs", avoid=inputs.avoid)
    report(inputs, text)
    role = Critic(model, inputs.computing)
    examine = on_pairs(inputs, role)
    learner = FirstOrder(
        role,
        verdicts(recipe),
        recipe.update,
        steps=inputs.steps,
        seed=derive(recipe.run.seed, recipe.name, "update"),
        name="reward_model",
    )
    return staged(
        inputs,
        rankings(recipe, text),
        prepare=partial(_prepared, inputs, role),
        credit=alike,
        learners=[learner],
        save_model=lambda path: save(model, path),
        describe=given_responses,
        evaluate=lambda _: examine(text.unseen),
        text=text,
    )


def on_pairs(inputs: StageInputs, role: Critic) -> Callable[[Sequence[Ranking]], Evaluation]:
    """The evaluation of a reward model on pairs and rankings."""
    objective = objective_of(inputs.recipe)

    def measure(batch: Batch) -> Mapping[str, Tensor]:
        outputs = measured(role, _tokens(_prepared(inputs, role, batch)), "last_values")
        return {"reward": objective.beta * outputs}

    def evaluate(pairs: Sequence[Ranking]) -> Evaluation:
        found = compare(pairs, measure)
        metrics, intervals = dict(found.metrics), dict(found.intervals)
        metrics["accuracy"] = metrics.pop("pair_accuracy")
        intervals["accuracy"] = intervals.pop("pair_accuracy")
        return Evaluation(metrics, intervals, found.samples)

    return evaluate


def _prepared(inputs: StageInputs, role: Critic, batch: Batch) -> Experience:
    pad_id = cast(int, role.scalar_model.tokenizer.pad_token_id)
    return experience(batch, pad_id=pad_id, device=inputs.device)


def direct_preference_stage(inputs: StageInputs) -> Stage:
    """A stage that trains a policy on preferences against the reference (DPO and others)."""
    of = stage_context(inputs, wanted="pairs")
    objective = objective_of(inputs.recipe)
    reference = frozen_start(of)

    def prepare(batch: Batch) -> Experience:
        tensors = of.tensors(batch)
        return replace(tensors, logp_ref=measured(reference, _tokens(tensors), "logp"))

    return assembled(
        of,
        rankings(inputs.recipe, of.text),
        prepare=prepare,
        credit=alike,
        learners=[policy_learner(of, preferences(inputs.recipe))],
        evaluate=_both(of, prepare, objective),
    )


def verdicts(recipe: StageRecipe) -> Loss[PreferenceTerms]:
    """The loss of a reward model on the scores of whole responses."""
    objective = objective_of(recipe)

    def value(outputs: Outputs, terms: PreferenceTerms) -> tuple[Tensor, dict[str, Tensor]]:
        return reward_model_loss(given(outputs.last_values), terms, objective)

    return Loss({"last_values"}, _terms, value, whole_groups=True)


def preferences(recipe: StageRecipe) -> Loss[PreferenceTerms]:
    """The loss of direct preference optimisation on log-probs."""
    objective = objective_of(recipe)

    def value(outputs: Outputs, terms: PreferenceTerms) -> tuple[Tensor, dict[str, Tensor]]:
        return direct_preference_loss(given(outputs.logp), terms, objective)

    return Loss({"logp"}, _terms, value, whole_groups=True)


def rankings(recipe: StageRecipe, text: TextSource) -> OfflineSource:
    """The source of pairs and rankings, in the order of the data."""
    assert recipe.update.batch_size is not None, "resolved by the row"
    return OfflineSource(lambda place: ranked(place, text.ranking(place)), recipe.update.batch_size)


def objective_of(recipe: StageRecipe) -> PreferenceObjective:
    """The preference section of a resolved stage."""
    chosen_by = recipe.preference
    assert chosen_by.beta is not None, "resolved by the row"
    return PreferenceObjective(
        loss=chosen("preference", recipe),
        beta=chosen_by.beta,
        centre=chosen_by.centre or 0.0,
        of_response=row_mean if chosen_by.length_normalise else row_sum,
    )


def _tokens(tensors: Experience) -> TokenRows:
    assert tensors.tokens is not None
    return tensors.tokens


def _terms(experience: Experience, _: object) -> PreferenceTerms:
    return preference_terms(experience)


def _both(
    of: StageContext, prepare: Callable[[Batch], Experience], objective: PreferenceObjective
) -> Callable[[bool], Evaluation]:
    """Accuracy of responses where a reward can judge them, and accuracy on held-out pairs."""
    answers = examiner(of, publishing=True)

    def measure(batch: Batch) -> Mapping[str, Tensor]:
        tensors = prepare(batch)
        logp = masked(of.actor.log_probs(_tokens(tensors)), tensors.mask)
        ratios = logp - masked(given(tensors.logp_ref), tensors.mask)
        rewards = objective.beta * objective.of_response(ratios, tensors.mask)
        return {"reward": rewards, "logp": row_sum(logp, tensors.mask)}

    def evaluate(greedy: bool) -> Evaluation:
        pairs = compare(of.text.unseen, measure)
        if answers is None:
            return pairs
        return both(answers(greedy), pairs)

    return evaluate
