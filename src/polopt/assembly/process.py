"""The implicit process reward model (PRIME): its token rewards and its learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from polopt.assembly.around import recredited
from polopt.assembly.context import StageContext
from polopt.choices.roles import reads_process
from polopt.coordination.stage import Learner
from polopt.math.preference import implicit_reward
from polopt.math.reduce import masked
from polopt.models.adapter import attach
from polopt.objective import ProcessTerms, process_loss, process_terms
from polopt.recipe.fields import flat
from polopt.roles import Actor
from polopt.roles.policies.token import Outputs
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Metrics
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss

Crediting = Callable[[Experience], Advantages]
CREDITED = ("critic", "policy")  # learners that read advantages or targets
NAME = "process_reward"  # of the learner: prefix of its metrics, and its folder in a checkpoint


@dataclass(frozen=True)
class Processed:
    """A language model whose log-ratio to the reference is the reward of each token."""

    of: StageContext
    model: Actor
    beta: float

    def rewarded(self, tensors: Experience) -> Experience:
        """The experience with ``qₜ = β log π_φ/π_ref`` of the current process reward model."""
        assert tensors.tokens is not None and tensors.logp_ref is not None
        logp = self.model.log_probs(tensors.tokens)
        return replace(tensors, process=implicit_reward(logp, tensors.logp_ref, self.beta))

    def measured(self, credit: Crediting) -> Crediting:
        """The same with metrics: the mean token reward of right and of wrong answers."""

        def with_means(tensors: Experience) -> Advantages:
            found = credit(tensors)
            return replace(found, metrics=found.metrics | means(tensors))

        return with_means

    def learners(self, others: Sequence[Learner], credit: Crediting) -> list[Learner]:
        """The learners, that of the process reward model first.

        The rewards of a batch are those from before this learner's update on it. With
        ``process.update = "before"``, advantages are recomputed with the rewards from after it,
        for the policy and the critic.
        """
        if self.of.recipe.process.update == "before":
            others = [
                recredited(other, lambda tensors: credit(self.rewarded(tensors)))
                if other.name in CREDITED
                else other
                for other in others
            ]
        return [self._learner(), *others]

    def _learner(self) -> Learner:
        recipe, inputs = self.of.recipe, self.of.inputs
        return FirstOrder(
            self.model,
            outcome_loss(self.beta),
            inputs.update(learning_rate=recipe.process.learning_rate, epochs=1),
            steps=inputs.steps,
            seed=derive(recipe.run.seed, recipe.name, NAME),
            name=NAME,
            keeps=tuple(self.model.parameters),
        )


def processed(of: StageContext) -> Processed | None:
    """The process reward model, from the initial weights of the stage or from a path.

    Raises:
        ModelError: the model at ``process.path`` cannot be loaded, or has too small a
            vocabulary or context.
    """
    settings, inputs = of.recipe.process, of.inputs
    if not reads_process(flat(of.recipe)):
        return None
    policy = of.actor.language_model
    model = (
        inputs.language_model(inputs.start)
        if settings.path is None
        else inputs.language_reader("process.path", settings.path, policy)
    )
    if of.recipe.model.lora is not None:  # an adapter of its own, as the policy has
        attach(model.model, of.recipe.model, derive(of.recipe.run.seed, of.recipe.name, NAME))
    assert settings.beta is not None, "resolved by the row"
    return Processed(of, Actor(inputs.sharded(model), inputs.computing), settings.beta)


def outcome_loss(beta: float) -> Loss[ProcessTerms]:
    """Cross entropy between the outcome of a response and the sum of its rewards."""

    def value(
        outputs: Outputs, terms: ProcessTerms
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert outputs.logp is not None
        return process_loss(outputs.logp, terms, beta)

    return Loss({"logp"}, lambda experience, _: process_terms(experience), value)


def means(tensors: Experience) -> Metrics:
    """The mean reward of a token in right answers and in wrong ones; absent where there is none."""
    assert tensors.process is not None and tensors.right is not None
    found: Metrics = {}
    for name, outcome in (("q_right", 1.0), ("q_wrong", 0.0)):
        where = tensors.mask & (tensors.right == outcome)[:, None]
        if where.any():
            mean = masked(tensors.process, where).double().sum() / where.sum()
            found[f"{NAME}/{name}"] = float(mean)
    return found
