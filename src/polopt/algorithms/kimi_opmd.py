"""Kimi's mirror descent: the centred reward, and a squared log-ratio to the policy before.

    L = 1/B Σᵢ { -(rᵢ - r̄) log π(yᵢ) + τ/2 (log π(yᵢ) - log π_old(yᵢ))² }

Kimi k1.5, arXiv:2501.12599, Eq. 2 and 3. Whole responses; each batch is a problem of its
own, so the moments of the optimiser begin anew with it.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "kimi_opmd",
    summary="centred reward on whole responses, squared log-ratio to the policy before",
    source="Kimi k1.5, arXiv:2501.12599, Eq. 2 and 3",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "none",
        "objective.ratio": "sequence_sum",
        "objective.bound": "opmd",
        "objective.tau": 0.1,
        "objective.aggregation": "seq_mean_token_sum",
        "update.reset_optimiser": True,
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
