"""Reward model: one score for each response, higher where people preferred it.

    L = -1/C(K,2) Σ_{i ≻ j} log σ(s(x, yᵢ) - s(x, yⱼ)),  mean over prompts

Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, Eq. 1, all pairs of a prompt as one element of
the batch; K = 2 is Stiennon et al. 2020, arXiv:2009.01325.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.row import Row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = Row(
    name="reward_model",
    summary="one score a response, from pairs or rankings: what the others optimise",
    source="Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, Eq. 1",
    requires=frozenset({"pairs"}),
    uses=frozenset({"data", "preference", "update", "evaluation", "run"}),
    idle=frozenset(
        {
            "data.completion_field",
            "preference.length_normalise",
            "update.epochs",
            "update.minibatches",
        }
    ),
    defaults={
        "preference.loss": "sigmoid",
        "preference.beta": 1.0,
        "preference.label_smoothing": 0.0,
        "preference.margin": 0.0,
        "preference.centre": 0.0,
        "update.learning_rate": 1e-5,
        "update.batch_size": 32,
        "update.reset_optimiser": False,
        "run.steps": 100,
    },
    rollout="rankings",
    coordination="offline",
    roles=("reward_model",),
)


def build(parts: Parts) -> Stage:
    """Read pairs or rankings, teach a model with one output to order them."""
    from polopt.algorithms.build import reward_model_stage

    return reward_model_stage(parts)
