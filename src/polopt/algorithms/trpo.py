"""TRPO: the step that improves most within a bound on the KL divergence.

    max E_old[ρ A]  subject to  E KL(π_old(· | s) ‖ π(· | s)) ≤ δ

Schulman et al. 2015, arXiv:1502.05477, Eq. 14 and App. C; advantages of Schulman et al. 2016,
arXiv:1506.02438. The direction solves F x = g by conjugate gradients, a line search finds the
length. With `credit.returns = "outcome"` and a group baseline it needs no critic.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "trpo",
    summary="natural-gradient steps of bounded KL divergence, found by a line search",
    source="Schulman et al. 2015, arXiv:1502.05477, Eq. 14 and App. C",
    values={
        "rollout.group_size": 1,
        "credit.returns": "gae",
        "credit.baseline": "value",
        "credit.normalisation": "batch_z",
        "credit.epsilon": 1e-8,
        "objective.ratio": "token",
        "objective.bound": "none",  # the trust region bounds the step
        "objective.aggregation": "token_mean",
        "critic.clip": 0.0,
        "trust_region.delta": 0.01,
        "trust_region.damping": 0.1,  # Spinning Up, sb3-contrib; so is the line search
        "trust_region.backtrack": 0.8,
        "trust_region.line_search_steps": 10,
        "trust_region.cg_iterations": 10,
        "trust_region.fisher_share": 1.0,  # the paper: 0.1
    },
    control={
        "episodes.environments": 32,
        "episodes.steps": 64,
        "trust_region.damping": 0.01,
        "critic.epochs": 10,
        "critic.minibatches": 8,
    },
    update="natural_step",
    uses=frozenset({"trust_region"}),
    # One step a batch, on the objective alone; the trust region decides its length.
    idle=frozenset(
        {
            "update.learning_rate",
            "update.epochs",
            "update.minibatches",
            "pretraining.source",
            "pretraining.field",
            "pretraining.coefficient",
            "pretraining.batch_size",
        }
    ),
    of_critic=frozenset(
        {
            "update.optimiser",
            "update.max_grad_norm",
            "update.weight_decay",
            "update.beta1",
            "update.beta2",
            "update.warmup_steps",
            "update.decay",
            "update.reset_optimiser",
        }
    ),
)
