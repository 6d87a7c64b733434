"""DPO: the policy learns from preferences, with its own log-ratio to the reference as reward.

    L = -log σ(β h),  h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)

Rafailov et al. 2023, arXiv:2305.18290, Eq. 7. IPO (arXiv:2310.12036, Eq. 17), hinge (SLiC-HF,
arXiv:2305.10425), conservative DPO (label smoothing) and Plackett-Luce (appendix A.3) are choices.
"""

from __future__ import annotations

from polopt.recipe.row import Place, Row

ROW = Row(
    name="dpo",
    summary="learns from preferences: the log-ratio to the reference is the reward",
    source="Rafailov et al. 2023, arXiv:2305.18290, Eq. 7",
    requires=frozenset({"pairs"}),
    uses=frozenset(
        {
            "data",
            "rewards",  # of evaluation, like the rollout
            "rollout",
            "preference",
            "update",
            "evaluation",
            "run",
        }
    ),
    idle=frozenset({"preference.centre"}),
    places={
        "text": Place("polopt.assembly.preference:direct_preference_stage", "rankings", "offline")
    },
    values={"preference.beta": 0.1},
    roles=("actor", "reference"),
)
