"""SFT: maximum likelihood of demonstrations.

    L = -1/N Σᵢₜ log π(yᵢₜ | xᵢ, yᵢ,<ₜ),  N tokens of the whole step

The warm start of Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, section 3.5, step 1.
"""

from __future__ import annotations

from polopt.recipe.row import Place, Row

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
    places={"text": Place("polopt.assembly.supervised:demonstrated_stage", "dataset", "offline")},
    values={"objective.aggregation": "token_mean", "update.learning_rate": 1e-5},
)
