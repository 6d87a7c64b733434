"""The policy's learner where each batch is one step inside a trust region."""

from __future__ import annotations

from polopt.algorithms.build.critic import Valued
from polopt.algorithms.build.policy import policy_gradient
from polopt.algorithms.build.shared import Shared
from polopt.coordination.stage import Learner
from polopt.seeding import derive
from polopt.update.natural_step import NaturalStep, Region


def natural_step(of: Shared, critic: Valued | None) -> Learner:
    """TRPO on the policy loss; a critic learns by an optimiser of its own."""
    recipe = of.recipe
    loss = policy_gradient(recipe, of.now)
    if critic is not None:
        loss, _ = critic.joined(loss)
    return NaturalStep(
        of.actor,
        loss,
        Region(**recipe.trust_region.model_dump()),
        micro_batch_tokens=recipe.update.micro_batch_tokens,
        seed=derive(recipe.run.seed, recipe.name, "update"),
        name="policy",
    )
