"""The return of each token or step before a baseline."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column, Takes, Variant
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    EVERYWHERE,
    AlsoReadWith,
    Idle,
    PositiveFloat,
    Section,
    Share,
    Values,
    by_row,
    needs,
)

_TEMPORAL = "polopt.credit.temporal:"
_GAMMA = {"gamma": "credit.gamma"}
_LAMBDAS = {**_GAMMA, "lam": "credit.lambda", "critic_lam": "credit.critic_lambda"}
_STREAMS = {
    **_GAMMA,
    "process_coefficient": "process.coefficient",
    "outcome_coefficient": "process.outcome_coefficient",
}


def _adapts(values: Values) -> str | None:
    if values["credit.length_adaptive"] is None:
        return None
    return "no effect with credit.length_adaptive, which takes its place; remove one of them"


class Returns(Section):
    """Fields of the returns."""

    returns: Annotated[
        Literal["outcome", "reward_to_go", "full", "gae", "q", "prime", "prime_reference"] | None,
        by_row(),
        EVERYWHERE,
    ] = Field(default=None, description="return estimator")
    gamma: Annotated[
        Share | None,
        by_row(1.0, control=0.99),
        EVERYWHERE,
        AlsoReadWith("episodes.normalise_rewards"),
    ] = Field(default=None, description="discount")
    lambda_: Annotated[Share | None, by_row(0.95), EVERYWHERE, Idle(_adapts)] = Field(
        default=None, alias="lambda", description="GAE parameter"
    )
    critic_lambda: Annotated[Share | None, EVERYWHERE] = Field(
        default=None, description="of the critic's targets; default: that of the advantages"
    )
    length_adaptive: PositiveFloat | None = Field(
        default=None,
        description="alpha of 1 - 1 / (alpha * length) in the place of lambda; default: none",
    )
    bootstrap_truncated: Annotated[bool | None, by_row(False)] = Field(  # a cut is a failure
        default=None,
        description="a response cut by max_new_tokens ends with the value of its last state, not 0",
    )


_INSIDE = Choice("polopt.credit.outcome:inside", "b of the others, inside Ψ")
_OTHERS_INSIDE = {"baseline": _INSIDE}
_LEAVE_ONE_OUT = (Takes("credit.baseline", ("leave_one_out",)),)

COLUMN = Column(
    "returns",
    "credit.returns",
    {
        "outcome": Choice(
            _TEMPORAL + "outcome",
            "Ψₜ = Σₖ rₖ on every token",
            "polopt.math.returns:outcome",
            traits=frozenset({"sums", "to the end"}),
        ),
        "reward_to_go": Choice(
            _TEMPORAL + "reward_to_go",
            "Ψₜ = Σ_{k≥t} γ^{k-t} rₖ",
            "polopt.math.returns:reward_to_go",
            _GAMMA,
            factory=True,
            traits=frozenset({"to the end"}),
        ),
        "full": Choice(
            _TEMPORAL + "full",
            "Ψₜ = Σₖ γᵏ rₖ on every token",
            "polopt.math.returns:full_return",
            _GAMMA,
            factory=True,
            traits=frozenset({"to the end"}),
        ),
        "gae": Choice(
            _TEMPORAL + "gae",
            "Ψₜ - V(sₜ) = Σₗ (γλ)ˡ δₜ₊ₗ, δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ)",
            "polopt.math.returns:gae",
            {
                **_LAMBDAS,
                "length_adaptive": "credit.length_adaptive",
                "bootstrap_truncated": "credit.bootstrap_truncated",
            },
            factory=True,
            takes=(Takes("credit.baseline", ("value",)),),
            roles=("critic",),
            losses=("value",),
            replaces={
                "baseline": Choice("polopt.credit.outcome:no_baseline", "b = V(sₜ), inside Ψ")
            },
            elsewhere={
                "control": Variant(
                    "Ψₜ - V(sₜ) = Σₗ (γλ)ˡ δₜ₊ₗ up to the end of the episode, "
                    "δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ), "
                    "V(sₜ₊₁) = 0 where it is terminated and not where it is truncated",
                    _TEMPORAL + "step_gae",
                    _LAMBDAS,
                )
            },
        ),
        "q": Choice(
            _TEMPORAL + "action_value",
            "Ψₜ = Q(sₜ, aₜ), which learns rₜ + γ Q(sₜ₊₁, aₜ₊₁)",
            "polopt.math.returns:gae",
            _GAMMA,
            factory=True,
            takes=(Takes("credit.baseline", ("none",)),),
            roles=("critic",),
            losses=("value",),
            elsewhere={
                "control": Variant(
                    "Ψₜ = Q(sₜ, aₜ), which learns rₜ + γ Σ_a π(a | sₜ₊₁) Q(sₜ₊₁, a)",
                    _TEMPORAL + "step_action_value",
                )
            },
        ),
        "prime": Choice(
            _TEMPORAL + "prime",
            "Ψₜ - bₜ = a Σ_{s≥t} γ^{s-t} (qₛ - Σ_{j≠i} q̄ⱼ / (K-1)) + c (r - Σ_{j≠i} rⱼ / (K-1))",
            "polopt.math.process:prime_advantage",
            _STREAMS,
            factory=True,
            takes=_LEAVE_ONE_OUT,
            traits=frozenset({"sums"}),
            roles=("process_reward", "reference"),
            losses=("outcome_labels",),
            replaces=_OTHERS_INSIDE,
            domains=OF_LANGUAGE,
        ),
        "prime_reference": Choice(
            _TEMPORAL + "prime_reference",
            "Ψₜ - bₜ = Σ_{s≥t} γ^{s-t} (a K/(K-1) (qₛ - Σⱼ q̄ⱼ / K) + 1[s last] c (r - b)), "
            "q ← q / max |Σ_{s≥t} qₛ| of the batch",
            "polopt.math.process:prime_reference_advantage",
            _STREAMS,
            factory=True,
            takes=_LEAVE_ONE_OUT,
            traits=frozenset({"sums"}),
            roles=("process_reward", "reference"),
            losses=("outcome_labels",),
            replaces=_OTHERS_INSIDE,
            domains=OF_LANGUAGE,
        ),
    },
)
WITH_CRITIC = tuple(name for name, one in COLUMN.choices.items() if "critic" in one.roles)
WITH_PROCESS = tuple(n for n, one in COLUMN.choices.items() if "process_reward" in one.roles)
SUMS = tuple(name for name, one in COLUMN.choices.items() if "sums" in one.traits)
OF_PROCESS = needs("credit.returns", *WITH_PROCESS)
