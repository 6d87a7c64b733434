"""Regularisation towards the reference: the estimator, where it acts, and its coefficient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.domain import OF_LANGUAGE
from polopt.choices.section import (
    Count,
    Counted,
    NonNegative,
    PositiveFloat,
    PositiveShare,
    Section,
    Series,
    Values,
    by_row,
    needs_some,
)
from polopt.choices.update import optimiser_steps

_CONTROLLERS = "polopt.math.controllers:"
_WITH_KL = needs_some("kl.coefficient")


_PULL = ("kl/measured", "response/length", "advantage_std")
_LEAST_PULL = 0.01  # of the spread of the advantages


def _pulls_nothing(values: Values, series: Series) -> str | None:
    """How strongly the KL pulls at a token, beside the advantages.

    In the loss of k2 a token's gradient is weighed by β d, and by A for what it earned; d is the
    log-ratio to the reference, of which ``kl/measured`` is the sum over a response. In the reward
    β d is what comes off.
    """
    beta = series.get("kl/coefficient") or [values["kl.coefficient"]]
    a_token = (
        abs(kl) / max(n, 1.0) for kl, n in zip(*(series[m] for m in _PULL[:2]), strict=False)
    )
    pull = max(beta) * max(a_token)
    spread = sum(series["advantage_std"]) / len(series["advantage_std"])
    if not 0 < pull < _LEAST_PULL * spread:
        return None
    return f"it pulls at a token with {pull:.1g} at most, and advantages spread by {spread:.2g}"


def _never_reached(values: Values, series: Series) -> str | None:
    largest = max(series["kl/measured"])
    return (
        None
        if largest >= values["kl.target"]
        else f"the KL never reached it, {largest:.3g} at most"
    )


class KL(Section):
    """Regularisation towards the reference."""

    coefficient: Annotated[NonNegative | None, by_row(0.0), Counted(_PULL, _pulls_nothing)] = Field(
        default=None, description="beta; 0: no reference is loaded"
    )
    # In the loss k2 is the one with the gradient of the KL divergence.
    estimator: Annotated[Literal["k1", "k2", "k3"] | None, by_row("k2"), _WITH_KL] = Field(
        default=None, description="of KL(pi, pi_ref)"
    )
    placement: Annotated[Literal["reward", "loss"] | None, by_row("loss"), _WITH_KL] = Field(
        default=None, description="where it acts"
    )
    importance_corrected: Annotated[bool | None, by_row(False)] = Field(
        default=None, description="in the loss: the estimate is multiplied by pi / pi_old"
    )
    controller: Annotated[Literal["fixed", "ziegler", "ppo"] | None, by_row("fixed"), _WITH_KL] = (
        Field(default=None, description="how the coefficient follows the KL that is measured")
    )
    target: Annotated[PositiveFloat | None, by_row(), Counted(("kl/measured",), _never_reached)] = (
        Field(
            default=None,
            description="KL to hold: summed over the tokens of a response, mean over responses",
        )
    )
    horizon: Annotated[PositiveFloat | None, by_row(10_000.0)] = Field(  # Ziegler 1909.08593
        default=None,
        description="ziegler: responses over which the coefficient changes by a fifth at most",
    )
    refresh_every: Annotated[Count, _WITH_KL] = Field(
        default=0, description="batches after which the reference follows the policy; 0: never"
    )
    refresh_rate: Annotated[PositiveShare, needs_some("kl.refresh_every")] = Field(
        default=1.0, description="share of the way that it goes; 1: it becomes the policy"
    )


def _notes(values: Values) -> Iterator[str]:
    """Penalties whose gradient is, on average, not that of KL(π‖π_ref).

    In the loss that is the divergence token by token, where the samples are those of π_old; in the
    reward that of whole responses, at the policy that sampled. 2510.01555, 2512.21852.
    """
    placement, estimator = values["kl.placement"], values["kl.estimator"]
    steps, corrected = optimiser_steps(values), values["kl.importance_corrected"]
    sampled_by_reference = values["kl.refresh_every"] == 1 and values["kl.refresh_rate"] == 1
    if values["kl.coefficient"] and sampled_by_reference and (placement == "reward" or steps == 1):
        yield (
            "kl.refresh_every = 1 makes the reference the policy that sampled: the KL of "
            f"{'its responses is 0' if placement == 'reward' else 'the one step is 0'}"
        )
    match placement, estimator:
        case "reward", "k2" | "k3":
            yield (
                f"kl.estimator = {estimator} in the reward does not have the gradient of the "
                "KL divergence; k1 has"
            )
        case "loss", "k2" if corrected:
            yield (
                "kl.importance_corrected: multiplied by the ratio, k2 does not have the gradient "
                "of the KL divergence; k1 and k3 have"
            )
        case "loss", _ if corrected:
            pass
        case "loss", "k1":
            later = "; after the first step of a batch it drives the policy away from that sampled"
            yield (
                "kl.estimator = k1 in the loss has gradient 0 on average"
                f"{later if steps > 1 else ''}; {_repair(steps)}"
            )
        case "loss", "k3":
            yield (
                "kl.estimator = k3 in the loss has the gradient of KL(pi_ref, pi), not of "
                f"KL(pi, pi_ref); {_repair(steps)}"
            )
        case "loss", "k2" if steps > 1:
            yield (
                "kl.estimator = k2 in the loss has the gradient of the KL divergence in the first "
                f"of {steps} optimiser steps of a batch only; {_repair(steps)}"
            )
        case _:
            pass


def _repair(steps: int) -> str:
    """What has the gradient of the divergence in the loss; k2 has it where the ratio is 1."""
    corrected = "k1 or k3 with kl.importance_corrected = true has it"
    return corrected if steps > 1 else f"k2 has it, {corrected.removesuffix(' has it')} too"


ESTIMATOR = Column(
    "estimator",
    "kl.estimator",
    {
        "k1": Choice("polopt.math.divergence:k1", "k1 = d, with d = log π - log π_ref"),
        "k2": Choice("polopt.math.divergence:k2", "k2 = d² / 2, with d = log π - log π_ref"),
        "k3": Choice(
            "polopt.math.divergence:k3", "k3 = e^{-d} - 1 + d, with d = log π - log π_ref"
        ),
    },
    notes=_notes,
)
PLACEMENT = Column(
    "placement",
    "kl.placement",
    {
        "reward": Choice(
            "polopt.credit.shaping:kl_penalty",
            "rₜ ← rₜ - β k(dₜ)",
            "polopt.math.shaping:kl_penalty",
            domains=OF_LANGUAGE,
        ),
        "loss": Choice(
            "polopt.objective.policy_gradient:KLTerm",
            "ℓₜ ← ℓₜ + β k(dₜ)",
            reads=("kl.importance_corrected",),
            domains=OF_LANGUAGE,
        ),
    },
)
CONTROLLER = Column(
    "controller",
    "kl.controller",
    {
        "fixed": Choice(_CONTROLLERS + "fixed", "β"),
        "ziegler": Choice(
            _CONTROLLERS + "ziegler_update",
            "β ← β (1 + e n / horizon), e = clip(KL / target - 1, -0.2, 0.2)",
            arguments={"target": "kl.target", "horizon": "kl.horizon"},
            domains=OF_LANGUAGE,
        ),
        "ppo": Choice(
            _CONTROLLERS + "ppo_update",
            "β ← β / 2 where KL < target / 1.5, 2 β where KL > 1.5 target",
            arguments={"target": "kl.target"},
            domains=OF_LANGUAGE,
        ),
    },
)
