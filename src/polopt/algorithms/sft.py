"""SFT: maximum likelihood of demonstrations.

    L = -1/N Σᵢₜ log π(yᵢₜ | xᵢ, yᵢ,<ₜ),  N tokens of the whole step

The warm start of Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, section 3.5, step 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.row import Row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = Row(
    name="sft",
    summary="maximum likelihood of demonstrations: the warm start of the others",
    source="Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, section 3.5",
    requires=frozenset({"demonstrations"}),
    uses=frozenset(
        {
            "data",
            "rewards",  # of evaluation, like the rollout
            "rollout",
            "objective.aggregation",
            "objective.aggregation_length",
            "update",
            "evaluation",
            "run",
        }
    ),
    idle=frozenset(
        {
            "rollout.prompts_per_step",
            "rollout.group_size",
            "rollout.resample_rounds",
            "update.epochs",
            "update.minibatches",
        }
    ),
    defaults={
        "objective.aggregation": "token_mean",
        "update.learning_rate": 1e-5,
        "update.batch_size": 32,
        "update.reset_optimiser": False,
        "run.steps": 100,
    },
    rollout="dataset",
    coordination="offline",
)


def build(parts: Parts) -> Stage:
    """Read demonstrations, raise the likelihood of every token of them."""
    from polopt.algorithms.build import demonstrated_stage

    return demonstrated_stage(parts)
