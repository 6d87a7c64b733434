"""Reward model: one score for each response, higher where people preferred it.

    L = -1/C(K,2) Σ_{i ≻ j} log σ(s(x, yᵢ) - s(x, yⱼ)),  mean over prompts

Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, Eq. 1, all pairs of a prompt as one element of
the batch; K = 2 is Stiennon et al. 2020, arXiv:2009.01325.
"""

from __future__ import annotations

from polopt.recipe.row import Place, Row

ROW = Row(
    name="reward_model",
    summary="one score a response, from pairs or rankings: a reward for other methods",
    source="Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, Eq. 1",
    requires=frozenset({"pairs"}),
    uses=frozenset({"data", "preference", "update", "evaluation", "run"}),
    idle=frozenset({"preference.length_normalise"}),
    places={"text": Place("polopt.assembly.preference:reward_model_stage", "rankings", "offline")},
    values={"preference.beta": 1.0, "update.learning_rate": 1e-5},
    roles=("reward_model",),
)
