"""The critic, a model of its own or a head on the policy: its values, its loss and its learner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from polopt.assembly.around import delayed
from polopt.assembly.chosen import chosen
from polopt.assembly.context import PolicyContext, StageContext
from polopt.choices.roles import reads_values
from polopt.coordination.stage import Learner
from polopt.math.baselines import action_correction
from polopt.objective import (
    Reduction,
    ValueObjective,
    ValueTerms,
    reduction,
    value_loss,
    value_terms,
)
from polopt.recipe import StageRecipe
from polopt.recipe.fields import flat
from polopt.roles import Critic, Scorer, together
from polopt.roles.policies.token import Outputs, Quantity
from polopt.seeding import derive
from polopt.types import Advantages, Experience, RowIndex, StepRows, TokenRows, cut
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss, Terms

HEAD = "value_head.weight"


@dataclass(frozen=True)
class Valued:
    """The critic: a model of its own, or a value head on the actor."""

    recipe: StageRecipe
    scorer: Scorer
    role: Scorer | None  # None: a head on the actor

    def of(self, tensors: Experience) -> Experience:
        """The experience with V(s) or Q(s, a) from before the update."""
        assert tensors.tokens is not None
        values, last = together(self.scorer, tensors.tokens, ["values", "last_values"])
        return replace(tensors, values=values, last_values=last)

    def joined(self, loss: Loss[Any]) -> tuple[Loss[Any], dict[str, Any]]:
        """The loss of the policy, plus the critic's where one optimiser trains both."""
        if self.recipe.credit.baseline == "action":
            loss = with_action_correction(loss, self.scorer, self.recipe)
        if self.role is not None:
            return loss, {}
        coefficient = self.recipe.critic.coefficient
        assert coefficient is not None, "resolved by the row"
        return both(loss, critic_loss(self.recipe), coefficient), {"keeps": (HEAD,)}

    def held_back(self, learner: Learner) -> Learner:
        """A learner that skips the first ``critic.warmup_steps`` batches."""
        wait = self.recipe.critic.warmup_steps
        return delayed(learner, wait) if wait else learner


def valued(of: StageContext) -> tuple[StageContext, Valued | None]:
    """The critic that the recipe needs; a shared trunk gets a value head."""
    recipe, inputs = of.recipe, of.inputs
    if not reads_values(flat(recipe)):
        return of, None
    config = of.actor.language_model.model.config.get_text_config()
    outputs = config.vocab_size if of_actions(recipe) else 1
    if recipe.critic.trunk == "shared":
        head = new_head(config.hidden_size, outputs, inputs.device)
        of = replace(of, actor=replace(of.actor, value_head=head))
        return of, Valued(recipe, of.actor, None)
    if recipe.critic.path is None:
        model = inputs.scalar_model(inputs.start, outputs)
    else:
        policy = of.actor.language_model
        model = inputs.reader("critic.path", recipe.critic.path, policy, outputs)
    critic = Critic(inputs.sharded(model), inputs.computing)
    return of, Valued(recipe, critic, critic)


def of_actions(recipe: StageRecipe) -> bool:
    """Whether the critic is Q(s, a) and not V(s)."""
    return recipe.credit.returns == "q" or recipe.credit.baseline == "action"


def new_head(width: int, outputs: int, device: torch.device) -> torch.nn.Linear:
    """A linear layer with weights 0; no random numbers are drawn for it."""
    with torch.device("meta"):
        head = torch.nn.Linear(width, outputs, bias=False)
    head.weight = torch.nn.Parameter(torch.zeros(outputs, width, device=device))
    return head


def critic_learner(of: PolicyContext, critic: Valued) -> Learner:
    """The learner of a critic with an optimiser of its own; it updates before the policy."""
    recipe, settings = of.recipe, of.recipe.critic
    changes = {
        name: value
        for name in ("learning_rate", "epochs", "minibatches")
        if (value := getattr(settings, name)) is not None
    }
    return FirstOrder(
        critic.scorer,
        critic_loss(recipe),
        of.inputs.update(**changes),
        steps=of.inputs.steps,
        seed=derive(recipe.run.seed, recipe.name, "critic"),
        name="critic",
        keeps=tuple(critic.scorer.parameters),
    )


def critic_loss(recipe: StageRecipe) -> Loss[ValueTerms]:
    """Half the squared error of the values, over the tokens of the step."""
    objective = ValueObjective(clip=recipe.critic.clip or None)

    def value(outputs: Outputs, terms: ValueTerms) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert outputs.values is not None
        return value_loss(outputs.values, terms, objective)

    return Loss({"values"}, lambda e, c: value_terms(e, c, objective), value)


@dataclass(frozen=True)
class Both:
    """Terms of two losses on the same rows."""

    first: Any
    second: Any

    def rows(self, index: RowIndex) -> Both:
        """The same for some of the rows."""
        return cut(self, index)


def with_action_correction(loss: Loss[Any], critic: Scorer, recipe: StageRecipe) -> Loss[Any]:
    """The same less ``Σ_a π(a|s) Q(s, a)`` of every token: without it b(s, a) is biased."""
    aggregate, length = chosen("aggregation", recipe), recipe.objective.aggregation_length

    def terms(experience: Experience, advantages: Advantages) -> Corrected:
        reduce = reduction(advantages.mask, experience.group, aggregate, length)
        return Corrected(loss.terms(experience, advantages), experience.inputs, reduce)

    def value(outputs: Outputs, terms: Corrected) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, metrics = loss.value(outputs, terms.policy)
        with torch.no_grad():
            q = critic.score(terms.asked, {"action_values"}).action_values
        assert q is not None and outputs.distribution is not None
        correction = terms.reduction.loss(action_correction(outputs.distribution, q))
        return total - correction, metrics | {"baseline_correction": correction.detach()}

    def sides(outputs: Outputs, terms: Corrected) -> torch.Tensor | None:
        return loss.sides(outputs, terms.policy)

    want: set[Quantity] = {*loss.want, "distribution"}
    return replace(loss, want=want, terms=terms, value=value, idle=None, sides=sides)


@dataclass(frozen=True)
class Corrected:
    """The terms of the policy loss, and the inputs of the critic."""

    policy: Any
    asked: TokenRows | StepRows
    reduction: Reduction

    def rows(self, index: RowIndex) -> Corrected:
        """The same for some of the rows."""
        return cut(self, index)


def both(first: Loss[Any], second: Loss[Any], weight: float) -> Loss[Terms]:
    """``first + weight·second`` of one forward pass."""

    def value(outputs: Any, terms: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # noqa: ANN401
        loss, metrics = first.value(outputs, terms.first)
        more, others = second.value(outputs, terms.second)
        return loss + weight * more, metrics | others

    def sides(outputs: Outputs, terms: Any) -> torch.Tensor | None:  # noqa: ANN401
        return first.sides(outputs, terms.first)

    return Loss(
        {*first.want, *second.want},
        lambda e, c: Both(first.terms(e, c), second.terms(e, c)),
        value,
        first.needs_logp or second.needs_logp,
        first.whole_groups or second.whole_groups,
        watch=first.watch,
        sides=sides,
    )
