"""M2PO: no clip; the tokens that moved most leave until the second moment is small.

    L = -1/N' Σ ρ A over the N' tokens that stay
    of the tokens with A log ρ > 0 the largest (log ρ)² leave until the mean of the rest is ≤ τ

arXiv:2510.01161, Eq. 4. The mask is made anew for every optimiser step.
"""

from __future__ import annotations

from polopt.recipe.row import policy_row

ROW = policy_row(
    "m2po",
    summary="tokens that moved most leave the loss; the others are not clipped",
    source="M2PO, arXiv:2510.01161, Eq. 4",
    values={
        "credit.returns": "outcome",
        "credit.baseline": "group_mean",
        "credit.normalisation": "group_std",
        "objective.ratio": "token",
        "objective.bound": "none",
        "objective.mask": "m2po",
        "objective.second_moment": 0.04,
        "objective.aggregation": "token_mean",
        "update.minibatches": 4,  # with one step a batch the ratio is 1 and the bound does nothing
    },
)
